"""Perceiver IO masked language model (arXiv 2107.14795, section 4.1 and appendix F).

The output is tied (logits from the transposed token embedding, as in the paper) unless the decoder's
`num_output_query_channels` is set.
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
class TextDecoderConfig(PerPositionDecoderConfig):
    """Decoder with one learned query per position.

    Attributes:
        num_output_query_channels: Query channels F of an untied output. None ties the output to the token embedding.
        vocab_size: Number of token ids.
        max_seq_len: Number of output queries.
    """

    vocab_size: int = 10003


@dataclass
class MaskedLanguageModelConfig(PerceiverIOConfig):
    """Masked language model."""

    encoder: TextEncoderConfig
    decoder: TextDecoderConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and self.encoder.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"a tied output needs equal vocabularies: encoder.vocab_size={self.encoder.vocab_size}, "
                f"decoder.vocab_size={self.decoder.vocab_size}"
            )

    @property
    def tied(self) -> bool:
        """Whether the output is tied to the token embedding."""
        return self.decoder.num_output_query_channels is None


def perceiver_io_language_base() -> MaskedLanguageModelConfig:
    """Perceiver IO base over UTF-8 bytes, 201,108,230 parameters: arXiv 2107.14795, section 4.1, table 1.

    It is the geometry of `deepmind/language-perceiver`.
    """
    return MaskedLanguageModelConfig(
        encoder=perceiver_io_base_encoder(),
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


class MaskedLanguageModel(PerPositionModel):
    """Masked language model."""

    def __init__(self, config: MaskedLanguageModelConfig):
        super().__init__(config, config.decoder.vocab_size, tied=config.tied)
        self.config = config
