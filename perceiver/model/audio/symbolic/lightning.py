"""Training of the symbolic audio model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from perceiver.model.audio.symbolic.backend import PAD_TOKEN_ID, SymbolicAudioModel, SymbolicAudioModelConfig
from perceiver.model.lightning.causal import LitCausalSequenceModel

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI


class LitSymbolicAudioModel(LitCausalSequenceModel):
    """Symbolic audio model. A batch is (labels, input_ids, pad_mask), each (B, M), with M at least `max_latents`,
    or of packed pieces (see `LitCausalSequenceModel`).

    Samples are MIDI files in the folder `samples` beside the logs: a prompt and what the model makes of it. TensorBoard
    gets their sound, and their piano rolls where matplotlib is installed.

    Args:
        validation_sample_prompt: MIDI file that is continued after each validation.
        validation_sample_record: Index of a validation record whose first half is continued after each validation, -1
            for a random one.
        num_loss_blocks: Number of blocks of `max_latents` tokens, the last ones, that training predicts, each with all
            tokens before it as its prefix. Validation predicts one.
        params: Checkpoint, folder or hub id that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The fields of `SymbolicAudioModelConfig`.
    """

    config_class = SymbolicAudioModelConfig
    model: SymbolicAudioModel

    def __init__(
        self,
        validation_sample_prompt: str | None = None,
        validation_sample_record: int | None = None,
        params: str | None = None,
        params_strict: bool = True,
        num_loss_blocks: int = 1,
        **kwargs: Any,
    ):
        super().__init__(
            SymbolicAudioModel(SymbolicAudioModelConfig(**kwargs)),
            validation_sample_prompt=validation_sample_prompt,
            validation_sample_record=validation_sample_record,
            num_loss_blocks=num_loss_blocks,
            params=params,
            params_strict=params_strict,
        )

    def prompt_tokens(self, prompt: str) -> Tensor:
        from perceiver.processing.midi import encode_midi

        return torch.tensor(encode_midi(prompt), dtype=torch.int64)

    def decoded(self, prompt: Tensor, continuation: Tensor) -> PrettyMIDI:
        from perceiver.processing.midi import decode_midi

        prompt, continuation = (tokens[tokens != PAD_TOKEN_ID].cpu() for tokens in (prompt, continuation))
        return decode_midi(torch.cat([prompt, continuation]), prompt_length=len(prompt))

    def log_sample(self, name: str, sample: PrettyMIDI) -> None:
        from perceiver.processing.sound import SAMPLE_RATE, draw_piano_roll, render_wav

        folder = Path(self.trainer.log_dir or ".", "samples")  # all processes have to ask for it
        if not self.trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        sample.write(str(folder / f"{name}-{self.global_step:06d}.mid"))
        if not sample.instruments[0].notes:
            return  # nothing to see or hear
        for logger in self.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            if find_spec("matplotlib"):
                logger.experiment.add_figure(name, draw_piano_roll(sample), self.global_step)
            sound = torch.from_numpy(render_wav(sample)).mean(dim=1)[None]  # mono
            logger.experiment.add_audio(name, sound, self.global_step, sample_rate=SAMPLE_RATE)
