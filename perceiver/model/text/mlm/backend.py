"""Perceiver IO masked language model (arXiv 2107.14795, section 4.1 and appendix F).

    token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, a query per position -> logits (B, M, vocabulary)

The output is tied (logits from the transposed token embedding, as in the paper) unless the decoder's
`num_output_query_channels` is set. Only the queries that are asked for are decoded: `output_positions` in `forward`,
the labelled positions in `loss`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import (
    TiedTokenOutputAdapter,
    TokenOutputAdapter,
    TrainableQueryProvider,
)
from perceiver.model.core.config import DecoderConfig, PerceiverIOConfig
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverIO
from perceiver.model.text.common.backend import TextEncoderConfig, text_encoder, txt_embedding


@dataclass
class TextDecoderConfig(DecoderConfig):
    """Decoder with one learned query per position.

    Attributes:
        num_output_query_channels: Query channels F of an untied output. None ties the output to the token embedding.
        vocab_size: Number of token ids.
        max_seq_len: Number of output queries.
    """

    num_output_query_channels: int | None = None
    vocab_size: int = 10003
    max_seq_len: int = 512


@dataclass
class MaskedLanguageModelConfig(PerceiverIOConfig):
    """Masked language model."""

    encoder: TextEncoderConfig
    decoder: TextDecoderConfig


def perceiver_io_language_base() -> MaskedLanguageModelConfig:
    """Perceiver IO base over UTF-8 bytes, 201,108,230 parameters: arXiv 2107.14795, section 4.1, table 1.

    It is the geometry of `deepmind/language-perceiver`.
    """
    return MaskedLanguageModelConfig(
        encoder=TextEncoderConfig(
            vocab_size=262,
            max_seq_len=2048,
            num_input_channels=768,
            num_cross_attention_qk_channels=256,
            num_cross_attention_v_channels=1280,
            num_self_attention_qk_channels=256,
            num_self_attention_v_channels=1280,
            num_self_attention_layers_per_block=26,
            dropout=0.1,
        ),
        decoder=TextDecoderConfig(
            vocab_size=262,
            max_seq_len=2048,
            num_cross_attention_qk_channels=256,
            num_cross_attention_v_channels=768,
            cross_attention_residual=False,
            dropout=0.1,
        ),
        num_latents=256,
        num_latent_channels=1280,
    )


class MaskedLanguageModel(PerceiverIO):
    """Masked language model.

    Raises:
        ValueError: if the output is tied and the vocabularies of encoder and decoder differ in size.
    """

    def __init__(self, config: MaskedLanguageModelConfig):
        tied = config.decoder.num_output_query_channels is None
        if tied and config.encoder.vocab_size != config.decoder.vocab_size:
            raise ValueError(
                f"a tied output needs equal vocabularies: encoder.vocab_size={config.encoder.vocab_size}, "
                f"decoder.vocab_size={config.decoder.vocab_size}"
            )
        num_query_channels = config.encoder.num_input_channels if tied else config.decoder.num_output_query_channels
        assert num_query_channels is not None
        output_adapter: nn.Module
        if tied:
            output_adapter = TiedTokenOutputAdapter(vocab_size=config.decoder.vocab_size)
        else:
            output_adapter = TokenOutputAdapter(
                vocab_size=config.decoder.vocab_size, num_output_query_channels=num_query_channels
            )
        decoder = PerceiverDecoder(
            output_adapter,
            config.decoder,
            num_latent_channels=config.num_latent_channels,
            output_query_provider=TrainableQueryProvider(config.decoder.max_seq_len, num_query_channels),
            activation_checkpointing=config.activation_checkpointing,
            activation_offloading=config.activation_offloading,
        )
        super().__init__(text_encoder(config.encoder, config), decoder)
        self.config = config

    @property
    def txt_embedding(self) -> nn.Embedding:
        return txt_embedding(self)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, output_positions: Tensor | None = None) -> Tensor:
        """Predicts tokens.

        Args:
            x: Token ids (B, M).
            pad_mask: Boolean (B, M), True where `x` is padding.
            output_positions: Indices (B, P) of the positions to predict, or (1, P) if they are the same for all
                examples. By default the M positions of the input.

        Returns:
            Logits (B, M, vocabulary), or (B, P, vocabulary).

        Raises:
            ValueError: if `x` is longer than the model allows or has ids that are not in the vocabulary, or if
                `pad_mask` or `output_positions` don't fit.
        """
        if output_positions is not None and (output_positions.ndim != 2 or len(output_positions) not in (1, len(x))):
            raise ValueError(
                f"output_positions have shape {tuple(output_positions.shape)}, expected ({len(x)} or 1, positions)"
            )
        latents = self.encoder(x, pad_mask)  # B N D
        if output_positions is None:
            max_seq_len = self.config.decoder.max_seq_len
            if x.shape[1] > max_seq_len:
                raise ValueError(f"sequence length {x.shape[1]} exceeds max_seq_len={max_seq_len} of the decoder")
            output_positions = torch.arange(x.shape[1], device=x.device)[None]
        query = self.decoder.output_query_provider(output_positions)  # (B or 1) P F
        if self.config.decoder.num_output_query_channels is None:
            return self.decoder(latents, query, embedding=self.txt_embedding.weight)
        return self.decoder(latents, query)

    def loss(self, labels: Tensor, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over labelled positions, decoding no others.

        Args:
            labels: Token ids (B, M) to predict, -100 where nothing is to be predicted.
            x: Token ids (B, M), masked.
            pad_mask: Boolean (B, M), True where `x` is padding.

        Returns:
            Scalar. 0 if there are no labels.

        Raises:
            ValueError: if `labels` and `x` have different shapes, if (on CPU) a label is not in the vocabulary, and as
                `forward`.
        """
        positions, labels = labelled_positions(labels, x)
        return token_cross_entropy(self(x, pad_mask, output_positions=positions), labels)


def labelled_positions(labels: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The positions (B, P) that have a label and their labels (B, P).

    P is the largest number of labels of an example, at least 1. Examples with fewer are filled up with positions
    without label, -100.
    """
    if labels.shape != x.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, inputs {tuple(x.shape)}: they must be equal")
    labelled = labels != -100
    num_positions = max(int(labelled.sum(dim=1).max()), 1)
    positions = labelled.int().argsort(dim=1, descending=True, stable=True)[:, :num_positions]
    return positions, labels.gather(1, positions)
