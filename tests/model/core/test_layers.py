"""Layers: what they add up to, residuals, and activation checkpointing that changes memory but not results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from perceiver.model.core import layers
from perceiver.model.core.cache import KeyValueCache
from perceiver.model.core.layers import (
    MLP,
    AttentionLayer,
    CrossAttention,
    PrefixCrossAttention,
    SelfAttention,
    SelfAttentionBlock,
)
from perceiver.model.core.position import RotaryPositionEmbedding
from tests.model.helpers import Case, assert_close, golden_cases, gradients, randomise_vectors

B, N, D, M, C = 2, 5, 6, 7, 11


def cross_attention(**kwargs: Any) -> CrossAttention:
    return CrossAttention(num_heads=2, num_q_input_channels=D, num_kv_input_channels=C, num_v_channels=10, **kwargs)


def cross_layer(dropout: float = 0.0, **kwargs: Any) -> AttentionLayer:
    layer = AttentionLayer(cross_attention(dropout=dropout), MLP(D, 3), **kwargs)
    randomise_vectors(layer)
    return layer


def self_layer(**kwargs: Any) -> AttentionLayer:
    layer = AttentionLayer(SelfAttention(num_heads=3, num_channels=D), MLP(D, 2), **kwargs)
    randomise_vectors(layer)
    return layer


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def test_mlp_is_norm_linear_exact_gelu_linear() -> None:
    mlp, x = MLP(D, widening_factor=3), torch.randn(B, N, D)
    randomise_vectors(mlp)
    norm, up, _, down = mlp
    hidden = layer_norm(x, norm) @ up.weight.T + up.bias
    assert hidden.shape == (B, N, 3 * D)
    activated = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(mlp(x), activated @ down.weight.T + down.bias, atol=1e-6, rtol=1e-5)


def test_residuals_add_inputs_as_they_came_in() -> None:
    layer, x = self_layer(), 5 + 3 * torch.randn(B, N, D)
    attended = x + layer.attention(x)
    torch.testing.assert_close(layer(x), attended + layer.mlp(attended))
    assert {name.split(".")[1] for name in layer.state_dict()} == {"module"}


def test_cross_attention_normalises_both_inputs() -> None:
    attention, x_q, x_kv = cross_attention(), torch.randn(B, N, D), 5 + 3 * torch.randn(B, M, C)
    randomise_vectors(attention)
    expected = attention.attention(layer_norm(x_q, attention.q_norm), layer_norm(x_kv, attention.kv_norm))
    torch.testing.assert_close(attention(x_q, x_kv), expected, atol=1e-5, rtol=1e-5)


def test_self_attention_normalises_once() -> None:
    attention, x = SelfAttention(num_heads=3, num_channels=D), 5 + 3 * torch.randn(B, N, D)
    randomise_vectors(attention)
    normed = layer_norm(x, attention.norm)
    torch.testing.assert_close(attention(x), attention.attention(normed, normed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_attention_layer_by_hand(residual: bool) -> None:
    layer, x_q, x_kv = cross_layer(attention_residual=residual).eval(), torch.randn(B, N, D), torch.randn(B, M, C)
    pad_mask = torch.zeros(B, M, dtype=torch.bool)
    pad_mask[1, 3:] = True
    attention = layer[0].module if residual else layer[0]
    x = attention(x_q, x_kv, pad_mask) + (x_q if residual else 0)
    expected = x + layer[1].module(x)  # the MLP's residual is always there
    torch.testing.assert_close(layer(x_q, x_kv, pad_mask), expected, atol=1e-6, rtol=1e-5)


def test_a_query_for_all_examples_broadcasts_through_the_residual() -> None:
    layer, x_q, x_kv = cross_layer().eval(), torch.randn(1, N, D), torch.randn(B, M, C)
    torch.testing.assert_close(layer(x_q, x_kv), layer(x_q.repeat(B, 1, 1), x_kv), atol=1e-6, rtol=1e-5)


def test_block_runs_its_layers_in_order() -> None:
    block, x = SelfAttentionBlock(self_layer(), self_layer(), self_layer()).eval(), torch.randn(B, N, D)
    expected = x
    for layer in block:
        expected = layer(expected)
    torch.testing.assert_close(block(x), expected)
    assert not torch.allclose(block(x), block[1](block[0](block[2](x))), atol=1e-3)


def test_mlp_without_bias() -> None:
    mlp, x = MLP(D, widening_factor=3, bias=False), torch.randn(B, N, D)
    randomise_vectors(mlp)
    assert set(mlp.state_dict()) == {"0.weight", "0.bias", "1.weight", "3.weight"}  # the norm keeps its own
    norm, up, _, down = mlp
    hidden = layer_norm(x, norm) @ up.weight.T
    activated = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(mlp(x), activated @ down.weight.T, atol=1e-6, rtol=1e-5)


def test_mlp_of_another_activation() -> None:
    mlp, x = MLP(D, widening_factor=3, activation=nn.ReLU), torch.randn(B, N, D)
    norm, up, _, down = mlp
    torch.testing.assert_close(mlp(x), down(up(norm(x)).clamp(min=0)))


def test_residual_dropout_acts_on_what_attention_and_mlp_add_in_training_only() -> None:
    x = torch.randn(1, N, D)
    layer = self_layer(residual_dropout=0.4).eval()
    attended = x + layer.attention(x)
    torch.testing.assert_close(layer(x), attended + layer.mlp(attended))
    for part in ("attention", "mlp"):  # without what the other one adds
        other = {"attention": "mlp", "mlp": "attention"}[part]
        samples = layer.train()
        handle = getattr(samples, other).register_forward_hook(lambda module, inputs, output: 0 * output)
        added = (samples(x.expand(10_000, -1, -1)) - x).detach()
        handle.remove()
        expected = getattr(layer, part)(x).detach() / 0.6
        kept = added.abs() > 1e-6
        torch.testing.assert_close(kept.float().mean(0), torch.full((N, D), 0.6), atol=0.03, rtol=0)
        torch.testing.assert_close(added[kept], expected.expand(10_000, -1, -1)[kept], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_residual_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"residual_dropout={dropout} must be in \[0, 1\)"):
        self_layer(residual_dropout=dropout)


# --- Perceiver AR ---


def test_prefix_has_a_norm_of_its_own() -> None:
    attention = PrefixCrossAttention(num_heads=2, num_channels=D)
    randomise_vectors(attention)
    x, x_prefix = 5 + 3 * torch.randn(B, N, D), 5 + 3 * torch.randn(B, M, D)
    queries = layer_norm(x, attention.q_norm)
    x_kv = torch.cat([layer_norm(x_prefix, attention.kv_norm), queries], dim=1)
    expected = attention.attention(queries, x_kv)
    torch.testing.assert_close(attention(x, x_prefix), expected, atol=1e-5, rtol=1e-5)
    no_prefix = attention(x, x_prefix[:, :0])
    torch.testing.assert_close(no_prefix, attention.attention(queries, queries), atol=1e-5, rtol=1e-5)


def test_without_causality_all_positions_see_all() -> None:
    attention = PrefixCrossAttention(num_heads=2, num_channels=D, causal=False)
    x, x_prefix = torch.randn(B, N, D), torch.randn(B, M, D)
    torch.testing.assert_close(attention(x.flip(1), x_prefix).flip(1), attention(x, x_prefix), atol=1e-5, rtol=1e-5)


def load(module: nn.Module, case: Case) -> None:
    prefix = "param."
    module.load_state_dict({k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)})


@pytest.mark.parametrize("case", golden_cases("pieces", "cross_attention_layer"), ids=lambda case: case.name)
def test_recorded_prefix_cross_attention(case: Case) -> None:
    """In one call, and one query after the other with a cache."""
    kwargs, x, x_prefix = case.kwargs, case.inputs["x_q"], case.inputs["x_kv_prefix"]
    channels = kwargs["num_q_input_channels"]
    layer = AttentionLayer(
        PrefixCrossAttention(num_heads=kwargs["num_heads"], num_channels=channels),
        MLP(channels, kwargs["widening_factor"]),
        attention_residual=kwargs["attention_residual"],
    ).eval()
    load(layer, case)
    torch.testing.assert_close(layer(x, x_prefix), case.outputs["out"], atol=1e-5, rtol=1e-5)
    cache = KeyValueCache(window=100)
    steps = [layer(x[:, i : i + 1], x_prefix[:, : 0 if i else None], cache=cache) for i in range(x.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), case.outputs["out"], atol=1e-5, rtol=1e-5)


def test_recorded_self_attention_block() -> None:
    """The first layers are rotary, with a cache and without."""
    (case,) = golden_cases("pieces", "self_attention_block")
    kwargs, x = case.kwargs, case.inputs["x"]
    channels = {name: kwargs[name] for name in ("num_heads", "num_channels", "num_qk_channels", "num_v_channels")}
    block = SelfAttentionBlock(
        *(
            AttentionLayer(SelfAttention(causal=True, **channels), MLP(8, kwargs["widening_factor"]))
            for _ in range(kwargs["num_layers"])
        )
    ).eval()
    load(block, case)
    rotary = RotaryPositionEmbedding.from_angles(case.inputs["frq_pos_enc"][..., ::2])
    caches = [KeyValueCache(window=100) for _ in block]
    whole, steps = x, [x[:, i : i + 1] for i in range(x.shape[1])]
    for i, layer in enumerate(block):
        layer_rotary = rotary if i < kwargs["num_rotary_layers"] else None
        whole = layer(whole, rotary=layer_rotary)
        for n, step in enumerate(steps):
            now = (
                None
                if layer_rotary is None
                else RotaryPositionEmbedding(rotary.cos[:, :, : n + 1], rotary.sin[:, :, : n + 1])
            )
            steps[n] = layer(step, rotary=now, cache=caches[i])
    torch.testing.assert_close(whole, case.outputs["out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(steps, dim=1), case.outputs["out"], atol=1e-5, rtol=1e-5)


# --- activation checkpointing ---


def outputs_and_gradients(layer: AttentionLayer, dropout_seed: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    x_q, x_kv = torch.randn(B, N, D, requires_grad=True), torch.randn(B, M, C, requires_grad=True)
    torch.manual_seed(dropout_seed)
    result = layer(x_q, x_kv, torch.arange(M).repeat(B, 1) > 4)
    result.square().sum().backward()
    assert x_q.grad is not None and x_kv.grad is not None
    return result.detach(), gradients(layer) | {"x_q": x_q.grad, "x_kv": x_kv.grad}


def pair(**kwargs: Any) -> tuple[AttentionLayer, AttentionLayer]:
    plain, other = cross_layer(kwargs.get("dropout", 0.0)), cross_layer(**kwargs)
    other.load_state_dict(plain.state_dict())
    return plain, other


@pytest.mark.parametrize("offloading", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("residual", [True, False])
def test_checkpointing_changes_no_output_and_no_gradient(offloading: bool, dropout: float, residual: bool) -> None:
    plain, checkpointing = pair(dropout=dropout, activation_checkpointing=True, activation_offloading=offloading)
    (expected, expected_gradients), (result, result_gradients) = map(outputs_and_gradients, (plain, checkpointing))
    torch.testing.assert_close(result, expected)
    assert_close(result_gradients, expected_gradients)


@contextmanager
def saved_shapes() -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the tensors that are kept for the backward pass."""
    shapes: list[tuple[int, ...]] = []

    def pack(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        yield shapes


def test_checkpointing_keeps_only_the_inputs() -> None:
    plain, checkpointing = pair(activation_checkpointing=True)
    x_q, x_kv = torch.randn(B, N, D, requires_grad=True), torch.randn(B, M, C, requires_grad=True)
    with saved_shapes() as kept:
        checkpointing(x_q, x_kv)
    assert sorted(shape for shape in kept if shape != (0,)) == [(B, N, D), (B, M, C)]
    with saved_shapes() as kept:
        plain(x_q, x_kv)
    assert len(kept) > 10


def test_evaluation_does_not_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(layers, "checkpoint", lambda function, *args, use_reentrant: calls.append(1) or function(*args))
    layer = cross_layer(activation_checkpointing=True)
    x_q, x_kv = torch.randn(B, N, D), torch.randn(B, M, C)
    layer.eval()(x_q, x_kv)
    assert not calls
    layer.train()(x_q, x_kv)
    assert calls == [1]


def test_offloading_without_checkpointing() -> None:
    with pytest.raises(ValueError, match="activation_offloading needs activation_checkpointing"):
        cross_layer(activation_offloading=True)


@pytest.mark.parametrize("by_transformers", [False, True])  # its switch replaces the checkpoint function
@pytest.mark.parametrize("offloading", [True, False])
def test_offloading_moves_the_inputs_only(
    monkeypatch: pytest.MonkeyPatch, offloading: bool, by_transformers: bool
) -> None:
    moved: list[tuple[int, ...]] = []

    @contextmanager
    def save_on_cpu(pin_memory: bool) -> Iterator[None]:
        with saved_shapes() as shapes:
            yield
        moved.extend(shapes)

    monkeypatch.setattr(layers, "save_on_cpu", save_on_cpu)
    layer = cross_layer(activation_checkpointing=True, activation_offloading=offloading)
    if by_transformers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    outputs_and_gradients(layer)
    expected = [(B, N, D), (B, M, C), (B, M)] if offloading else []
    assert sorted(shape for shape in moved if shape != (0,)) == sorted(expected)
