"""Layers: attention and MLP, each after a LayerNorm and inside a residual (Perceiver IO, arXiv 2107.14795, appendix E).

    AttentionLayer( CrossAttention, PrefixCrossAttention or SelfAttention, MLP )

Parameter names are those of published checkpoints: a layer's parts are called `0` and `1`, what stands inside a
residual `module`, and the parts of the MLP `0`, `1` and `3`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from perceiver.model.core.attention import MultiHeadAttention
from perceiver.model.core.cache import KeyValueCache
from perceiver.model.core.linear import Linear
from perceiver.model.core.position import RotaryPositionEmbedding


class CrossAttention(nn.Module):
    """Attention of normalised queries to a normalised input. Arguments are those of `MultiHeadAttention`."""

    def __init__(self, *, num_q_input_channels: int, num_kv_input_channels: int, **attention: Any):
        super().__init__()
        self.q_norm = nn.LayerNorm(num_q_input_channels)
        self.kv_norm = nn.LayerNorm(num_kv_input_channels)
        self.attention = MultiHeadAttention(
            num_q_input_channels=num_q_input_channels, num_kv_input_channels=num_kv_input_channels, **attention
        )

    def forward(self, x_q: Tensor, x_kv: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """x_q (B or 1, N, D), x_kv (B, M, C), pad_mask (B, M) -> (B, N, D)"""
        return self.attention(self.q_norm(x_q), self.kv_norm(x_kv), pad_mask)


class PrefixCrossAttention(nn.Module):
    """Causal attention of the normalised last positions of a sequence to all of it (Perceiver AR, arXiv 2202.07765).

    The prefix is normalised as key/value input, the last positions as queries, also where they are keys and values.
    Arguments are those of `MultiHeadAttention`; with `causal=False` it is the attention of a `PerceiverResampler`.
    """

    def __init__(self, *, num_channels: int, **attention: Any):
        super().__init__()
        self.q_norm = nn.LayerNorm(num_channels)
        self.kv_norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(
            num_q_input_channels=num_channels, num_kv_input_channels=num_channels, **({"causal": True} | attention)
        )

    def forward(
        self,
        x: Tensor,
        x_prefix: Tensor,
        pad_mask: Tensor | None = None,
        rotary: RotaryPositionEmbedding | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x (B, N, D), x_prefix (B, M, D), the others as in `MultiHeadAttention` -> (B, N, D)"""
        x = self.q_norm(x)
        x_kv = torch.cat([self.kv_norm(x_prefix), x], dim=1) if x_prefix.shape[1] else x
        return self.attention(x, x_kv, pad_mask, rotary, cache)


class SelfAttention(nn.Module):
    """Attention of a normalised sequence to itself. Arguments are those of `MultiHeadAttention`."""

    def __init__(self, *, num_channels: int, **attention: Any):
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(
            num_q_input_channels=num_channels, num_kv_input_channels=num_channels, **attention
        )

    def forward(
        self,
        x: Tensor,
        pad_mask: Tensor | None = None,
        rotary: RotaryPositionEmbedding | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x (B, N, D), the others as in `MultiHeadAttention` -> (B, N, D)"""
        x = self.norm(x)
        return self.attention(x, x, pad_mask, rotary, cache)


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
    """Adds a module's first input, as it came in, to the module's output.

    Args:
        module: The module.
        dropout: Dropout of the module's output in training.
    """

    def __init__(self, module: nn.Module, dropout: float = 0.0):
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"residual dropout={dropout} must be in [0, 1)")
        self.module = module
        self.dropout = dropout

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return x + nn.functional.dropout(self.module(x, *args), self.dropout, self.training)


class AttentionLayer(nn.Sequential):
    """Cross- or self-attention followed by an MLP.

    Args:
        attention: `CrossAttention`, `PrefixCrossAttention` or `SelfAttention`.
        mlp: The MLP that follows.
        attention_residual: Whether the attention has a residual. The MLP always has one.
        residual_dropout: Dropout of what is added to the residuals.
        activation_checkpointing: Whether training keeps only the layer's inputs for the backward pass.
        activation_offloading: Whether these inputs wait in CPU memory. Needs `activation_checkpointing`.

    Raises:
        ValueError: if there is offloading without checkpointing.
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
        super().__init__(
            Residual(attention, residual_dropout) if attention_residual else attention, Residual(mlp, residual_dropout)
        )
        if activation_offloading and not activation_checkpointing:
            raise ValueError("activation_offloading needs activation_checkpointing")
        self.activation_offloading = activation_offloading
        # Hugging Face models switch checkpointing on and off through these two names.
        self.gradient_checkpointing = activation_checkpointing
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """x (B, N, D) and what the attention takes besides -> (B, N, D)"""
        if not (self.gradient_checkpointing and self.training):
            return self._forward(x, *args)
        with save_on_cpu(pin_memory=x.is_cuda) if self.activation_offloading else nullcontext():
            return self._gradient_checkpointing_func(self._forward, x, *args)

    def _forward(self, x: Tensor, *args: Any) -> Tensor:
        attention, mlp = self
        return mlp(attention(x, *args))


class SelfAttentionBlock(nn.Sequential):
    """Self-attention layers one after the other, called `0`, `1`, ... (B, N, D) -> (B, N, D)"""
