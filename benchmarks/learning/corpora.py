"""Texts that come with Python; and data of packages that the project does not depend on: chorales of music21, outlines
of leaves of aeon.

    pip install music21
    pip install --no-deps aeon    # a data file is all that is read of it

music21 reads its scores in a minute or two. What comes of them is kept in the user's cache folder.
"""

from __future__ import annotations

import json
import os
import sysconfig
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pretty_midi import Instrument, Note, PrettyMIDI

from perceiver.processing.midi import NOTE_OFF, encode_midi, transpose

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perceiver"
SECONDS = 0.48  # of a quarter note: then that of a sixteenth is a whole number of steps of 10 ms
VOICES = 4


def folder_of(package: str, command: str) -> Path:
    """Where a package is installed; it is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the data are those of {package}, which is not installed: {command}")
    return Path(spec.submodule_search_locations[0])


def python_texts() -> list[bytes]:
    """The help topics of this Python, in the order of their names, then the modules of its standard library that are a
    file and in no package, in the order of theirs."""
    from pydoc_data.topics import topics

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [topics[name].encode() for name in sorted(topics)] + [module.read_bytes() for module in modules]


def chorales() -> list[list[int]]:
    """MIDI events (perceiver.processing.midi) of Bach's chorales in four voices, in Riemenschneider's order.

    Those that are there twice, if in another key, are taken once.
    """
    folder_of("music21", "pip install music21")
    file = CACHE / f"chorales-music21-{version('music21')}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(read_chorales()), encoding="utf-8")
        unfinished.replace(file)
    pieces: list[list[int]] = json.loads(file.read_text(encoding="utf-8"))
    return pieces


def read_chorales() -> list[list[int]]:
    from music21 import corpus

    pieces: dict[tuple[int, ...], list[int]] = {}
    for name in corpus.chorales.Iterator(returnType="filename"):
        parts = corpus.parse(name).parts
        if len(parts) == VOICES:
            ids = events([notes_of(part) for part in parts])
            pieces.setdefault(in_one_key(ids), ids)
    return list(pieces.values())


def notes_of(part: Any) -> list[tuple[float, float, int]]:
    """(start, length, pitch) of the notes of a music21 part, in quarters, without grace notes."""
    return [
        (float(element.offset), float(element.quarterLength), pitch.midi)
        for element in part.stripTies().flatten().notes
        for pitch in element.pitches
        if element.quarterLength > 0
    ]


def events(voices: list[list[tuple[float, float, int]]]) -> list[int]:
    """Token ids of voices, each of (start, length, pitch) in quarters. All notes are equally loud."""
    piece = PrettyMIDI()
    for voice in voices:
        instrument = Instrument(program=0)
        instrument.notes = [
            Note(64, pitch, SECONDS * start, SECONDS * (start + length)) for start, length, pitch in voice
        ]
        piece.instruments.append(instrument)
    return encode_midi(piece)


def in_one_key(ids: list[int]) -> tuple[int, ...]:
    """The same for pieces that differ in their key only: their first note becomes pitch 0."""
    first = next(i for i in ids if i < NOTE_OFF)
    return tuple(transpose(np.array(ids), -first).tolist())


def leaves() -> tuple[np.ndarray, np.ndarray, int]:
    """OSULeaf of the UCR archive: distances (n, 427) of the outline from the centre of a leaf, one of six kinds of tree
    (n,), and how many are for training. The archive's own split, its training part first."""
    folder = folder_of("aeon", "pip install --no-deps aeon") / "datasets" / "data" / "OSULeaf"
    x, y = read_series(folder / "OSULeaf_TRAIN.ts")
    test_x, test_y = read_series(folder / "OSULeaf_TEST.ts")
    _, classes = np.unique(y + test_y, return_inverse=True)
    return np.concatenate([x, test_x]), classes, len(y)


def read_series(path: Path) -> tuple[np.ndarray, list[str]]:
    """Series of one variable and equal length (n, length), and their labels, from a .ts file.

    Raises:
        ValueError: if the file has other series.
    """
    _, found, data = path.read_text(encoding="utf-8").partition("@data\n")
    rows = [line.split(":") for line in data.splitlines()]
    lengths = {row[0].count(",") for row in rows}
    if not found or len(lengths) != 1 or any(len(row) != 2 for row in rows):
        raise ValueError(f"{path} must hold series of one variable and equal length, each with a label")
    return np.array([row[0].split(",") for row in rows], dtype=np.float64), [row[1] for row in rows]
