"""Parity with transformers' Idefics resampler with random weights, converted: equal outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from perceiver.model.core.resampler import PerceiverResampler
from perceiver.model.huggingface.names import idefics_resampler, renamed

C, N = 12, 7


def idefics(depth: int, heads: int, head_size: int, *, norms: bool = False) -> IdeficsPerceiverResampler:
    """All parameters are random, norms, too."""
    config = IdeficsConfig(vision_config={"embed_dim": C}, perceiver_config={"qk_layer_norms_perceiver": norms})
    model = IdeficsPerceiverResampler(config, C, depth, heads, head_size, N).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("depth, heads, head_size", [(1, 3, 4), (2, 2, 5), (3, 1, 30)])
def test_outputs_and_gradients_are_those_of_idefics(depth: int, heads: int, head_size: int) -> None:
    theirs = idefics(depth, heads, head_size)
    ours = PerceiverResampler(
        C,
        num_latents=N,
        num_layers=depth,
        num_heads=heads,
        num_qk_channels=heads * head_size,
        activation=nn.ReLU,
    )
    ours.load_state_dict(renamed(theirs.state_dict(), idefics_resampler(depth)))
    for num_inputs in (1, 19):
        x = torch.randn(2, num_inputs, C, requires_grad=True)
        results = [model(x) for model in (ours, theirs)]
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
        weights = torch.randn_like(results[0])
        torch.testing.assert_close(
            *(torch.autograd.grad((result * weights).sum(), x)[0] for result in results), atol=1e-5, rtol=1e-4
        )


def test_norms_of_queries_and_keys_are_an_error() -> None:
    theirs = idefics(1, 3, 4, norms=True)
    with pytest.raises(ValueError, match=r"can't be converted: blocks\.0\.0\.k_layer_norm\.bias, "):
        renamed(theirs.state_dict(), idefics_resampler(1))
