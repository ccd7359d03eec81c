"""Linear layers by the fastest of the matrix products that torch has for them on CPU.

In float32 torch multiplies with MKL. Its other CPU library, oneDNN, is 1.1 to 2 times as fast at the sizes of these
models on the AMD processor that we measure on (benchmarks/linear.py): most for a few tokens, where MKL reads weights
with one thread only. Linear layers are most of what a Perceiver computes. torch compiles models to oneDNN's linear
operator, but offers it to Python under a private name and without a gradient. So `linear` uses it for large weights and
products, with a gradient of our own, where that operator is there and none of torch's transformations needs to see an
ordinary one; anywhere else it is torch's. Both give the same result up to rounding.

In compiled code the product of weights and a single token is written as the sum that it is. The loop that torch makes
of it reads each weight once, and those of bfloat16 or 8 bits (torchao's) without making them longer in memory first.

The models are those of arXiv 2107.14795; nothing here is particular to them.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Below these numbers of weights and of multiplications the call itself takes longer than what it saves.
_LARGE_WEIGHT = 2**17
_LARGE_PRODUCT = 2**24
# With fewer tokens oneDNN's gradient of the input is slower than torch's.
_MANY_TOKENS = 256

_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and platform.machine() in ("x86_64", "AMD64")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """`nn.Linear`, faster on CPU in float32 and in compiled steps of a single token."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., input channels) -> (..., output channels)"""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, faster on CPU in float32 and in compiled steps of a single token.

    x (..., input channels), weight (output channels, input channels), bias (output channels,) -> (..., output channels)
    """
    if torch.compiler.is_compiling():
        factors = _factors(weight) if _is_single(x) else None
        return F.linear(x, weight, bias) if factors is None else _vector_product(x, *factors, bias)
    if _ONEDNN and _is_large(x, weight) and _is_plain(x, weight):
        if not torch.is_grad_enabled() or not _is_differentiated(x, weight, bias):
            return _onednn(x, weight, bias)
        if x.numel() >= _MANY_TOKENS * x.shape[-1]:
            return _LinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return F.linear(x, weight, bias)


def _is_differentiated(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _LinearFunction(torch.autograd.Function):
    """`_onednn` and its gradients. That of the weight is torch's product: oneDNN's is not faster with its layouts."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _onednn(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        rows = rearrange(grad, "... o -> (...) o")
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight if torch.is_grad_enabled() else _onednn(grad, weight.T)
        if ctx.needs_input_grad[1]:
            grad_weight = rows.T @ rearrange(x, "... i -> (...) i")
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(dim=0)
        return grad_x, grad_weight, grad_bias


def _is_single(x: Tensor) -> bool:
    """Whether there is one token, on CPU, in a step that is compiled and nothing else."""
    return (
        x.device.type == "cpu"
        and all(size == 1 for size in x.shape[:-1])
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
    )


def _factors(weight: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Numbers (outputs, inputs) and a scale of each row (outputs or 1, 1), if the weight is their product."""
    if type(weight) in (Tensor, nn.Parameter):
        return weight, None
    # torchao's Int8Tensor. With quantised inputs, or a scale for each group of inputs, it multiplies in its own way.
    numbers, block_size = getattr(weight, "qdata", None), getattr(weight, "block_size", None)
    if numbers is None or numbers.dtype != torch.int8 or block_size is None or block_size[-1] != weight.shape[-1]:
        return None
    if getattr(weight, "act_quant_kwargs", None) is not None or getattr(weight, "act_pre_scale", None) is not None:
        return None
    return numbers, weight.scale  # type: ignore[attr-defined]  # of a class that need not be installed


def _vector_product(x: Tensor, numbers: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    vector = x.to(dtype)
    # As a tensor with strides it has to be in memory: otherwise the loop below would compute it for each output anew.
    vector = vector.as_strided(vector.shape, vector.stride())
    y = (rearrange(vector, "... i -> ... 1 i") * numbers.to(dtype)).sum(dim=-1)
    if scale is not None:
        y = y * rearrange(scale, "o 1 -> o").to(dtype)
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return weight.numel() >= _LARGE_WEIGHT or x.numel() * weight.shape[0] >= _LARGE_PRODUCT


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether both are ordinary float32 tensors on CPU that nothing but this call, and autograd, looks at."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
        and torch.autograd.forward_ad._current_level < 0  # the operator has no forward derivative, and does not say so
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        and type(x) is Tensor
        and type(weight) is nn.Parameter
    )
