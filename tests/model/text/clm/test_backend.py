"""Causal language model: named variants, parameter names. What it computes: tests/model/core/test_perceiver_ar.py"""

from __future__ import annotations

import json

import pytest
import torch

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.text.clm import backend
from perceiver.model.text.clm.backend import CausalLanguageModel, CausalLanguageModelConfig
from tests.model.clm_helpers import CLM_MODELS, clm_config, clm_model, golden_clm
from tests.model.helpers import GOLDEN, json_copy, token_ids


@pytest.mark.parametrize(
    "variant, num_parameters",
    [(backend.perceiver_ar_byte_base, 30_563_078), (backend.perceiver_ar_xlnet_base, 455_290_880)],
)
def test_parameter_counts_of_the_variants(variant: object, num_parameters: int) -> None:
    assert callable(variant)
    config = variant()
    with torch.device("meta"):
        model = CausalLanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    # By hand: embeddings and output bias; cross-attention and its MLP, self-attention layers, with their norms.
    c, layers, v, n = config.num_channels, config.num_self_attention_layers, config.vocab_size, config.max_seq_len
    cross = 4 * c * c + c + 4 * c + (2 * c + 8 * c * c)
    self_attention = layers * (4 * c * c + 2 * c + (2 * c + 8 * c * c))
    assert (v + n) * c + v + cross + self_attention == num_parameters


def test_default_config_is_the_byte_model() -> None:
    assert CausalLanguageModelConfig() == backend.perceiver_ar_byte_base()


@pytest.mark.parametrize("config", [backend.perceiver_ar_byte_base(), backend.perceiver_ar_xlnet_base(), clm_config()])
def test_config_survives_json(config: CausalLanguageModelConfig) -> None:
    assert CausalLanguageModelConfig.from_dict(json_copy(config)) == config


def test_config_of_old_files_lacks_fields() -> None:
    """0.8 has none of these: the defaults apply."""
    new = ("num_self_attention_rotary_layers", "residual_dropout", "output_bias", "abs_pos_emb")
    values = {name: value for name, value in json_copy(CausalLanguageModelConfig()).items() if name not in new}
    assert CausalLanguageModelConfig.from_dict(values) == CausalLanguageModelConfig()
    with pytest.raises(
        ValueError, match="CausalLanguageModelConfig has no field num_latents; its fields are num_heads"
    ):
        CausalLanguageModelConfig.from_dict({"num_latents": 3})


@pytest.mark.parametrize("name", CLM_MODELS)
def test_parameter_names_are_the_published_ones(name: str) -> None:
    lines = [line.split("\t") for line in (GOLDEN / name / "keys.txt").read_text().splitlines()]
    published = {
        key.removeprefix("backend_model."): (json.loads(shape), dtype)
        for key, shape, dtype in lines
        if not key.endswith("inv_freq")  # stored there, computed here
    }
    found = {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in golden_clm(name).state_dict().items()}
    assert found == published


def test_is_the_sequence_model_of_the_core() -> None:
    """Text and symbolic audio share it: nothing is added here."""
    model = clm_model()
    other = CausalSequenceModel(clm_config()).eval()
    other.load_state_dict(model.state_dict())
    x = token_ids(2, 9)
    torch.testing.assert_close(model(x, 5), other(x, 5), atol=1e-4, rtol=1e-5)
