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

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.data.audio.base import SymbolicAudioDataModule as SymbolicAudioDataModule
    from perceiver.data.audio.giantmidi import GiantMidiPianoDataModule as GiantMidiPianoDataModule
    from perceiver.data.audio.local import LocalMidiDataModule as LocalMidiDataModule
    from perceiver.data.audio.maestro import MaestroV3DataModule as MaestroV3DataModule
    from perceiver.data.audio.synthetic import (
        PianoPiece as PianoPiece,
        SyntheticPianoDataModule as SyntheticPianoDataModule,
        piano_piece as piano_piece,
    )
    from perceiver.processing.midi import decode_midi as decode_midi, encode_midi as encode_midi
    from perceiver.processing.sound import draw_piano_roll as draw_piano_roll, render_wav as render_wav

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
