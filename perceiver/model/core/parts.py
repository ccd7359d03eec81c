"""Attention of blocks of latents (core/blocks.py) on CPU: torch's fused kernel for parts of the keys, merged.

    keys         prefix of all | stretch | stretch | latents | latents | latents
    queries of   all blocks    | 2 and 3 | 3       | 1       | 2       | 3

Each key is in one part, and queries attend to a part as a whole, or causally to the latents of their own block. So no
key is copied, none has gradients to be added up, and there is no mask but that of padding. And the kernel gets the
queries of many blocks at once: from 768 on it takes them in tiles with which it is 1.3 times as fast.

It also gives the logarithm of the sum of exponentials of each query, by which the outputs of parts are weighed
(FlashAttention, arXiv 2205.14135, section 3.1). Output and logarithm of all parts are what its backward pass needs for
each. torch offers both to Python under private names only.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceiver.model.core.blocks import LatentBlocks

_HAS_KERNEL = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


def takes_parts(q: Tensor, v: Tensor) -> bool:
    """Whether there is a kernel for such heads. Compilers and exports are to see ordinary operators."""
    is_seen = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return _HAS_KERNEL and q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and not is_seen


def attention_in_parts(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, blocks: LatentBlocks) -> Tensor:
    """`attention` of blocks of latents, for heads with K = V.

    Args:
        q: Queries (B, H, N, K).
        k: Keys (B, H, M, K).
        v: Values (B, H, M, K).
        allowed: Boolean (B or 1, 1, 1, M), False where there is padding.
        blocks: Whose the keys are.
    """
    bias = None
    if allowed is not None:  # beside any other score the exponential of the lowest is 0, and alone it is a number
        bias = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
    y: Tensor = _AttentionInParts.apply(q, k, v, bias, blocks)  # type: ignore[no-untyped-call]
    return y


class _AttentionInParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, blocks: LatentBlocks) -> Tensor:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        dtype = torch.promote_types(q.dtype, torch.float32)
        y, logs = torch.zeros(q.shape, dtype=dtype), torch.full(q.shape[:3], torch.finfo(dtype).min, dtype=dtype)
        for queries, keys, is_causal in blocks.parts():
            mask = None if bias is None else bias[..., keys]
            part, log = kernel(q[:, :, queries], k[:, :, keys], v[:, :, keys], 0.0, is_causal, attn_mask=mask)
            before = logs[:, :, queries]
            merged = torch.logaddexp(before, log)
            old, new = (rearrange((x - merged).exp(), "b h n -> b h n 1") for x in (before, log))
            y[:, :, queries] = y[:, :, queries] * old + part * new
            logs[:, :, queries] = merged
        is_empty = rearrange(logs < torch.finfo(dtype).min / 2, "b h n -> b h n 1")  # a query without any key
        y = y.masked_fill_(is_empty, 0.0).to(q.dtype)
        ctx.save_for_backward(q, k, v, bias, y, logs, is_empty)
        ctx.blocks = blocks
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        q, k, v, bias, y, logs, is_empty = ctx.saved_tensors
        grad = grad.masked_fill(is_empty, 0.0)
        grad_q, grad_k, grad_v = torch.zeros(q.shape, dtype=logs.dtype), torch.empty_like(k), torch.empty_like(v)
        for queries, keys, is_causal in ctx.blocks.parts():
            mask = None if bias is None else bias[..., keys]
            inputs = (grad[:, :, queries], q[:, :, queries], k[:, :, keys], v[:, :, keys])
            outputs = (y[:, :, queries], logs[:, :, queries])
            part, grad_k[:, :, keys], grad_v[:, :, keys] = kernel(*inputs, *outputs, 0.0, is_causal, attn_mask=mask)
            grad_q[:, :, queries] += part
        return grad_q.to(q.dtype), grad_k, grad_v, None, None
