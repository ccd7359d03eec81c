"""Layers that lucidrains' Perceivers have and ours have not, and the encoder of all three.

`perceiver-pytorch` builds Perceiver (arXiv 2103.03206) and Perceiver IO (arXiv 2107.14795) from gated MLPs and from
attention whose queries, keys and values have no bias and any number of channels per head. Attention and residuals are
those of our models (perceiver/model/core), with other options; this module has the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import TrainableQueryProvider
from perceiver.model.core.config import Config
from perceiver.model.core.layers import (
    AttentionLayer,
    CrossAttention,
    SelfAttention,
    SelfAttentionBlock,
    check_channels,
)
from perceiver.model.core.linear import Linear
from perceiver.model.core.mask import check_pad_mask

WIDENING_FACTOR = 4


class GEGLU(nn.Module):
    """Gated GELU (arXiv 2002.05202): (..., 2 * channels) -> (..., channels), one half times GELU of the other."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * F.gelu(gate)


class GatedMLP(nn.Sequential):
    """LayerNorm, Linear to twice `WIDENING_FACTOR * num_channels`, GEGLU, Linear back, dropout."""

    def __init__(self, num_channels: int, dropout: float = 0.0):
        num_hidden_channels = WIDENING_FACTOR * num_channels
        super().__init__(
            nn.LayerNorm(num_channels),
            Linear(num_channels, 2 * num_hidden_channels),
            GEGLU(),
            Linear(num_hidden_channels, num_channels),
            nn.Dropout(dropout),
        )


class SharedFourierEncoding(nn.Module):
    """Fourier features of the cells of a grid of any size, with the same frequencies in every dimension.

    A cell has one coordinate x per dimension, from -1 to 1. Its channels are, dimension by dimension: sin(pi f x) for
    every frequency f, cos(pi f x) likewise, and x. Frequencies go from 1 to `max_frequency / 2`, in equal steps or by
    equal factors. (In `FourierPositionEncoding` they depend on the grid, and coordinates come first.)

    Args:
        num_dimensions: Dimensions of the grid.
        num_frequency_bands: Frequencies. 0: coordinates only.
        max_frequency: Twice the highest frequency.
        geometric: Whether frequencies differ by equal factors.
    """

    def __init__(self, num_dimensions: int, num_frequency_bands: int, max_frequency: float, geometric: bool = False):
        super().__init__()
        self.geometric = geometric
        self.num_dimensions = num_dimensions
        self.num_frequency_bands = num_frequency_bands
        self.max_frequency = max_frequency

    def num_channels(self) -> int:
        return self.num_dimensions * (2 * self.num_frequency_bands + 1)

    def forward(self, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Codes of the cells of a grid: float32 (*shape, channels)"""
        bands, highest = self.num_frequency_bands, self.max_frequency / 2
        frequencies = torch.linspace(1.0, highest, bands, device=device)
        if self.geometric:
            frequencies = torch.logspace(0.0, math.log2(highest), bands, base=2.0, device=device)
        codes = []
        for dim, num_cells in enumerate(shape):
            x = torch.linspace(-1.0, 1.0, num_cells, device=device)[:, None]
            angles = x * frequencies * math.pi
            code = torch.cat([angles.sin(), angles.cos(), x], dim=-1)  # cells channels
            others = (1,) * (len(shape) - 1 - dim)
            codes.append(code.reshape(num_cells, *others, -1).expand(*shape, -1))
        return torch.cat(codes, dim=-1)


@dataclass
class GatedEncoderConfig(Config):
    """Encoder of lucidrains' Perceivers: blocks of latent self-attention, each after a cross-attention or not.

    Attributes:
        num_input_channels: Input channels C, position codes included.
        num_latents: Number of latents N.
        num_latent_channels: Latent channels D.
        num_blocks: Number of blocks.
        num_distinct_blocks: Number of blocks, the first ones, that have weights of their own. All later ones have the
            weights of the last of these.
        num_cross_attention_layers: Number of blocks, the first ones, before which the latents attend to the input.
        num_self_attention_layers_per_block: Self-attention layers in a block.
        num_cross_attention_heads: Heads of the cross-attention.
        num_cross_attention_channels: Query, key and value channels of the cross-attention, all heads together.
        num_self_attention_heads: Heads of the self-attention.
        num_self_attention_channels: Query, key and value channels of the self-attention, all heads together.
        attention_dropout: Dropout of attention probabilities.
        mlp_dropout: Dropout of what MLPs return.
        input_dropout: Fraction of inputs that training drops, others for each example.
        init_scale: Standard deviation of initial weights.
    """

    num_input_channels: int
    num_latents: int = 512
    num_latent_channels: int = 512
    num_blocks: int = 6
    num_distinct_blocks: int = 6
    num_cross_attention_layers: int = 1
    num_self_attention_layers_per_block: int = 1
    num_cross_attention_heads: int = 1
    num_cross_attention_channels: int = 64
    num_self_attention_heads: int = 8
    num_self_attention_channels: int = 512
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    input_dropout: float = 0.0
    init_scale: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_distinct_blocks", "num_cross_attention_layers"):
            if getattr(self, name) > self.num_blocks:
                raise ValueError(f"{name}={getattr(self, name)} must be in [1, num_blocks={self.num_blocks}]")


class GatedEncoder(nn.Module):
    """Maps inputs to N latents.

    Args:
        config: Configuration.
    """

    def __init__(self, config: GatedEncoderConfig):
        super().__init__()
        num_channels = config.num_latent_channels

        def cross_attention_layer() -> AttentionLayer:
            return gated_layer(
                CrossAttention(
                    num_heads=config.num_cross_attention_heads,
                    num_q_input_channels=num_channels,
                    num_kv_input_channels=config.num_input_channels,
                    num_qk_channels=config.num_cross_attention_channels,
                    qkv_bias=False,
                    dropout=config.attention_dropout,
                ),
                num_channels,
                config.mlp_dropout,
            )

        def self_attention_layer() -> AttentionLayer:
            return gated_layer(
                SelfAttention(
                    num_heads=config.num_self_attention_heads,
                    num_channels=num_channels,
                    num_qk_channels=config.num_self_attention_channels,
                    qkv_bias=False,
                    dropout=config.attention_dropout,
                ),
                num_channels,
                config.mlp_dropout,
            )

        num_distinct = config.num_distinct_blocks
        self.config = config
        self.latent_provider = TrainableQueryProvider(config.num_latents, num_channels)
        self.cross_attention = nn.ModuleList(
            cross_attention_layer() for _ in range(min(num_distinct, config.num_cross_attention_layers))
        )
        self.self_attention = nn.ModuleList(
            SelfAttentionBlock(*(self_attention_layer() for _ in range(config.num_self_attention_layers_per_block)))
            for _ in range(num_distinct)
        )

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Inputs (B, M, C) and where they are padding, boolean (B, M) -> latents (B, N, D)"""
        check_channels("inputs", x, self.config.num_input_channels)
        check_pad_mask(pad_mask, x.shape[:2])
        if self.training and self.config.input_dropout:
            x, pad_mask = drop_inputs(x, pad_mask, self.config.input_dropout)
        latents = self.latent_provider()  # 1 N D
        for i in range(self.config.num_blocks):
            if i < self.config.num_cross_attention_layers:
                latents = self.cross_attention[min(i, len(self.cross_attention) - 1)](latents, x, pad_mask)
            latents = self.self_attention[min(i, len(self.self_attention) - 1)](latents)
        return latents


def gated_layer(
    attention: CrossAttention | SelfAttention, num_channels: int, dropout: float = 0.0, *, residual: bool = True
) -> AttentionLayer:
    """An attention layer with a gated MLP. `residual`: whether the attention has a residual; the MLP always has."""
    return AttentionLayer(attention, GatedMLP(num_channels, dropout), attention_residual=residual)  # type: ignore[arg-type]


def drop_inputs(x: Tensor, pad_mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor | None]:
    """Keeps a random part of the inputs (B, M, C), others for each example, and padding only for want of better.

    Returns:
        The two without the dropped inputs, at least one of which stays.
    """
    num_kept = max(1, int(x.shape[1] * (1.0 - dropout)))
    order = torch.rand(x.shape[:2], device=x.device)
    if pad_mask is not None:
        order = order.masked_fill(pad_mask, -1.0)
    kept = order.topk(num_kept, dim=1).indices  # B kept
    pad_mask = None if pad_mask is None else pad_mask.gather(1, kept)
    return x.gather(1, rearrange(kept, "b m -> b m 1").expand(-1, -1, x.shape[-1])), pad_mask
