"""Perceiver AR symbolic audio model (arXiv 2202.07765, section 5.3.1): `CausalSequenceModel` over MIDI events.

Tokens are those of `perceiver.processing.midi`: notes on and off, time shifts, velocities.
"""

from __future__ import annotations

from dataclasses import dataclass

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig

PAD_TOKEN_ID = 388  # the last one of the vocabulary: padding, which is never predicted


@dataclass
class SymbolicAudioModelConfig(CausalSequenceModelConfig):
    """Symbolic audio model."""

    vocab_size: int = 389


class SymbolicAudioModel(CausalSequenceModel):
    """Symbolic audio model.

    Args:
        config: A `SymbolicAudioModelConfig`.
    """


def perceiver_ar_maestro() -> SymbolicAudioModelConfig:
    """Model for MAESTRO, context 4,096, 2,048 latents as in the paper, 28,531,712 parameters.

    Rotary positions alone say where an event is.
    """
    return SymbolicAudioModelConfig(
        max_seq_len=4096,
        max_latents=2048,
        num_channels=512,
        output_norm=True,
        output_bias=False,
        abs_pos_emb=False,
    )


def perceiver_ar_giantmidi() -> SymbolicAudioModelConfig:
    """Model for GiantMIDI-Piano, context 6,144, 2,048 latents, 134,840,832 parameters.

    It has the size of the published model.
    """
    return SymbolicAudioModelConfig(
        max_seq_len=6144,
        max_latents=2048,
        num_channels=768,
        num_self_attention_layers=18,
        output_norm=True,
        output_bias=False,
        abs_pos_emb=False,
    )
