"""Models of the original packages with random parameters, and ours with the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from perceiver_ar_pytorch import PerceiverAR
from perceiver_pytorch import Perceiver, PerceiverIO, PerceiverLM
from torch import Tensor, nn

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.foreign import backend
from perceiver.model.foreign.layouts import recognised
from perceiver.tasks import FOREIGN
from tests.model.helpers import randomise_vectors

HEADS: dict[str, Any] = {"cross_heads": 2, "latent_heads": 3, "cross_dim_head": 7, "latent_dim_head": 6}
FOURIER: dict[str, Any] = {"num_freq_bands": 3, "max_freq": 11.0}
LATENTS: dict[str, Any] = {"num_latents": 5, "latent_dim": 12}


def perceiver(**arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """`Perceiver` and all its arguments."""
    return _made(Perceiver, {**HEADS, **FOURIER, **LATENTS, "depth": 3, "num_classes": 4, "input_axis": 2, **arguments})


def perceiver_io(**arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """`PerceiverIO` and all its arguments."""
    sizes = {"depth": 2, "dim": 9, "queries_dim": 8, "logits_dim": 10}
    return _made(PerceiverIO, {**HEADS, **LATENTS, **sizes, **arguments})


def perceiver_lm(**arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """`PerceiverLM` and all its arguments."""
    sizes = {"depth": 2, "dim": 9, "num_tokens": 17, "max_seq_len": 13}
    return _made(PerceiverLM, {**HEADS, **LATENTS, **sizes, **arguments})


def perceiver_ar(**arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """`PerceiverAR` and all its arguments."""
    sizes = {"num_tokens": 11, "dim": 20, "depth": 2, "max_seq_len": 16, "cross_attn_seq_len": 10}
    return _made(PerceiverAR, {**sizes, "heads": 3, "dim_head": 48, "ff_mult": 2, **arguments})


def _made(model_class: Any, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    model = model_class(**arguments)
    randomise_vectors(model)
    return model.eval(), arguments


def converted(parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Any:
    """Our backend model with these parameters."""
    layout = recognised(parameters)
    assert layout is not None
    result = layout.convert(dict(parameters), arguments)
    model = getattr(backend, FOREIGN[layout.model].model)(result.config)
    load_parameters(model, result.state_dict, "a model of the original package")
    return model.eval()


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    assert torch.isfinite(expected).all() and expected.std() > 0.01
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
