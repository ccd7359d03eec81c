"""Contracts 2 and 3: files of perceiver-io 0.8 to 0.11 load as they are, keys and values, and give equal outputs.

What the single parts do with these files is tested beside the parts; here stands the contract as a whole.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from perceiver.model.text import mlm
from tests.model.helpers import GOLDEN, LIT_CKPTS, MODELS, golden_cases, golden_parameters, mlm_config, mlm_model

every_model = pytest.mark.parametrize("name", MODELS)


def published_keys(name: str) -> dict[str, tuple[list[int], str]]:
    """Name -> shape and dtype, as recorded from the published files."""
    lines = [line.split("\t") for line in (GOLDEN / name / "keys.txt").read_text().splitlines()]
    return {key: (json.loads(shape), dtype) for key, shape, dtype in lines}


@every_model
def test_state_dict_keys_are_frozen(name: str) -> None:
    model = AutoModelForMaskedLM.from_pretrained(GOLDEN / name / "hub")
    found = {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    assert found == published_keys(name)


@every_model
def test_prefixes_of_the_three_layers(name: str) -> None:
    backend = [key.removeprefix("backend_model.") for key in published_keys(name)]
    file = GOLDEN / name / "lit.ckpt"
    lit_model = mlm.LitMaskedLanguageModel.load_from_checkpoint(file)
    assert set(lit_model.backend_model.state_dict()) == set(backend)
    assert set(lit_model.state_dict()) == {f"model.{key}" for key in backend}
    hf_model = mlm.PerceiverMaskedLanguageModel.from_checkpoint(file)
    assert set(hf_model.state_dict()) == {f"backend_model.{key}" for key in backend}


LAYER = {f"1.module.{i}.{kind}" for i in (0, 1, 3) for kind in ("weight", "bias")}
PROJECTIONS = {f"attention.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")}
NORMS = {f"{norm}.{kind}" for norm in ("q_norm", "kv_norm") for kind in ("weight", "bias")}


def cross_attention_keys(residual: bool = True) -> set[str]:
    return {f"0.{'module.' if residual else ''}{key}" for key in PROJECTIONS | NORMS} | LAYER


def self_attention_keys() -> set[str]:
    return {f"0.module.{key}" for key in PROJECTIONS | {"norm.weight", "norm.bias"}} | LAYER


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("repeated", [True, False])
def test_keys_by_the_rules(tied: bool, residual: bool, repeated: bool) -> None:
    """FORMATS, state-dict keys: written out, independent of recorded files."""
    encoder = {
        "num_cross_attention_layers": 2,
        "num_self_attention_blocks": 2,
        "first_self_attention_block_shared": False,
    }
    decoder = {"cross_attention_residual": residual, "num_output_query_channels": None if tied else 14}
    model = mlm_model(mlm_config(encoder if repeated else None, decoder))
    expected = {
        "0.latent_provider._query",
        "0.input_adapter.txt_embedding.weight",
        "0.input_adapter.pos_embedding.weight",
    }
    for suffix in ("1", "n") if repeated else ("1",):
        expected |= {f"0.cross_attn_{suffix}.{key}" for key in cross_attention_keys()}
        expected |= {f"0.self_attn_{suffix}.{i}.{key}" for i in range(2) for key in self_attention_keys()}
    expected |= {f"1.cross_attn.{key}" for key in cross_attention_keys(residual)} | {"1.output_query_provider._query"}
    linear = {"1.output_adapter.linear.weight", "1.output_adapter.linear.bias"}
    expected |= {"1.output_adapter.bias"} if tied else linear
    assert set(model.state_dict()) == expected


@every_model
def test_every_way_to_load_gives_the_recorded_logits(name: str, tmp_path: Path) -> None:
    hub = GOLDEN / name / "hub"
    mlm.PerceiverMaskedLanguageModel.from_pretrained(hub).save_pretrained(tmp_path / "saved")
    config = AutoModelForMaskedLM.from_pretrained(hub).config.backend_config
    files = [file for file in LIT_CKPTS if file.parent.name == name]
    models = [
        *(AutoModelForMaskedLM.from_pretrained(folder).backend_model for folder in (hub, tmp_path / "saved")),
        *(mlm.PerceiverMaskedLanguageModel.from_checkpoint(file).backend_model for file in files),
        *(mlm.LitMaskedLanguageModel.load_from_checkpoint(file).backend_model.eval() for file in files),
        *(
            mlm.LitMaskedLanguageModel.create(config, params=str(source)).backend_model.eval()
            for source in (*files, hub, tmp_path / "saved")
        ),
    ]
    assert len(models) >= 8
    for case in golden_cases(name, "forward"):
        mask = case.inputs.get("attention_mask")
        for model in models:
            with torch.no_grad():
                logits = model(case.inputs["input_ids"], None if mask is None else mask == 0)
            torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=1e-4)


@every_model
def test_golden_data_is_what_it_says(name: str) -> None:
    assert {f"backend_model.{key}" for key in golden_parameters(name)} == published_keys(name).keys()
