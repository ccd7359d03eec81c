"""Perceiver AR causal language model (arXiv 2202.07765): `CausalSequenceModel` over text tokens."""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig


@dataclass
class CausalLanguageModelConfig(CausalSequenceModelConfig):
    """Causal language model."""


class CausalLanguageModel(CausalSequenceModel):
    """Causal language model.

    Args:
        config: A `CausalLanguageModelConfig`.
    """


def perceiver_ar_byte_base() -> CausalLanguageModelConfig:
    """Model over UTF-8 bytes, context 4,096, 512 latents, 30,563,078 parameters.

    It is the geometry of the published byte model.
    """
    return CausalLanguageModelConfig(vocab_size=262, max_seq_len=4096, max_latents=512, num_channels=512)


def perceiver_ar_xlnet_base() -> CausalLanguageModelConfig:
    """Model over 32,000 SentencePiece tokens, context 1,024, 512 latents, 455,290,880 parameters.

    It is the geometry of the published model with the tokenizer of `xlnet-base-cased`.
    """
    return CausalLanguageModelConfig(
        vocab_size=32000,
        max_seq_len=1024,
        max_latents=512,
        num_channels=1280,
        num_heads=10,
        num_self_attention_layers=20,
    )
