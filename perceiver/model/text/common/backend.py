"""What the backends of text share: the encoder of token ids, and models with an output per position.

token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, a query per position -> (B, M, E)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import (
    TiedTokenOutputAdapter,
    TokenInputAdapter,
    TokenOutputAdapter,
    TrainableQueryProvider,
    is_readable,
)
from perceiver.model.core.config import DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.loss import check_labels, token_cross_entropy
from perceiver.model.core.perceiver_io import PerceiverIO, assemble


@dataclass
class TextEncoderConfig(EncoderConfig):
    """Encoder of token ids.

    Attributes:
        vocab_size: Number of token ids.
        max_seq_len: Longest input sequence M.
        num_input_channels: Token and position embedding channels C.
        params: What a Lightning module initialises the encoder from; published files have the field.
    """

    vocab_size: int = 10003
    max_seq_len: int = 256
    num_input_channels: int = 64
    params: str | None = None


def perceiver_io_base_encoder() -> TextEncoderConfig:
    """The encoder of Perceiver IO base over UTF-8 bytes: arXiv 2107.14795, section 4.1, table 1. It has 1,280 latent
    channels."""
    return TextEncoderConfig(
        vocab_size=262,
        max_seq_len=2048,
        num_input_channels=768,
        num_cross_attention_qk_channels=256,
        num_cross_attention_v_channels=1280,
        num_self_attention_qk_channels=256,
        num_self_attention_v_channels=1280,
        num_self_attention_layers_per_block=26,
        dropout=0.1,
    )


def text_input_adapter(config: TextEncoderConfig) -> TokenInputAdapter:
    return TokenInputAdapter(
        vocab_size=config.vocab_size, max_seq_len=config.max_seq_len, num_input_channels=config.num_input_channels
    )


def txt_embedding(model: PerceiverIO) -> nn.Embedding:
    """The token embedding of a text model."""
    assert isinstance(model.encoder.input_adapter, TokenInputAdapter)
    return model.encoder.input_adapter.txt_embedding


@dataclass
class PerPositionDecoderConfig(DecoderConfig):
    """Decoder with one learned query per position.

    Attributes:
        num_output_query_channels: Query channels F. None: the encoder's input channels C.
        max_seq_len: Number of output queries.
    """

    num_output_query_channels: int | None = None
    max_seq_len: int = 512


class PerPositionModel(PerceiverIO):
    """Base of text models with an output for each position of the input, or for those that are asked for.

    Args:
        config: Model configuration with a `TextEncoderConfig` and a `PerPositionDecoderConfig`.
        num_outputs: Output channels E.
        tied: Whether outputs come from the transposed token embedding.
    """

    def __init__(self, config: PerceiverIOConfig, num_outputs: int, *, tied: bool = False):
        encoder, decoder = config.encoder, config.decoder
        assert isinstance(encoder, TextEncoderConfig) and isinstance(decoder, PerPositionDecoderConfig)
        num_query_channels = decoder.num_output_query_channels or encoder.num_input_channels
        output_adapter: nn.Module = TiedTokenOutputAdapter(vocab_size=num_outputs)
        if not tied:
            output_adapter = TokenOutputAdapter(vocab_size=num_outputs, num_output_query_channels=num_query_channels)
        output_queries = TrainableQueryProvider(decoder.max_seq_len, num_query_channels)
        super().__init__(*assemble(config, text_input_adapter(encoder), output_adapter, output_queries))
        self.tied = tied
        self.max_seq_len = decoder.max_seq_len

    @property
    def txt_embedding(self) -> nn.Embedding:
        return txt_embedding(self)

    def forward(  # type: ignore[override]  # positions say which queries
        self, x: Tensor, pad_mask: Tensor | None = None, output_positions: Tensor | None = None
    ) -> Tensor:
        """Predicts an output per position.

        Args:
            x: Token ids (B, M), or their embeddings (B, M, C).
            pad_mask: Boolean (B, M), True where `x` is padding.
            output_positions: Indices (B, P) of the positions to predict, or (1, P) if they are the same for all
                examples. By default the M positions of the input.

        Returns:
            Logits (B, M, E), or (B, P, E).
        """
        if output_positions is not None and (output_positions.ndim != 2 or len(output_positions) not in (1, len(x))):
            raise ValueError(
                f"output_positions have shape {tuple(output_positions.shape)}, expected ({len(x)} or 1, positions)"
            )
        latents = self.encoder(x, pad_mask)  # B N D
        if output_positions is None:
            if x.shape[1] > self.max_seq_len:
                raise ValueError(f"sequence length {x.shape[1]} exceeds max_seq_len={self.max_seq_len} of the decoder")
            output_positions = torch.arange(x.shape[1], device=x.device)[None]
        query = self.decoder.output_query_provider(output_positions)  # (B or 1) P F
        if self.tied:
            return self.decoder(latents, query, embedding=self.txt_embedding.weight)
        return self.decoder(latents, query)

    def loss(
        self, labels: Tensor, x: Tensor, pad_mask: Tensor | None = None, num_positions: int | None = None
    ) -> Tensor:
        """Mean cross-entropy over labelled positions, decoding no others.

        Args:
            labels: Classes (B, M), those of token ids in a language model, -100 where nothing is to be predicted.
            x: Token ids (B, M).
            pad_mask: Boolean (B, M), True where `x` is padding.
            num_positions: Number of positions to decode of each example, see `labelled_positions`.

        Returns:
            Scalar. 0 if there are no labels.
        """
        if num_positions is None and not is_readable(labels):
            num_positions = min(x.shape[1], self.max_seq_len)
        positions, labels = labelled_positions(labels, x, num_positions)
        return token_cross_entropy(self(x, pad_mask, output_positions=positions), labels)


def labelled_positions(labels: Tensor, x: Tensor, num_positions: int | None = None) -> tuple[Tensor, Tensor]:
    """The positions (B, P) that have a label and their labels (B, P).

    P is `num_positions`, by default `max_num_labels`, for which a device would have to be waited for. Examples with
    fewer labels are filled up with positions without, -100.
    """
    check_labels(labels, x)
    labelled = labels != -100
    if num_positions is None:
        num_positions = max_num_labels(labels)
    if num_positions < 1:
        raise ValueError(f"num_positions={num_positions} must be at least 1")
    positions = labelled.int().argsort(dim=1, descending=True, stable=True)[:, :num_positions]
    return positions, labels.gather(1, positions)


def max_num_labels(labels: Tensor) -> int:
    """The largest number of labels of an example, at least 1."""
    return max(int((labels != -100).sum(dim=1).max()), 1)
