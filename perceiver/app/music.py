"""Playground of symbolic audio: continues a MIDI file, draws and plays it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from perceiver.app.playground import Field, Output, Playground, data_url, with_progress

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

    def run(  # type: ignore[override]
        self, midi: bytes, prompt: int, num_tokens: int, temperature: float
    ) -> Iterator[Output]:
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "upload.mid"
            file.write_bytes(midi)
            arguments: dict[str, Any] = {"max_prompt_length": prompt, "max_new_tokens": num_tokens, **drawn}
            result: Any = None
            for number, step in enumerate(with_progress(partial(self.pipeline, str(file), render=True, **arguments))):
                if isinstance(step, list):
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
