"""Playground of symbolic audio: continues a MIDI file, draws and plays it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perceiver.app.playground import Field, Output, Outputs, Playground, data_url, seen_by_last, uploaded, with_progress
from perceiver.processing.midi import NOTE_OFF, STEPS_PER_SECOND, TIME_SHIFT, VELOCITY

MAX_NEW_TOKENS = 4096


class MusicPlayground(Playground):
    """Symbolic audio model."""

    def __init__(self, folder: str, task: str):
        super().__init__(folder, task)
        self.fields = [
            Field("midi", "MIDI file", "file", accept=".mid,.midi"),
            Field("prompt", "Tokens of it to keep", value=256, low=1, high=100_000),
            Field("num_tokens", "New tokens", value=256, low=1, high=MAX_NEW_TOKENS),
            Field("temperature", "Temperature", value=0.9, low=0, high=2, step=0.1),
        ]

    def run(self, midi: bytes, prompt: int, num_tokens: int, temperature: float) -> Outputs:
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with uploaded(midi, ".mid") as file:
            arguments: dict[str, Any] = {"max_prompt_length": prompt, "max_new_tokens": num_tokens, **drawn}
            result: Any = None
            ids: list[int] = []  # first those of the prompt
            for number, step in enumerate(with_progress(partial(self.pipeline, str(file), render=True, **arguments))):
                if isinstance(step, list):
                    ids += step
                    if number % 16 == 0:
                        yield {"kind": "progress", "text": f"{number} of {num_tokens} tokens"}
                else:
                    result = step
        piece = result["generated_audio_midi"]
        (start,) = [event.time for event in piece.text_events] or [0.0]
        notes = [[n.start, n.end, n.pitch, n.velocity / 127] for i in piece.instruments for n in i.notes]
        title = f"{len(notes)} notes, {sum(note[0] >= start for note in notes)} of them new"
        yield {"kind": "roll", "title": title, "seconds": piece.get_end_time(), "start": start, "notes": notes}
        if result["generated_audio_wav"] is not None:
            yield {"kind": "audio", "url": data_url(result["generated_audio_wav"], "audio/wav")}
        yield looked_at(np.array(ids[:-1]), *seen_by_last(self.model, torch.tensor(ids[:-1])))


def looked_at(ids: npt.NDArray[np.int64], first: int, weights: Tensor) -> Output:
    """A piano roll of the window: notes coloured by the weights of their events.

    Args:
        ids: Events of the piece (n,).
        first: Number of events before the window.
        weights: Those of the window (m,), m = n - first, which sum to 1.
    """
    shifts = np.where((ids >= TIME_SHIFT) & (ids < VELOCITY), ids - TIME_SHIFT + 1, 0)
    seconds, notes = np.cumsum(shifts[first:]) / STEPS_PER_SECOND, []
    window = ids[first:]
    for on in np.flatnonzero(window < NOTE_OFF):
        off = on + np.flatnonzero(window[on:] == window[on] + NOTE_OFF)[:1]  # none: it still sounds
        end = seconds[off] if len(off) else seconds[-1:]
        weight = float(weights[[on, *off]].sum())
        notes.append([float(seconds[on]), float(end[0]), int(window[on]), weight])
    largest, share = max([note[3] for note in notes], default=1.0), sum(note[3] for note in notes)
    notes = [[*note, weight / largest] for *note, weight in notes]
    title = f"What the last event was predicted from: notes have {share:.0%} of the weight"
    return {"kind": "roll", "title": title, "seconds": float(seconds[-1]), "start": 0.0, "notes": notes}
