"""Symbolic audio model: named variants, parameter names. What it computes: tests/model/core/test_perceiver_ar.py"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from perceiver.model.audio import symbolic
from perceiver.model.audio.symbolic import backend
from perceiver.model.audio.symbolic.backend import SymbolicAudioModel, SymbolicAudioModelConfig
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig
from perceiver.processing import midi as midi_processor
from tests.model.helpers import GOLDEN, golden_cases, golden_parameters, json_copy


def test_public_names() -> None:
    """Those of the published library, and all that the package lists."""
    published = {"SymbolicAudioModel", "LitSymbolicAudioModel", "PerceiverSymbolicAudioModel", "convert_checkpoint"}
    assert published <= set(symbolic.__all__)
    for name in symbolic.__all__:
        found = getattr(symbolic, name)
        assert callable(found) and found.__name__ == name and found.__doc__


@pytest.mark.parametrize(
    "variant, num_parameters",
    [(backend.perceiver_ar_maestro, 28_531_712), (backend.perceiver_ar_giantmidi, 134_840_832)],
)
def test_parameter_counts_of_the_variants(variant: Callable[[], SymbolicAudioModelConfig], num_parameters: int) -> None:
    config = variant()
    with torch.device("meta"):
        model = SymbolicAudioModel(config)
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    # By hand: embedding; cross-attention and its MLP, self-attention layers, with their norms; output norm.
    c, layers = config.num_channels, config.num_self_attention_layers
    cross = 4 * c * c + c + 4 * c + (2 * c + 8 * c * c)
    self_attention = layers * (4 * c * c + 2 * c + (2 * c + 8 * c * c))
    assert 389 * c + cross + self_attention + 2 * c == num_parameters


def test_published_file_has_as_many_parameters() -> None:
    """In float32 it has 539 MB."""
    with torch.device("meta"):
        model = SymbolicAudioModel(backend.perceiver_ar_giantmidi())
    assert round(sum(p.numel() for p in model.parameters()) * 4 / 1e6) == 539


@pytest.mark.parametrize("config", [SymbolicAudioModelConfig(), backend.perceiver_ar_giantmidi()])
def test_config_survives_json(config: SymbolicAudioModelConfig) -> None:
    assert SymbolicAudioModelConfig.from_dict(json_copy(config)) == config


def test_vocabulary_is_that_of_the_data() -> None:
    """All other defaults are those of causal sequence models."""
    config = SymbolicAudioModelConfig()
    assert (config.vocab_size, backend.PAD_TOKEN_ID) == (midi_processor.VOCAB_SIZE, midi_processor.PAD)
    assert json_copy(config) == json_copy(CausalSequenceModelConfig(vocab_size=389))


def golden_model(model_class: type[CausalSequenceModel] = SymbolicAudioModel) -> CausalSequenceModel:
    values = json.loads((GOLDEN / "sam" / "hub" / "config.json").read_text())["model_config"]
    model = model_class(SymbolicAudioModelConfig.from_dict(values)).eval()
    parameters = golden_parameters("sam")
    del parameters["input_adapter.frq_pos_encoding.inv_freq"]  # a published buffer, which is computed here
    model.load_state_dict(parameters)
    return model


def test_parameter_names_are_the_published_ones() -> None:
    lines = [line.split("\t") for line in (GOLDEN / "sam" / "keys.txt").read_text().splitlines()]
    published = {
        key.removeprefix("backend_model."): (json.loads(shape), dtype)
        for key, shape, dtype in lines
        if not key.endswith("inv_freq")
    }
    state_dict = golden_model().state_dict()
    assert {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state_dict.items()} == published


@pytest.mark.parametrize("model_class", [SymbolicAudioModel, CausalSequenceModel])
def test_recorded_logits(model_class: type[CausalSequenceModel]) -> None:
    """Also of the sequence model of the core: nothing is added here."""
    case = golden_cases("sam", "forward")[0]
    logits = golden_model(model_class)(case.inputs["input_ids"], case.kwargs["prefix_len"], case.inputs["pad_mask"])
    torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=1e-4)
