"""Perceiver IO token classifier: the masked language model of arXiv 2107.14795 with classes in place of tokens.

Encoder, queries and the decoder's attention have the shapes of a masked language model with a tied output, which a
Lightning module can initialise them from.
"""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.config import PerceiverIOConfig
from perceiver.model.text.common.backend import (
    PerPositionDecoderConfig,
    PerPositionModel,
    TextEncoderConfig,
    perceiver_io_base_encoder,
)


@dataclass
class TokenClassificationDecoderConfig(PerPositionDecoderConfig):
    """Decoder with one learned query per position, whose outputs are the logits of classes.

    Attributes:
        num_output_query_channels: Query channels F. None: the encoder's input channels C, as in a tied masked language
            model.
        max_seq_len: Number of output queries.
        num_classes: Number of classes.
        params: What a Lightning module initialises queries and attention from: a masked language model or a token
            classifier.
    """

    num_classes: int = 9
    params: str | None = None


@dataclass
class TokenClassifierConfig(PerceiverIOConfig):
    """Token classifier."""

    encoder: TextEncoderConfig
    decoder: TokenClassificationDecoderConfig


def perceiver_io_token_classifier() -> TokenClassifierConfig:
    """Perceiver IO base over UTF-8 bytes: arXiv 2107.14795, section 4.1, with the 9 classes of CoNLL-2003."""
    return TokenClassifierConfig(
        encoder=perceiver_io_base_encoder(),
        decoder=TokenClassificationDecoderConfig(
            max_seq_len=2048,
            num_cross_attention_qk_channels=256,
            num_cross_attention_v_channels=768,
            cross_attention_residual=False,
            dropout=0.1,
        ),
        num_latents=256,
        num_latent_channels=1280,
    )


class TokenClassifier(PerPositionModel):
    """Token classifier."""

    def __init__(self, config: TokenClassifierConfig):
        super().__init__(config, config.decoder.num_classes)
        self.config = config
