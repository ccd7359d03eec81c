"""Perceiver IO text classifier (arXiv 2107.14795, section 4.1: a learned query per task).

    token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, O learned queries -> logits (B, O, classes)

With one query, logits are (B, classes).

The encoder is that of the masked language model, from which a Lightning module initialises it (`encoder.params`).
"""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.adapter import ClassificationOutputAdapter, TrainableQueryProvider
from perceiver.model.core.config import ClassificationDecoderConfig, PerceiverIOConfig
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverIO
from perceiver.model.text.common.backend import TextEncoderConfig, text_encoder


@dataclass
class TextClassifierConfig(PerceiverIOConfig):
    """Text classifier."""

    encoder: TextEncoderConfig
    decoder: ClassificationDecoderConfig


class TextClassifier(PerceiverIO):
    """Text classifier. `forward` takes token ids (B, M) and a pad mask (B, M), True = padding, and returns logits
    (B, classes), or (B, O, classes) for more than one output query.

    Raises:
        ValueError: if there are fewer than one class or output query.
    """

    def __init__(self, config: TextClassifierConfig):
        for name in ("num_classes", "num_output_queries"):
            if (size := getattr(config.decoder, name)) < 1:
                raise ValueError(f"decoder.{name}={size} must be at least 1")
        num_query_channels = config.decoder.num_output_query_channels
        decoder = PerceiverDecoder(
            ClassificationOutputAdapter(
                num_classes=config.decoder.num_classes, num_output_query_channels=num_query_channels
            ),
            config.decoder,
            num_latent_channels=config.num_latent_channels,
            output_query_provider=TrainableQueryProvider(config.decoder.num_output_queries, num_query_channels),
            activation_checkpointing=config.activation_checkpointing,
            activation_offloading=config.activation_offloading,
        )
        super().__init__(text_encoder(config.encoder, config), decoder)
        self.config = config
