"""Symbolic audio model for Hugging Face: Auto classes, generation, symbolic-audio-generation pipeline; conversion."""

from __future__ import annotations

import enum
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from transformers import (
    GenerationConfig,
    Pipeline,
    SequenceFeatureExtractor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from perceiver.model.audio.symbolic.backend import PAD_TOKEN_ID, SymbolicAudioModel
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter
from perceiver.model.huggingface.generation import CausalSequenceGenerationModel
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.perceiver_ar import PerceiverARBody
from perceiver.tasks import TASKS

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI


PerceiverSymbolicAudioModelConfig = config_class(TASKS["symbolic-audio"])


class PerceiverSymbolicAudioModelBody(PerceiverARBody):
    """Body of a symbolic audio model, registered with `AutoModel`."""

    config_class = PerceiverSymbolicAudioModelConfig
    backend_class = SymbolicAudioModel


class PerceiverSymbolicAudioModel(CausalSequenceGenerationModel):
    """Symbolic audio model, registered with `AutoModelForCausalLM`. It never generates padding."""

    config_class = PerceiverSymbolicAudioModelConfig
    backend_class = SymbolicAudioModel
    body_class = PerceiverSymbolicAudioModelBody

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict[str, Any]]:
        config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)  # type: ignore[misc]
        config.suppress_tokens = [*(config.suppress_tokens or ()), PAD_TOKEN_ID]
        if config.pad_token_id is None:
            config.pad_token_id = PAD_TOKEN_ID
        return config, model_kwargs


class ReturnType(enum.Enum):
    """What the pipeline returns, see `SymbolicAudioGenerationPipeline`."""

    TENSORS = 0
    AUDIO = 1


class SymbolicAudioGenerationPipeline(Pipeline):
    """Continues pieces of music: `pipeline("symbolic-audio-generation", model=...)(prompt)`.

    A prompt is a `PrettyMIDI`, the path of a MIDI file, or None, which begins a piece from nothing but a medium
    loudness. A list of prompts gives a list of results; `batch_size` says how many the model continues at a time.

    Args of the pipeline, or of a call:
        max_prompt_length: Number of tokens to keep of a prompt, its first ones. Default: all.
        return_full_audio: Whether the result begins with the prompt (default), as audio and as token ids.
        return_type: A `ReturnType`: `AUDIO` (default), or `TENSORS` for token ids.
        render: Whether audio is also rendered as sound, see `perceiver.data.audio.render_wav`.
        sf2_path: Sound font to render with. Default: that of pretty_midi.
        kwargs: Arguments of the model's `generate`. `max_new_tokens` is 256 by default, and the search is greedy
            unless something else is asked for, `do_sample=True` for example.

    A result is a dictionary with `generated_token_ids`, or with `generated_audio_midi`, a `PrettyMIDI`, and with
    `render` also `generated_audio_wav`, the bytes of a WAV file, None if there are no notes in it. It is a list of
    these if `num_return_sequences` is larger than 1.

    Raises:
        OSError: if there is no such prompt, it is no MIDI file, or there is no fluidsynth to play a sound font with.
        ValueError: if a prompt has no notes, or an argument is out of range.
    """

    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_processor = False  # type: ignore[assignment]
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    model: PerceiverSymbolicAudioModel

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # All that transformers wants to know of it is how prompts become a batch.
        self.feature_extractor = SequenceFeatureExtractor(
            feature_size=1, sampling_rate=1, padding_value=PAD_TOKEN_ID, padding_side="left"
        )

    def _sanitize_parameters(
        self,
        max_prompt_length: int | None = None,
        return_full_audio: bool | None = None,
        return_type: ReturnType | None = None,
        render: bool | None = None,
        sf2_path: str | Path | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if render or sf2_path is not None:
            from perceiver.processing.sound import find_player

            find_player(sf2_path)  # what is wrong with it is an error now, not after the generation
        # Only what is given: arguments of a call are put over those of the pipeline.
        if max_prompt_length is not None and max_prompt_length < 1:
            raise ValueError(f"max_prompt_length={max_prompt_length} must be at least 1")
        if return_type is not None:
            return_type = ReturnType(return_type)  # an error if it is none
        if render and return_type == ReturnType.TENSORS:
            raise ValueError(f"render={render} needs audio, return_type is {return_type}")
        postprocess = {
            "return_type": return_type,
            "return_full_audio": return_full_audio,
            "render": render,
            "sf2_path": sf2_path,
        }
        return (
            {} if max_prompt_length is None else {"max_prompt_length": max_prompt_length},
            kwargs,
            {name: value for name, value in postprocess.items() if value is not None},
        )

    def preprocess(  # type: ignore[override]
        self, prompt: PrettyMIDI | str | Path | None, max_prompt_length: int | None = None
    ) -> dict[str, Any]:
        from pretty_midi import PrettyMIDI

        from perceiver.processing.midi import VELOCITY, encode_midi

        if not isinstance(prompt, PrettyMIDI | str | Path | None):
            raise ValueError(
                f"a prompt is a {type(prompt).__name__}, it must be a PrettyMIDI, a MIDI file's path or None"
            )
        ids = [VELOCITY + 16] if prompt is None else encode_midi(prompt)
        if not ids:
            raise ValueError("a prompt has no notes. None as prompt begins a piece from nothing")
        input_ids = torch.tensor([ids[:max_prompt_length]])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        sequences = self.model.generate(**model_inputs, **self._prepare_generate_kwargs(kwargs))
        batch_size = len(model_inputs["input_ids"])
        return {
            "sequences": rearrange(sequences, "(b s) n -> b s n", b=batch_size),
            "prompt_length": model_inputs["attention_mask"].sum(dim=1),
        }

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        return_type: ReturnType = ReturnType.AUDIO,
        return_full_audio: bool = True,
        render: bool = False,
        sf2_path: str | Path | None = None,
    ) -> Any:
        from perceiver.processing.midi import decode_midi

        prompt_length = int(model_outputs["prompt_length"])
        results = []
        for sequence in model_outputs["sequences"][0].tolist():
            ids = [token for token in sequence if token != PAD_TOKEN_ID]
            if return_type == ReturnType.TENSORS:
                results.append({"generated_token_ids": ids if return_full_audio else ids[prompt_length:]})
            else:
                midi = decode_midi(ids, prompt_length) if return_full_audio else self._new_piece(ids, prompt_length)
                results.append(self._audio(midi, render, sf2_path))
        return results[0] if len(results) == 1 else results

    @staticmethod
    def _new_piece(ids: list[int], prompt_length: int) -> PrettyMIDI:
        from perceiver.processing.midi import VELOCITY, decode_midi

        # New notes are as loud as the prompt said last.
        loudness = [token for token in ids[:prompt_length] if token >= VELOCITY][-1:]
        return decode_midi(loudness + ids[prompt_length:])

    @staticmethod
    def _audio(midi: PrettyMIDI, render: bool, sf2_path: str | Path | None) -> dict[str, Any]:
        from perceiver.processing.sound import render_wav

        result: dict[str, Any] = {"generated_audio_midi": midi}
        if render:
            result["generated_audio_wav"] = None
        if render and midi.instruments[0].notes:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "audio.wav"
                render_wav(midi, file, sf2_path)
                result["generated_audio_wav"] = file.read_bytes()
        return result


convert_checkpoint = checkpoint_converter(PerceiverSymbolicAudioModel)
register_model(PerceiverSymbolicAudioModel)
PIPELINE_REGISTRY.register_pipeline(
    "symbolic-audio-generation",
    pipeline_class=SymbolicAudioGenerationPipeline,
    pt_model=PerceiverSymbolicAudioModel,
)
