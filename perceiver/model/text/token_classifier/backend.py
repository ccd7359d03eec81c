"""Perceiver IO token classifier: the masked language model of arXiv 2107.14795 with classes in place of tokens.

    token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, a query per position -> logits (B, M, classes)

Encoder, queries and the decoder's attention have the shapes of a masked language model with a tied output, which a
Lightning module can initialise them from. Only the queries that are asked for are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perceiver.model.core.adapter import TokenOutputAdapter, TrainableQueryProvider
from perceiver.model.core.config import DecoderConfig, PerceiverIOConfig
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverIO
from perceiver.model.text.common.backend import TextEncoderConfig, text_encoder
from perceiver.model.text.mlm.backend import labelled_positions


@dataclass
class TokenClassificationDecoderConfig(DecoderConfig):
    """Decoder with one learned query per position, whose outputs are the logits of classes.

    Attributes:
        num_output_query_channels: Query channels F. None: the encoder's input channels C, as in a tied masked language
            model.
        max_seq_len: Number of output queries.
        num_classes: Number of classes.
        params: Checkpoint, folder or hub id of a masked language model, or of a token classifier, that a Lightning
            module initialises queries and attention from.
    """

    num_output_query_channels: int | None = None
    max_seq_len: int = 512
    num_classes: int = 9
    params: str | None = None


@dataclass
class TokenClassifierConfig(PerceiverIOConfig):
    """Token classifier."""

    encoder: TextEncoderConfig
    decoder: TokenClassificationDecoderConfig


class TokenClassifier(PerceiverIO):
    """Token classifier.

    Raises:
        ValueError: if there is no class.
    """

    def __init__(self, config: TokenClassifierConfig):
        if config.decoder.num_classes < 1:
            raise ValueError(f"decoder.num_classes={config.decoder.num_classes} must be at least 1")
        num_query_channels = config.decoder.num_output_query_channels or config.encoder.num_input_channels
        decoder = PerceiverDecoder(
            TokenOutputAdapter(vocab_size=config.decoder.num_classes, num_output_query_channels=num_query_channels),
            config.decoder,
            num_latent_channels=config.num_latent_channels,
            output_query_provider=TrainableQueryProvider(config.decoder.max_seq_len, num_query_channels),
            activation_checkpointing=config.activation_checkpointing,
            activation_offloading=config.activation_offloading,
        )
        super().__init__(text_encoder(config.encoder, config), decoder)
        self.config = config

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, output_positions: Tensor | None = None) -> Tensor:
        """Classifies tokens.

        Args:
            x: Token ids (B, M).
            pad_mask: Boolean (B, M), True where `x` is padding.
            output_positions: Indices (B, P) of the positions to classify, or (1, P) if they are the same for all
                examples. By default the M positions of the input.

        Returns:
            Logits (B, M, classes), or (B, P, classes).

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
            if x.shape[1] > self.config.decoder.max_seq_len:
                raise ValueError(
                    f"sequence length {x.shape[1]} exceeds max_seq_len={self.config.decoder.max_seq_len} of the decoder"
                )
            output_positions = torch.arange(x.shape[1], device=x.device)[None]
        return self.decoder(latents, self.decoder.output_query_provider(output_positions))

    def loss(self, labels: Tensor, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over labelled positions, decoding no others.

        Args:
            labels: Classes (B, M), -100 where there is nothing to classify.
            x: Token ids (B, M).
            pad_mask: Boolean (B, M), True where `x` is padding.

        Returns:
            Scalar. 0 if there are no labels.

        Raises:
            ValueError: if `labels` and `x` have different shapes, if (on CPU) a label is out of range, and as
                `forward`.
        """
        positions, labels = labelled_positions(labels, x)
        return token_cross_entropy(self(x, pad_mask, output_positions=positions), labels)
