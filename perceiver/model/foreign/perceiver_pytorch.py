"""The models of lucidrains/perceiver-pytorch: Perceiver, Perceiver IO and its language model.

    LucidrainsPerceiver     images, video, ... -> Fourier features -> encoder -> mean of the latents -> logits
    LucidrainsPerceiverIO   inputs (B, M, C), output queries (B, O, F) -> encoder -> decoder -> (B, O, E)
    LucidrainsPerceiverLM   token ids -> embeddings, which are inputs and output queries -> logits of each position

Perceiver: arXiv 2103.03206, figure 1. Perceiver IO: arXiv 2107.14795. What differs from our models stands in
`layers.py`; docs/migration/perceiver-pytorch.md has the arguments of both side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from perceiver.model.core.adapter import TokenInputAdapter
from perceiver.model.core.config import Config
from perceiver.model.core.layers import CrossAttention
from perceiver.model.core.linear import Linear
from perceiver.model.core.perceiver_io import init_parameters
from perceiver.model.foreign.layers import GatedEncoder, GatedEncoderConfig, SharedFourierEncoding, gated_layer


@dataclass
class MeanDecoderConfig(Config):
    """Decoder that averages the latents.

    Attributes:
        num_classes: Number of classes.
    """

    num_classes: int = 1000


@dataclass
class LucidrainsPerceiverConfig(Config):
    """Perceiver of perceiver-pytorch.

    Attributes:
        encoder: Encoder. Its input channels are those of values and position codes.
        decoder: None: outputs are the latents.
        num_dimensions: Dimensions of the input: 1 for sequences, 2 for images, 3 for video.
        num_frequency_bands: Frequencies of the Fourier features, per dimension.
        max_frequency: Twice the highest frequency.
        fourier_features: Whether inputs get Fourier features of their positions.
        geometric_frequencies: Whether frequencies differ by equal factors, as before 0.7.2, and not by equal steps.
    """

    encoder: GatedEncoderConfig
    decoder: MeanDecoderConfig | None
    num_dimensions: int = 2
    num_frequency_bands: int = field(default=6, metadata={"least": 0})
    max_frequency: float = 10.0
    fourier_features: bool = True
    geometric_frequencies: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_value_channels < 1:
            raise ValueError(
                f"encoder.num_input_channels={self.encoder.num_input_channels} must be more than the "
                f"{self.position_encoding.num_channels()} channels of the Fourier features"
            )

    @property
    def position_encoding(self) -> SharedFourierEncoding:
        return SharedFourierEncoding(
            self.num_dimensions, self.num_frequency_bands, self.max_frequency, self.geometric_frequencies
        )

    @property
    def num_value_channels(self) -> int:
        """Channels of a value, before position codes."""
        num_codes = self.position_encoding.num_channels() if self.fourier_features else 0
        return self.encoder.num_input_channels - num_codes


class LucidrainsPerceiver(nn.Module):
    """Perceiver of perceiver-pytorch.

    Args:
        config: Configuration.
    """

    def __init__(self, config: LucidrainsPerceiverConfig):
        super().__init__()
        self.config = config
        self.position_encoding = config.position_encoding if config.fourier_features else None
        self.encoder = GatedEncoder(config.encoder)
        self.decoder = None
        if config.decoder is not None:
            num_channels = config.encoder.num_latent_channels
            self.decoder = nn.Sequential(nn.LayerNorm(num_channels), Linear(num_channels, config.decoder.num_classes))
        self.init_parameters()

    def init_parameters(self) -> None:
        init_parameters(self, self.config.encoder.init_scale)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Classifies inputs.

        Args:
            x: Values (B, ..., channels) with `num_dimensions` dimensions in between, of any size.
            pad_mask: Boolean (B, ...) or (B, M), True where the input is padding.

        Returns:
            Logits (B, classes), or latents (B, N, D) without decoder.
        """
        num_dims, num_channels = self.config.num_dimensions, self.config.num_value_channels
        if x.ndim != num_dims + 2 or x.shape[-1] != num_channels or not x.is_floating_point():
            raise ValueError(
                f"inputs are {x.dtype} {tuple(x.shape)}, expected floating point values of {num_channels} channels "
                f"with {num_dims} dimensions: (batch size, {'..., ' if num_dims else ''}{num_channels})"
            )
        if self.position_encoding is not None:
            codes = self.position_encoding(tuple(x.shape[1:-1]), x.device).to(x.dtype)
            x = torch.cat([x, codes.expand(x.shape[0], *codes.shape)], dim=-1)
        x = rearrange(x, "b ... c -> b (...) c")
        pad_mask = None if pad_mask is None else rearrange(pad_mask, "b ... -> b (...)")
        latents = self.encoder(x, pad_mask)  # B N D
        return latents if self.decoder is None else self.decoder(reduce(latents, "b n d -> b d", "mean"))


@dataclass
class GatedDecoderConfig(Config):
    """Decoder of lucidrains' Perceiver IO. The cross-attention has no residual.

    Attributes:
        num_query_channels: Query channels F.
        num_output_channels: Output channels E. None: outputs are the F channels that the last layer returns.
        num_heads: Heads of the cross-attention.
        num_channels: Query, key and value channels of the cross-attention, all heads together.
        mlp: Whether a gated MLP follows the cross-attention.
    """

    num_query_channels: int
    num_output_channels: int | None = None
    num_heads: int = 1
    num_channels: int = 64
    mlp: bool = False


@dataclass
class LucidrainsPerceiverIOConfig(Config):
    """Perceiver IO of perceiver-pytorch."""

    encoder: GatedEncoderConfig
    decoder: GatedDecoderConfig


class LucidrainsPerceiverIO(nn.Module):
    """Perceiver IO of perceiver-pytorch.

    Args:
        config: Configuration.
    """

    def __init__(self, config: LucidrainsPerceiverIOConfig):
        super().__init__()
        decoder = config.decoder
        attention = CrossAttention(
            num_heads=decoder.num_heads,
            num_q_input_channels=decoder.num_query_channels,
            num_kv_input_channels=config.encoder.num_latent_channels,
            num_qk_channels=decoder.num_channels,
            qkv_bias=False,
        )
        self.config = config
        self.encoder = GatedEncoder(config.encoder)
        self.decoder = gated_layer(attention, decoder.num_query_channels, residual=False) if decoder.mlp else attention
        num_outputs = decoder.num_output_channels
        self.output = nn.Identity() if num_outputs is None else Linear(decoder.num_query_channels, num_outputs)
        self.init_parameters()

    def init_parameters(self) -> None:
        init_parameters(self, self.config.encoder.init_scale)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, *, query: Tensor) -> Tensor:
        """Encodes and decodes.

        Args:
            x: Inputs (B, M, C).
            pad_mask: Boolean (B, M), True where the input is padding.
            query: Output queries (B, O, F), or (1, O, F) or (O, F) if they are the same for all examples.

        Returns:
            (B, O, E)
        """
        return self.decode(self.encoder(x, pad_mask), query)

    def decode(self, latents: Tensor, query: Tensor) -> Tensor:
        """Latents (B, N, D) and queries as in `forward` -> (B, O, E)"""
        query = query[None] if query.ndim == 2 else query
        num_channels = self.config.decoder.num_query_channels
        if query.ndim != 3 or query.shape[-1] != num_channels:
            raise ValueError(
                f"queries have shape {tuple(query.shape)}, expected (batch size or 1, queries, {num_channels})"
            )
        return self.output(self.decoder(query, latents))


@dataclass
class LucidrainsPerceiverLMConfig(LucidrainsPerceiverIOConfig):
    """Language model of perceiver-pytorch. Embeddings, inputs and queries have the same channels; outputs are logits.

    Attributes:
        vocab_size: Number of token ids.
        max_seq_len: Longest input sequence.
    """

    vocab_size: int = 262
    max_seq_len: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.num_input_channels != self.decoder.num_query_channels:
            raise ValueError(
                f"encoder.num_input_channels={self.encoder.num_input_channels} and decoder.num_query_channels="
                f"{self.decoder.num_query_channels} must be equal: the embeddings are both"
            )
        if self.decoder.num_output_channels is not None:
            raise ValueError(
                f"decoder.num_output_channels={self.decoder.num_output_channels} must be None: they are vocab_size"
            )


class LucidrainsPerceiverLM(nn.Module):
    """Language model of perceiver-pytorch: an output for each position, none of which is masked.

    Args:
        config: Configuration.
    """

    def __init__(self, config: LucidrainsPerceiverLMConfig):
        super().__init__()
        self.config = config
        self.input_adapter = TokenInputAdapter(
            vocab_size=config.vocab_size,
            max_seq_len=config.max_seq_len,
            num_input_channels=config.encoder.num_input_channels,
        )
        decoder = replace(config.decoder, num_output_channels=config.vocab_size)
        self.perceiver_io = LucidrainsPerceiverIO(LucidrainsPerceiverIOConfig(config.encoder, decoder))
        self.init_parameters()

    @property
    def txt_embedding(self) -> nn.Embedding:
        return self.input_adapter.txt_embedding

    def init_parameters(self) -> None:
        init_parameters(self, self.config.encoder.init_scale)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M) and where they are padding, boolean (B, M) -> logits (B, M, vocabulary)"""
        x = self.input_adapter(x)  # B M C
        return self.perceiver_io(x, pad_mask, query=x)
