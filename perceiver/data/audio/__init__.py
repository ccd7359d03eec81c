"""Symbolic audio: MIDI <-> token ids, Lightning data modules over MIDI files, rendering.

```
midi_processor.py  encode_midi, decode_midi: the codec, and transposition and tempo of token ids
pieces.py          the cache on disk (written once, in parallel, atomically) and windows of pieces as examples
base.py            SymbolicAudioDataModule: encode once, cache, serve batches
files.py           MIDI files of folders and archives: the base of LocalMidiDataModule (local.py),
                   MaestroV3DataModule (maestro.py), GiantMidiPianoDataModule (giantmidi.py)
download.py        downloads with progress, resume and checksum
synthetic.py       piano_piece, SyntheticPianoDataModule: generated pieces in a known key and metre
render.py          render_wav (through fluidsynth), draw_piano_roll (through matplotlib)
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names

if TYPE_CHECKING:
    from perceiver.data.audio.base import SymbolicAudioDataModule
    from perceiver.data.audio.giantmidi import GiantMidiPianoDataModule
    from perceiver.data.audio.local import LocalMidiDataModule
    from perceiver.data.audio.maestro import MaestroV3DataModule
    from perceiver.data.audio.midi_processor import decode_midi, encode_midi
    from perceiver.data.audio.render import draw_piano_roll, render_wav
    from perceiver.data.audio.synthetic import PianoPiece, SyntheticPianoDataModule, piano_piece

__all__ = [
    "GiantMidiPianoDataModule",
    "LocalMidiDataModule",
    "MaestroV3DataModule",
    "PianoPiece",
    "SymbolicAudioDataModule",
    "SyntheticPianoDataModule",
    "decode_midi",
    "draw_piano_roll",
    "encode_midi",
    "piano_piece",
    "render_wav",
]

__getattr__ = lazy_names(
    __name__,
    {
        "GiantMidiPianoDataModule": "giantmidi",
        "LocalMidiDataModule": "local",
        "MaestroV3DataModule": "maestro",
        "PianoPiece": "synthetic",
        "SymbolicAudioDataModule": "base",
        "SyntheticPianoDataModule": "synthetic",
        "decode_midi": "midi_processor",
        "draw_piano_roll": "render",
        "encode_midi": "midi_processor",
        "piano_piece": "synthetic",
        "render_wav": "render",
    },
)
