"""Perceiver AR of two other libraries: lucidrains/perceiver-ar-pytorch and google-research/perceiver-ar.

Both are our `CausalSequenceModel` (arXiv 2202.07765) with other layers in its places, so that loss, cache, generation
and evaluation are its own. What is another layer there:

                          perceiver-ar-pytorch             google-research/perceiver-ar
    heads                 of any number of channels        other numbers of heads in cross- and self-attention
    cross-attention       as ours                          queries are projected, all keys normalised alike; biases
    MLP                   as ours, with dropout inside     squared ReLU, biases
    rotary embedding      in all layers                    in all layers, with other frequencies, or in none
    output                untied, without norm and bias    untied, with both

docs/migration/perceiver-ar-pytorch.md has the arguments of perceiver-ar-pytorch and ours side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.cache import LayerCache
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig, PerceiverARConfig
from perceiver.model.core.layers import MLP, AttentionLayer, CrossAttention, PrefixCrossAttention, SelfAttention
from perceiver.model.core.linear import Linear
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.perceiver_ar import attention_layer
from perceiver.model.core.position import FrequencyPositionEncoding, RotaryPositionEmbedding


class UntiedCausalSequenceModel(CausalSequenceModel):
    """`CausalSequenceModel` whose logits come from a linear layer of their own."""

    output_adapter: Linear  # type: ignore[assignment]  # in place of one that takes the embedding

    def __init__(self, config: CausalSequenceModelConfig):
        super().__init__(config)
        self.output_adapter = Linear(config.num_channels, config.vocab_size, bias=config.output_bias)
        self.init_parameters()

    def logits(self, latents: Tensor) -> Tensor:
        """Result of `latents` (B, N, D) -> logits (B, N, vocabulary)"""
        return self.output_adapter(latents)


@dataclass
class LucidrainsPerceiverARConfig(CausalSequenceModelConfig):
    """Perceiver AR of perceiver-ar-pytorch.

    Attributes:
        num_self_attention_rotary_layers: How many self-attention layers have a rotary position embedding; -1: all.
        output_bias: Whether the output has a bias.
        num_head_channels: Channels of a head, which need not make up `num_channels`.
        mlp_dropout: Dropout inside the MLPs.
    """

    num_self_attention_rotary_layers: int = field(default=-1, metadata={"least": -1})
    output_bias: bool = False
    num_head_channels: int = 64
    mlp_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.num_head_channels < self.num_rotary_channels:
            raise ValueError(
                f"num_head_channels={self.num_head_channels} must be at least {self.num_rotary_channels}, the channels "
                "that the rotary position embedding rotates"
            )

    @property
    def num_rotary_channels(self) -> int:
        return max(32, self.num_head_channels // 2)


class LucidrainsPerceiverAR(UntiedCausalSequenceModel):
    """Perceiver AR of perceiver-ar-pytorch.

    Args:
        config: A `LucidrainsPerceiverARConfig`.
    """

    config: LucidrainsPerceiverARConfig

    def __init__(self, config: LucidrainsPerceiverARConfig):
        super().__init__(config)

    def cross_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        assert isinstance(config, LucidrainsPerceiverARConfig)
        attention = PrefixCrossAttention(
            num_channels=num_channels,
            num_heads=config.num_heads,
            num_qk_channels=config.num_heads * config.num_head_channels,
            qkv_bias=False,
            dropout=config.post_attention_dropout,
        )
        mlp = self._mlp(config, config.cross_attention_widening_factor)
        return attention_layer(attention, mlp, config)

    def self_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        assert isinstance(config, LucidrainsPerceiverARConfig)
        attention = SelfAttention(
            num_channels=num_channels,
            num_heads=config.num_heads,
            num_qk_channels=config.num_heads * config.num_head_channels,
            qkv_bias=False,
            out_bias=False,
            causal=True,
            dropout=config.post_attention_dropout,
        )
        mlp = self._mlp(config, config.self_attention_widening_factor)
        return attention_layer(attention, mlp, config)

    @staticmethod
    def _mlp(config: LucidrainsPerceiverARConfig, widening_factor: int) -> MLP:
        def activation() -> nn.Module:
            return nn.Sequential(nn.GELU(), nn.Dropout(config.mlp_dropout))

        return MLP(config.num_channels, widening_factor, bias=False, activation=activation)


@dataclass
class GooglePerceiverARConfig(CausalSequenceModelConfig):
    """Perceiver AR of google-research/perceiver-ar, with one latent per position.

    Attributes:
        num_self_attention_rotary_layers: How many self-attention layers have a rotary position embedding; -1: all.
            Unless it is 0, the cross-attention has one, too.
        output_norm: Whether a LayerNorm precedes the output.
        num_cross_attention_heads: Heads of the cross-attention.
        num_rotary_channels: Channels of a head that the rotary position embedding rotates.
        max_wavelength: Longest wavelength of the rotary position embedding.
    """

    num_self_attention_rotary_layers: int = field(default=0, metadata={"least": -1})
    output_norm: bool = True
    num_cross_attention_heads: int = 16
    num_rotary_channels: int = 2  # does not follow from the others here
    max_wavelength: int = 4096

    def __post_init__(self) -> None:
        _check(self)
        for name in ("num_heads", "num_cross_attention_heads"):
            num_heads = getattr(self, name)
            if self.num_channels % num_heads or self.num_channels // num_heads < self.num_rotary_channels:
                raise ValueError(
                    f"num_channels={self.num_channels} with {name}={num_heads} must make heads of at least "
                    f"num_rotary_channels={self.num_rotary_channels} channels"
                )


class GooglePerceiverAR(UntiedCausalSequenceModel):
    """Perceiver AR of google-research/perceiver-ar.

    Args:
        config: A `GooglePerceiverARConfig`.
    """

    config: GooglePerceiverARConfig

    def __init__(self, config: GooglePerceiverARConfig):
        super().__init__(config)
        self.frequencies = LinspaceFrequencies(config.num_rotary_channels, config.max_wavelength)

    def cross_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        assert isinstance(config, GooglePerceiverARConfig)
        attention = CrossAttention(
            num_heads=config.num_cross_attention_heads,
            num_q_input_channels=num_channels,
            num_kv_input_channels=num_channels,
            causal=True,
            dropout=config.post_attention_dropout,
        )
        mlp = MLP(num_channels, config.cross_attention_widening_factor, activation=SquaredReLU)
        projected = ProjectedQueryAttention(
            attention,
            num_channels,
            rotates=config.num_self_attention_rotary_layers != 0,
            residual_dropout=config.residual_dropout,
        )
        return attention_layer(projected, mlp, config, attention_residual=False)  # type: ignore[arg-type]  # has its own

    def self_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        attention = SelfAttention(
            num_channels=num_channels, num_heads=config.num_heads, causal=True, dropout=config.post_attention_dropout
        )
        mlp = MLP(num_channels, config.self_attention_widening_factor, activation=SquaredReLU)
        return attention_layer(attention, mlp, config)


class SquaredReLU(nn.Module):
    """max(x, 0)^2"""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class ProjectedQueryAttention(nn.Module):
    """Cross-attention of google-research/perceiver-ar, with its residual.

    Queries come from a projection of the last positions, keys from all positions, the last ones among them. What is
    attended to is added to the projection.
    """

    def __init__(self, attention: CrossAttention, num_channels: int, *, rotates: bool, residual_dropout: float):
        super().__init__()
        self.query = Linear(num_channels, num_channels)
        self.cross_attention = attention
        self.rotates = rotates
        self.residual_dropout = residual_dropout

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
        query, rotary = self.query(x), rotary if self.rotates else None
        context = torch.cat([context, x], dim=1)
        x = self.cross_attention(query, context, pad_mask, rotary=rotary, cache=cache, mask=mask)
        return query + F.dropout(x, self.residual_dropout, self.training)


class LinspaceFrequencies(FrequencyPositionEncoding):
    """Angles of the rotary position embedding of google-research/perceiver-ar.

    Angle i of position p is p * w^(-2x/d), for w = `max_wavelength`, d = `num_channels` and the d / 2 numbers x that
    are equally spaced from 0 to d / 2, both included. (`FrequencyPositionEncoding` has the numbers 0, 1, ... there.)
    """

    def __init__(self, num_channels: int, max_wavelength: int):
        super().__init__(num_channels)
        self.max_wavelength = max_wavelength

    def forward(self, positions: Tensor) -> Tensor:
        """(B, M) -> float32 angles (B, M, d / 2)"""
        num_bands = self.num_channels // 2
        exponents = torch.linspace(0, num_bands, num_bands, device=positions.device)
        frequencies = float(self.max_wavelength) ** -(2 * exponents / self.num_channels)
        return rearrange(positions.float(), "b m -> b m 1") * frequencies


def _check(config: CausalSequenceModelConfig) -> None:
    """What `CausalSequenceModelConfig` checks, but for the channels of heads, which follow other rules here."""
    PerceiverARConfig.__post_init__(config)
    if config.max_latents > config.max_seq_len:
        raise ValueError(f"max_latents={config.max_latents} must be in [1, max_seq_len={config.max_seq_len}]")
