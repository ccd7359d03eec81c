"""Text encoder: a Perceiver IO encoder of token ids (arXiv 2107.14795, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from perceiver.model.core.adapter import TokenInputAdapter
from perceiver.model.core.config import EncoderConfig, PerceiverIOConfig
from perceiver.model.core.perceiver_io import PerceiverEncoder, PerceiverIO


@dataclass
class TextEncoderConfig(EncoderConfig):
    """Encoder of token ids.

    Attributes:
        vocab_size: Number of token ids.
        max_seq_len: Longest input sequence M.
        num_input_channels: Token and position embedding channels C.
        params: Checkpoint, folder or hub id that a Lightning module initialises the encoder from.
    """

    vocab_size: int = 10003
    max_seq_len: int = 256
    num_input_channels: int = 64
    params: str | None = None


def text_encoder(config: TextEncoderConfig, model_config: PerceiverIOConfig) -> PerceiverEncoder:
    """Builds the encoder of a text model whose configuration is `model_config`."""
    input_adapter = TokenInputAdapter(
        vocab_size=config.vocab_size, max_seq_len=config.max_seq_len, num_input_channels=config.num_input_channels
    )
    return PerceiverEncoder(
        input_adapter,
        config,
        num_latents=model_config.num_latents,
        num_latent_channels=model_config.num_latent_channels,
        activation_checkpointing=model_config.activation_checkpointing,
        activation_offloading=model_config.activation_offloading,
    )


def txt_embedding(model: PerceiverIO) -> nn.Embedding:
    """The token embedding of a text model."""
    assert isinstance(model.encoder.input_adapter, TokenInputAdapter)
    return model.encoder.input_adapter.txt_embedding
