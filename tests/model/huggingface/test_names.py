"""Name maps between transformers' Perceiver and ours: one to one, complete, and strict about the rest."""

from __future__ import annotations

import pytest
import torch

from perceiver.model.core.layers import MLP, AttentionLayer, CrossAttention
from perceiver.model.core.resampler import PerceiverResampler
from perceiver.model.huggingface.names import idefics_resampler, perceiver_names, renamed
from tests.model.helpers import mlm_model


@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_without_residual_has_the_same_names_there(residual: bool) -> None:
    attention = CrossAttention(num_heads=1, num_q_input_channels=2, num_kv_input_channels=3)
    layer = AttentionLayer(attention, MLP(2, 1), attention_residual=residual)
    names = perceiver_names([f"x.{name}" for name in layer.state_dict()], {"x": "y.z"})
    assert len(set(names.values())) == len(names)
    assert all(name.startswith("y.z.") for name in names.values())
    assert names["x.1.module.3.bias"] == "y.z.mlp.dense2.bias"
    q_proj = f"x.0.{'module.' if residual else ''}attention.q_proj.weight"
    assert names[q_proj] == "y.z.attention.self.query.weight"


def test_encoder_names_are_one_to_one() -> None:
    names = perceiver_names([name for name in mlm_model().state_dict() if ".self_attn_1." in name], {})
    assert len(set(names.values())) == len(names)
    key = "0.self_attn_1.1.0.module.attention.k_proj.weight"
    assert names[key] == "perceiver.encoder.self_attends.1.attention.self.key.weight"
    with pytest.raises(ValueError, match=r"transformers' Perceiver has no 1\.something"):
        perceiver_names(["1.something"], {})


def test_resampler_names_are_those_of_the_module_and_one_to_one() -> None:
    names = idefics_resampler(2)
    assert set(names) == set(PerceiverResampler(4, num_latents=3, num_layers=2, num_heads=1).state_dict())
    assert len(set(names.values())) == len(names)


def test_renaming() -> None:
    a, b = torch.zeros(2), torch.ones(3)
    result = renamed({"their.a": a, "their.b": b}, {"a": "their.a", "b": "their.b"})
    assert result["a"] is a and result["b"] is b and len(result) == 2


@pytest.mark.parametrize("present", [["their.a"], ["their.a", "their.b", "their.c"]])
def test_missing_and_unknown_parameters_are_named(present: list[str]) -> None:
    name = {1: r"their\.b", 3: r"their\.c"}[len(present)]
    with pytest.raises(ValueError, match=f"can't be converted: {name}$"):
        renamed({key: torch.zeros(1) for key in present}, {"a": "their.a", "b": "their.b"})
