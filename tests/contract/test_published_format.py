"""Contracts 2 and 3: files of perceiver-io 0.8 to 0.11 load as they are, keys and values, and give equal outputs.

What the single parts do with these files is tested beside the parts; here stands the contract as a whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForMaskedLM

from perceiver.model.core.checkpoint import COMPUTED_BUFFERS
from perceiver.model.text import mlm
from perceiver.model.vision import image_classifier, optical_flow
from perceiver.processing.optical_flow import OpticalFlowProcessor
from tests.model.helpers import GOLDEN, LIT_CKPTS, MODELS, golden_cases, golden_parameters, mlm_config, mlm_model
from tests.model.vision.image_classifier.helpers import img_config, img_model
from tests.model.vision.optical_flow.helpers import flow_config, flow_model

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
    """Parameter names of the published format, written out, independent of recorded files."""
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


# --- vision ---

IMAGE_CLASSES = (
    AutoModelForImageClassification,
    image_classifier.PerceiverImageClassifier,
    image_classifier.LitImageClassifier,
)
VISION: dict[str, tuple[Any, Any, Any]] = {
    "img_clf_mnist": IMAGE_CLASSES,
    "img_clf_fourier": IMAGE_CLASSES,
    "optical_flow": (AutoModel, optical_flow.OpticalFlowPerceiver, optical_flow.LitOpticalFlow),
}
every_vision_model = pytest.mark.parametrize("name", VISION)


def own_keys(name: str) -> dict[str, tuple[list[int], str]]:
    """The published ones without computed buffers."""
    return {key: value for key, value in published_keys(name).items() if not key.endswith(COMPUTED_BUFFERS)}


@every_vision_model
def test_vision_keys_are_frozen(name: str) -> None:
    model = VISION[name][0].from_pretrained(GOLDEN / name / "hub")
    found = {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    assert found == own_keys(name)
    computed = {key for key in published_keys(name) if key.endswith(COMPUTED_BUFFERS)}
    assert computed == {"backend_model.0.input_adapter.position_encoding.position_encoding"}


@every_vision_model
def test_prefixes_of_the_three_layers_of_vision(name: str) -> None:
    auto, hf_class, lit_class = VISION[name]
    backend = {key.removeprefix("backend_model.") for key in own_keys(name)}
    config = auto.from_pretrained(GOLDEN / name / "hub").config.backend_config
    lit_model = lit_class.create(config, params=str(GOLDEN / name / "hub"))
    assert set(lit_model.backend_model.state_dict()) == backend
    assert set(lit_model.state_dict()) == {f"model.{key}" for key in backend}
    assert set(hf_class(hf_class.config_class(config)).state_dict()) == {f"backend_model.{key}" for key in backend}


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("repeated", [True, False])
def test_image_classifier_keys_by_the_rules(repeated: bool, queries: int) -> None:
    encoder: dict[str, Any] = {
        "num_cross_attention_layers": 2,
        "num_self_attention_blocks": 3,
        "first_self_attention_block_shared": False,
    }
    model = img_model(img_config(encoder if repeated else None, {"num_output_queries": queries}))
    expected = {"0.latent_provider._query", "1.output_query_provider._query"}
    for suffix in ("1", "n") if repeated else ("1",):
        expected |= {f"0.cross_attn_{suffix}.{key}" for key in cross_attention_keys()}
        expected |= {f"0.self_attn_{suffix}.{i}.{key}" for i in range(2) for key in self_attention_keys()}
    expected |= {f"1.cross_attn.{key}" for key in cross_attention_keys()}
    assert set(model.state_dict()) == expected | {"1.output_adapter.linear.weight", "1.output_adapter.linear.bias"}


@pytest.mark.parametrize("residual", [True, False])
def test_optical_flow_keys_by_the_rules(residual: bool) -> None:
    model = flow_model(flow_config(decoder={"cross_attention_residual": residual}))
    expected = {"0.latent_provider._query"} | {f"0.cross_attn_1.{key}" for key in cross_attention_keys()}
    expected |= {f"0.self_attn_1.{i}.{key}" for i in range(2) for key in self_attention_keys()}
    expected |= {f"1.cross_attn.{key}" for key in cross_attention_keys(residual)}
    linear = {
        f"{part}.linear.{kind}" for part in ("0.input_adapter", "1.output_adapter") for kind in ("weight", "bias")
    }
    assert set(model.state_dict()) == expected | linear


@every_vision_model
def test_every_way_to_load_vision_models_gives_the_recorded_logits(name: str, tmp_path: Path) -> None:
    (auto, hf_class, lit_class), hub = VISION[name], GOLDEN / name / "hub"
    hf_class.from_pretrained(hub).save_pretrained(tmp_path)
    config = auto.from_pretrained(hub).config.backend_config
    files = sorted(hub.parent.glob("*.ckpt"))
    models = [
        *(auto.from_pretrained(folder).backend_model for folder in (hub, tmp_path)),
        *(hf_class.from_checkpoint(file).backend_model for file in files),
        *(lit_class.load_from_checkpoint(file).backend_model.eval() for file in files),
        *(lit_class.create(config, params=str(source)).backend_model.eval() for source in (*files, hub, tmp_path)),
    ]
    assert len(models) == 4 + 3 * {"img_clf_mnist": 2, "img_clf_fourier": 1, "optical_flow": 0}[name]
    (case,) = golden_cases(name, "forward")
    x = case.inputs.get("inputs")
    if x is None:
        frames = (case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy())
        x = OpticalFlowProcessor(patch_size=config.encoder.image_shape).preprocess(frames)
    for model in models:
        with torch.no_grad():
            torch.testing.assert_close(model(x), case.outputs["logits"], atol=1e-4, rtol=1e-4)
