"""Perceiver IO text classifier (arXiv 2107.14795, section 4.1: a learned query per task).

    token ids (B, M) -> encoder -> latents (B, N, D) -> decoder, O learned queries -> logits (B, O, classes)

The encoder is that of the masked language model, from which a Lightning module initialises it.
"""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.classification import classification_output
from perceiver.model.core.config import ClassificationDecoderConfig, PerceiverIOConfig
from perceiver.model.core.perceiver_io import PerceiverIO, assemble
from perceiver.model.text.common.backend import TextEncoderConfig, perceiver_io_base_encoder, text_input_adapter


@dataclass
class TextClassifierConfig(PerceiverIOConfig):
    """Text classifier."""

    encoder: TextEncoderConfig
    decoder: ClassificationDecoderConfig


def perceiver_io_text_classifier() -> TextClassifierConfig:
    """200,587,010 parameters, the published classifier of IMDb reviews, with the encoder of Perceiver IO base (arXiv
    2107.14795, section 4.1, table 1). `PerceiverForSequenceClassification` of transformers is the same but for the
    output query, which has 1,280 channels there."""
    decoder = ClassificationDecoderConfig(
        num_classes=2, num_output_query_channels=768, num_cross_attention_heads=1, dropout=0.1
    )
    return TextClassifierConfig(perceiver_io_base_encoder(), decoder, num_latents=256, num_latent_channels=1280)


class TextClassifier(PerceiverIO):
    """Text classifier. `forward` takes token ids (B, M) and a pad mask (B, M), True = padding, and returns logits
    (B, classes), or (B, O, classes) for more than one output query."""

    def __init__(self, config: TextClassifierConfig):
        super().__init__(*assemble(config, text_input_adapter(config.encoder), *classification_output(config.decoder)))
        self.config = config
