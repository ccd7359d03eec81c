"""Linear layers by the faster of torch's two matrix products on x86 processors.

In float32 torch multiplies with MKL. Its other CPU library, oneDNN, is 1.1 to 2 times as fast at the sizes of these
models on the AMD processor that we measure on (benchmarks/linear.py): most for a few tokens, where MKL reads weights
with one thread only. Linear layers are most of what a Perceiver computes. torch compiles models to oneDNN's linear
operator, but offers it to Python under a private name and without a gradient. So `linear` uses it for large weights and
products in inference, where that operator is there and none of torch's transformations needs to see an ordinary one;
anywhere else it is torch's. Both give the same result up to rounding.

The models are those of arXiv 2107.14795; nothing here is particular to them.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below these numbers of weights and of multiplications the call itself takes longer than what it saves.
_LARGE_WEIGHT = 2**17
_LARGE_PRODUCT = 2**24

_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and platform.machine() in ("x86_64", "AMD64")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """`nn.Linear`, faster in float32 inference on CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., input channels) -> (..., output channels)"""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, faster in float32 inference on CPU.

    x (..., input channels), weight (output channels, input channels), bias (output channels,) -> (..., output channels)
    """
    if _ONEDNN and not torch.compiler.is_compiling() and _is_large(x, weight) and _plain_inference(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return weight.numel() >= _LARGE_WEIGHT or x.numel() * weight.shape[0] >= _LARGE_PRODUCT


def _plain_inference(x: Tensor, weight: Tensor) -> bool:
    """Whether both are ordinary float32 tensors on CPU that nothing but this call looks at."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and torch.autograd.forward_ad._current_level < 0  # the operator has no forward derivative, and does not say so
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        and type(x) is Tensor
        and type(weight) is nn.Parameter
    )
