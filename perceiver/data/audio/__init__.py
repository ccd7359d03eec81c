"""Symbolic audio: Lightning data modules over MIDI files.

```
base.py       SymbolicAudioDataModule: encode once, serve windows of pieces. Under it LocalMidiDataModule (local.py),
              MaestroV3DataModule (maestro.py), GiantMidiPianoDataModule (giantmidi.py)
files.py      MIDI files of folders and archives as a source
pieces.py     pieces as token ids on disk (encoded in parallel), and windows of them as examples
download.py   downloads with progress, resume and checksum
synthetic.py  piano_piece, SyntheticPianoDataModule: generated pieces in a known key and metre
```

The codec and rendering are in `perceiver.processing` (`midi.py`, `sound.py`), and have their names here, too. All names
are imported when they are first used, so that inference does not pay for Lightning.
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
