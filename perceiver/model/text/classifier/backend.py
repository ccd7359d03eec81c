"""Perceiver IO text classifier (arXiv 2107.14795, section 4.1: a learned query per task).

    token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, O learned queries -> logits (B, O, classes)

With one query, logits are (B, classes).

The encoder is that of the masked language model, from which a Lightning module initialises it (`encoder.params`).
"""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.classification import classification_decoder
from perceiver.model.core.config import ClassificationDecoderConfig, PerceiverIOConfig
from perceiver.model.core.perceiver_io import PerceiverIO
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
        super().__init__(text_encoder(config.encoder, config), classification_decoder(config.decoder, config))
        self.config = config
