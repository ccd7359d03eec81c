"""Layers: attention and MLP, each after a LayerNorm and inside a residual (Perceiver IO, arXiv 2107.14795, appendix E).

    AttentionLayer( CrossAttention, PrefixCrossAttention or SelfAttention, MLP )

What x attends to:

    CrossAttention         context, an input
    PrefixCrossAttention   context, the prefix of x, and x itself
    SelfAttention          x itself; there is no context

Parameter names are those of published checkpoints: a layer's parts are called `0` and `1`, what stands inside a
residual `module`, and the parts of the MLP `0`, `1` and `3`. In code they are `layer.attention` and `layer.mlp`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from typing_extensions import Unpack

from perceiver.model.core.attention import AttentionOptions, MultiHeadAttention
from perceiver.model.core.cache import LayerCache, SharedKeysValues
from perceiver.model.core.config import check_offloading
from perceiver.model.core.linear import Linear
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.position import RotaryPositionEmbedding


class CrossAttention(nn.Module):
    """Attention of normalised queries to a normalised input. Arguments are those of `MultiHeadAttention`."""

    def __init__(
        self,
        *,
        num_heads: int,
        num_q_input_channels: int,
        num_kv_input_channels: int,
        causal: bool = False,
        **options: Unpack[AttentionOptions],
    ):
        super().__init__()
        self.num_q_input_channels, self.num_kv_input_channels = num_q_input_channels, num_kv_input_channels
        self.q_norm = nn.LayerNorm(num_q_input_channels)
        self.kv_norm = nn.LayerNorm(num_kv_input_channels)
        self.attention = MultiHeadAttention(
            num_heads=num_heads,
            num_q_input_channels=num_q_input_channels,
            num_kv_input_channels=num_kv_input_channels,
            causal=causal,
            **options,
        )

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        pad_mask: Tensor | None = None,
        *,
        rotary: RotaryPositionEmbedding | None = None,
        cache: LayerCache | SharedKeysValues | None = None,
        mask: AttentionMask | None = None,
    ) -> Tensor:
        """x (B or 1, N, D), context (B, M, C), the others as in `MultiHeadAttention` -> (B, N, D)"""
        check_channels("queries", x, self.num_q_input_channels)
        check_channels("inputs", context, self.num_kv_input_channels)
        is_known = isinstance(cache, SharedKeysValues) and cache.keys is not None
        context = context if is_known else self.kv_norm(context)
        return self.attention(self.q_norm(x), context, pad_mask, rotary, cache, mask)


def check_channels(name: str, x: Tensor, num_channels: int) -> None:
    """Raises ValueError if `x`, which an adapter or a query provider of others may have made, is no (B, n, C)."""
    if x.ndim != 3 or x.shape[2] != num_channels:
        raise ValueError(f"{name} have shape {tuple(x.shape)}, expected (batch size, {name}, {num_channels})")


class PrefixCrossAttention(nn.Module):
    """Attention of the normalised last positions of a sequence to all of it (Perceiver AR, arXiv 2202.07765).

    The prefix is normalised as key/value input, the last positions as queries, also where they are keys and values.
    Arguments are those of `MultiHeadAttention`. Causal in Perceiver AR, not in a `PerceiverResampler`.
    """

    def __init__(self, *, num_channels: int, num_heads: int, causal: bool = True, **options: Unpack[AttentionOptions]):
        super().__init__()
        self.q_norm = nn.LayerNorm(num_channels)
        self.kv_norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(
            num_heads=num_heads,
            num_q_input_channels=num_channels,
            num_kv_input_channels=num_channels,
            causal=causal,
            **options,
        )

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        pad_mask: Tensor | None = None,
        *,
        rotary: RotaryPositionEmbedding | None = None,
        cache: LayerCache | None = None,
        mask: AttentionMask | None = None,
    ) -> Tensor:
        """x (B, N, D), context (B, M, D), the prefix, the others as in `MultiHeadAttention` -> (B, N, D)"""
        x = self.q_norm(x)
        # In training also without a prefix: a norm that is not used has no gradient, which stops distributed training.
        has_prefix = context.shape[1] > 0 or torch.is_grad_enabled()
        x_kv = torch.cat([self.kv_norm(context), x], dim=1) if has_prefix else x
        return self.attention(x, x_kv, pad_mask, rotary, cache, mask)


class SelfAttention(nn.Module):
    """Attention of a normalised sequence to itself. Arguments are those of `MultiHeadAttention`."""

    def __init__(self, *, num_channels: int, num_heads: int, causal: bool = False, **options: Unpack[AttentionOptions]):
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(
            num_heads=num_heads,
            num_q_input_channels=num_channels,
            num_kv_input_channels=num_channels,
            causal=causal,
            **options,
        )

    def forward(
        self,
        x: Tensor,
        pad_mask: Tensor | None = None,
        *,
        rotary: RotaryPositionEmbedding | None = None,
        cache: LayerCache | None = None,
        mask: AttentionMask | None = None,
    ) -> Tensor:
        """x (B, N, D), the others as in `MultiHeadAttention` -> (B, N, D)"""
        x = self.norm(x)
        return self.attention(x, x, pad_mask, rotary, cache, mask)


class MLP(nn.Sequential):
    """LayerNorm, Linear to `widening_factor * num_channels`, activation (GELU, exact), Linear back."""

    def __init__(
        self,
        num_channels: int,
        widening_factor: int,
        bias: bool = True,
        activation: Callable[[], nn.Module] = nn.GELU,
    ):
        super().__init__(
            nn.LayerNorm(num_channels),
            Linear(num_channels, widening_factor * num_channels, bias=bias),
            activation(),
            Linear(widening_factor * num_channels, num_channels, bias=bias),
        )


class Residual(nn.Module):
    """Where a layer keeps a part whose output is added to its input: `module` in published checkpoints."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


class AttentionLayer(nn.Sequential):
    """Cross- or self-attention followed by an MLP.

    Args:
        attention: `CrossAttention`, `PrefixCrossAttention` or `SelfAttention`.
        mlp: The MLP that follows.
        attention_residual: Whether the attention has a residual. The MLP always has one.
        residual_dropout: Dropout of what is added to the residuals.
        activation_checkpointing: Whether training keeps only the layer's inputs for the backward pass.
        activation_offloading: Whether these inputs wait in CPU memory. Needs `activation_checkpointing`.
    """

    def __init__(
        self,
        attention: CrossAttention | PrefixCrossAttention | SelfAttention,
        mlp: MLP,
        *,
        attention_residual: bool = True,
        residual_dropout: float = 0.0,
        activation_checkpointing: bool = False,
        activation_offloading: bool = False,
    ):
        super().__init__(Residual(attention) if attention_residual else attention, Residual(mlp))
        check_offloading(activation_checkpointing, activation_offloading)
        if not 0.0 <= residual_dropout < 1.0:
            raise ValueError(f"residual_dropout={residual_dropout} must be in [0, 1)")
        self.attention_residual = attention_residual
        self.residual_dropout = residual_dropout
        self.activation_offloading = activation_offloading
        # Hugging Face models switch checkpointing on and off through these two names.
        self.gradient_checkpointing = activation_checkpointing
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    @property
    def attention(self) -> nn.Module:
        """The `CrossAttention`, `PrefixCrossAttention` or `SelfAttention`."""
        part = self._modules["0"]
        return part.module if isinstance(part, Residual) else part

    @property
    def mlp(self) -> nn.Module:
        """The `MLP`."""
        return self._modules["1"].module  # type: ignore[return-value]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        pad_mask: Tensor | None = None,
        *,
        rotary: RotaryPositionEmbedding | None = None,
        cache: LayerCache | SharedKeysValues | None = None,
        mask: AttentionMask | None = None,
    ) -> Tensor:
        """x (B, N, D) and what the attention takes besides -> (B, N, D)"""
        if not (self.gradient_checkpointing and self.training):
            return self._forward(x, context, pad_mask, rotary, cache, mask)
        with save_on_cpu(pin_memory=x.is_cuda) if self.activation_offloading else nullcontext():
            return self._gradient_checkpointing_func(self._forward, x, context, pad_mask, rotary, cache, mask)

    def _forward(
        self,
        x: Tensor,
        context: Tensor | None,
        pad_mask: Tensor | None,
        rotary: RotaryPositionEmbedding | None,
        cache: LayerCache | SharedKeysValues | None,
        mask: AttentionMask | None,
    ) -> Tensor:
        inputs = (x,) if context is None else (x, context)
        attended = self.attention(*inputs, pad_mask=pad_mask, rotary=rotary, cache=cache, mask=mask)
        x = x + self._dropped(attended) if self.attention_residual else attended
        return x + self._dropped(self.mlp(x))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.residual_dropout) if self.residual_dropout and self.training else x


class SelfAttentionBlock(nn.Sequential):
    """Self-attention layers one after the other, called `0`, `1`, ... (B, N, D) -> (B, N, D)"""
