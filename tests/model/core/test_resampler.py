"""Resampler: layers by hand, padding, frames, long inputs and errors. Parity is in tests/parity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.resampler import PerceiverResampler
from tests.model.core.test_attention import LargestTensor
from tests.model.helpers import gradients, randomise_vectors

B, T, M, N, C = 2, 3, 5, 7, 6


def resampler(**kwargs: Any) -> PerceiverResampler:
    model = PerceiverResampler(C, **({"num_latents": N, "num_layers": 2, "num_heads": 3, "init_scale": 0.5} | kwargs))
    randomise_vectors(model)
    return model


def by_hand(model: PerceiverResampler, x: Tensor) -> Tensor:
    """Features (M, C) of one example -> (N, C)"""
    latents = model.latent_provider._query
    for attention, mlp in model.layers:
        q_norm, kv_norm, heads = attention.module.q_norm, attention.module.kv_norm, attention.module.attention
        kv = torch.cat([kv_norm(x), q_norm(latents)])
        q, k, v = q_norm(latents) @ heads.q_proj.weight.T, kv @ heads.k_proj.weight.T, kv @ heads.v_proj.weight.T
        parts = []
        for q_h, k_h, v_h in zip(*(y.chunk(heads.num_heads, dim=1) for y in (q, k, v)), strict=True):
            parts.append((q_h @ k_h.T / q_h.shape[1] ** 0.5).softmax(dim=1) @ v_h)
        latents = latents + torch.cat(parts, dim=1) @ heads.o_proj.weight.T
        norm, up, activation, down = mlp.module
        latents = latents + activation(norm(latents) @ up.weight.T) @ down.weight.T
    result: Tensor = model.norm(latents)
    return result


@pytest.mark.parametrize("num_inputs", [0, 1, 5, 50])
@pytest.mark.parametrize(
    "kwargs", [{}, {"num_qk_channels": 12}, {"activation": nn.ReLU, "widening_factor": 2}], ids=str
)
def test_layers_by_hand(kwargs: dict[str, Any], num_inputs: int) -> None:
    model, x = resampler(**kwargs), torch.randn(B, num_inputs, C)
    result = model(x)
    assert result.shape == (B, N, C)
    for b in range(B):
        torch.testing.assert_close(result[b], by_hand(model, x[b]), atol=1e-5, rtol=1e-4)


def test_no_linear_layer_has_a_bias() -> None:
    assert all(part.bias is None for part in resampler().modules() if isinstance(part, nn.Linear))


def test_initial_values() -> None:
    model = PerceiverResampler(64, num_latents=50, num_layers=1, num_frames=40, init_scale=0.3)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            torch.testing.assert_close(parameter.std(), torch.tensor(0.3), atol=0.02, rtol=0)
        else:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all()


def test_every_parameter_has_a_gradient() -> None:
    model = resampler(num_frames=T)
    model(torch.randn(B, T, M, C)).square().sum().backward()
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_features_have_no_order() -> None:
    model, x = resampler(), torch.randn(B, M, C)
    torch.testing.assert_close(model(x.flip(1)), model(x), atol=1e-5, rtol=1e-5)


# --- padding ---


def test_padding_changes_nothing() -> None:
    model, x = resampler(), torch.randn(B, M, C, requires_grad=True)
    pad_mask = torch.tensor([[True, False, False, True, False], [False, False, True, True, True]])
    result = model(x, pad_mask)
    for b in range(B):
        torch.testing.assert_close(result[b : b + 1], model(x[b : b + 1, ~pad_mask[b]]), atol=1e-5, rtol=1e-5)
    result.square().sum().backward()
    assert x.grad is not None
    assert (x.grad[pad_mask] == 0).all() and (x.grad[~pad_mask] != 0).any(dim=-1).all()


def test_an_example_of_padding_alone_sees_its_latents() -> None:
    model, x = resampler(), torch.randn(B, M, C)
    result = model(x, torch.tensor([[True] * M, [False] * M]))
    torch.testing.assert_close(result[:1], model(x[:1, :0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[1:], model(x[1:]), atol=1e-5, rtol=1e-5)


# --- frames ---


@pytest.mark.parametrize("num_frames", [T, T + 2])
def test_frames_are_read_together_with_their_times(num_frames: int) -> None:
    model, x = resampler(num_frames=num_frames), torch.randn(B, T, M, C)
    pad_mask = torch.rand(B, T, M) < 0.4
    timed = torch.stack([x[:, t] + model.time_embedding.weight[t] for t in range(T)], dim=1)
    torch.testing.assert_close(model(x), model(timed.flatten(1, 2)), atol=3e-5, rtol=1e-5)
    expected = model(timed.flatten(1, 2), pad_mask.flatten(1, 2))
    torch.testing.assert_close(model(x, pad_mask), expected, atol=3e-5, rtol=1e-5)
    assert (model(x.flip(1)) - model(x)).abs().max() > 1e-2


@pytest.mark.parametrize("num_frames", [None, T - 1])
def test_more_frames_than_times(num_frames: int | None) -> None:
    with pytest.raises(ValueError, match=f"3 frames exceed num_frames={num_frames or 0} of the resampler"):
        resampler(num_frames=num_frames)(torch.randn(B, T, M, C))


# --- long inputs ---


@pytest.mark.parametrize("masked", [False, True])
def test_long_inputs_have_no_score_matrix(masked: bool) -> None:
    length, num_latents = 2000, 100
    model = PerceiverResampler(8, num_latents=num_latents, num_layers=1, num_heads=1)
    pad_mask = torch.arange(length)[None] >= length - 100 if masked else None
    with LargestTensor() as largest:
        model(torch.randn(1, length, 8), pad_mask).sum().backward()
    assert 0 < largest.numel < num_latents * length / 2


def test_compiles_to_one_graph() -> None:
    model, x, pad_mask = resampler(num_frames=T, num_layers=1), torch.randn(B, T, M, C), torch.rand(B, T, M) < 0.4
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, pad_mask), model(x, pad_mask), atol=1e-6, rtol=1e-6)


# --- errors ---


@pytest.mark.parametrize("pad_mask", [torch.zeros(B, M), torch.zeros(B, M + 1, dtype=torch.bool)])
def test_bad_pad_mask(pad_mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pad_mask is torch\.\w+ \(2, \d\), expected torch.bool \(2, 5\)"):
        resampler()(torch.randn(B, M, C), pad_mask)


@pytest.mark.parametrize("shape", [(M, C), (B, M, C + 1), (B, 2, 2, M, C)])
def test_features_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"features have shape .*, expected \(batch size, features, {C}\)"):
        resampler()(torch.randn(shape))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_latents": 0}, "0 queries of 6 channels: both must be at least 1"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"num_heads": 4}, "num_qk_channels=6 must be a positive multiple of num_heads=4"),
    ],
)
def test_bad_sizes(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampler(**kwargs)
