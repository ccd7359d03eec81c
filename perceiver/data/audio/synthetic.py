"""Generated piano pieces: scales, arpeggios, and melodies over chords, in a known key and metre.

They need no download, and their rules are simple enough to see whether a model has learned them: all notes are in the
key, chords change with the bar, the first beat is the loudest. A piece is a function of its seed.

A piece has two to four phrases of four bars, each over a chord progression and in one texture (`TEXTURES`), and ends
on a bar of the tonic. Pitches are counted in degrees of the scale: 0 is the tonic, 7 degrees are an octave.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pretty_midi import ControlChange, Instrument, KeySignature, Note, PrettyMIDI, TimeSignature, key_number_to_key_name

from perceiver.checks import check_least
from perceiver.data.audio.base import SymbolicAudioDataModule
from perceiver.processing.midi import SUSTAIN

VERSION = 1  # of what a seed gives
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones of the degrees
METRES = {(2, 4): (2, 2), (3, 4): (2, 2, 2), (4, 4): (2, 2, 2, 2), (6, 8): (3, 3)}  # beats of a bar, in eighth notes
PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (0, 3, 1, 4), (0, 5, 1, 4))  # roots of the chords, in degrees
EIGHTH_SECONDS = (0.16, 0.18, 0.2, 0.22, 0.24, 0.26, 0.3)
RELEASE_SECONDS = 0.02  # from the end of a note, or of the pedal, to what follows
LOWEST_TONIC = 36


@dataclass(frozen=True)
class PianoPiece:
    """A generated piece and what is known of it.

    Attributes:
        midi: the piece, with its key, metre and tempo. Its times are multiples of 10 ms.
        key: "Eb Major" or "E minor", for example.
        pitch_classes: of the notes in the key, from the tonic, C being 0.
        metre: (beats of a bar, what note a beat is): (3, 4), for example.
        bar_seconds: length of a bar.
        textures: of the phrases.
    """

    midi: PrettyMIDI
    key: str
    pitch_classes: tuple[int, ...]
    metre: tuple[int, int]
    bar_seconds: float
    textures: tuple[str, ...]


def piano_piece(seed: int) -> PianoPiece:
    """The piece with that number, not negative: 6 to 40 seconds, some hundred notes."""
    random = np.random.default_rng(seed)
    tonic, mode = int(random.integers(12)), str(random.choice(list(SCALES)))
    metre = list(METRES)[random.integers(len(METRES))]
    textures = tuple(str(name) for name in random.choice(list(TEXTURES), size=random.integers(2, 5)))
    player = _Player(tonic, mode, METRES[metre], float(random.choice(EIGHTH_SECONDS)), random)
    for texture in textures:
        for root in PROGRESSIONS[random.integers(len(PROGRESSIONS))]:
            TEXTURES[texture](player, root)
            player.next_bar()
    player.chord(0, player.eighths)
    player.play(14, 0, player.eighths)
    player.next_bar()
    midi = player.piece()
    key = tonic + 12 * (mode == "minor")
    midi.key_signature_changes.append(KeySignature(key, 0.0))
    midi.time_signature_changes.append(TimeSignature(*metre, 0.0))
    classes = tuple((tonic + semitones) % 12 for semitones in SCALES[mode])
    return PianoPiece(midi, key_number_to_key_name(key), classes, metre, player.seconds(player.eighths), textures)


class _Player:
    """Writes notes into a piece, bar by bar; times are eighth notes since the bar began."""

    def __init__(self, tonic: int, mode: str, beats: Sequence[int], eighth: float, random: np.random.Generator):
        self.tonic, self.scale, self.eighth, self.random = tonic, SCALES[mode], eighth, random
        self.eighths = sum(beats)
        self.strong = [0, *np.cumsum(beats)[:-1].tolist()]  # where beats begin
        self.loudness = int(random.integers(50, 80))
        self.piano = Instrument(program=0, name="Piano")
        self.melody = 14  # degree of the last note of the melody
        self.bar = 0

    def play(self, degree: int, start: int, length: int, accent: int = 0) -> None:
        """A note of the scale; louder at the beginning of a bar and of a beat."""
        octave, step = divmod(degree, len(self.scale))
        pitch = LOWEST_TONIC + self.tonic + 12 * octave + self.scale[step]
        stress = 16 if start == 0 else 8 if start in self.strong else 0
        velocity = self.loudness + accent + stress + int(self.random.integers(4))
        begin = self.bar * self.eighths + start
        end = self.seconds(begin + length) - RELEASE_SECONDS
        self.piano.notes.append(Note(velocity, pitch, self.seconds(begin), round(end, 2)))

    def chord(self, root: int, length: int) -> None:
        """A triad in the left hand."""
        for degree in (root, root + 2, root + 4):
            self.play(degree, 0, length, accent=-10)

    def pedal(self) -> None:
        """Down from the beginning of this bar nearly to its end."""
        begin, end = self.seconds(self.bar * self.eighths), self.seconds((self.bar + 1) * self.eighths)
        self.piano.control_changes.append(ControlChange(SUSTAIN, 127, begin))
        self.piano.control_changes.append(ControlChange(SUSTAIN, 0, round(end - RELEASE_SECONDS, 2)))

    def next_bar(self) -> None:
        self.bar += 1

    def piece(self) -> PrettyMIDI:
        midi = PrettyMIDI(initial_tempo=60 / (2 * self.eighth))
        midi.instruments.append(self.piano)
        return midi

    def seconds(self, eighths: int) -> float:
        return round(eighths * self.eighth, 2)


def _scale(player: _Player, root: int) -> None:
    """A scale over a bass note, up in the first bar of two, down in the second."""
    player.play(root, 0, player.eighths, accent=-10)
    for eighth in range(player.eighths):
        player.play(14 + root + (eighth if player.bar % 2 == 0 else player.eighths - eighth), eighth, 1)


def _arpeggio(player: _Player, root: int) -> None:
    """A broken chord over a bass note, with pedal."""
    player.pedal()
    player.play(root, 0, player.eighths, accent=-10)
    for eighth in range(player.eighths):
        player.play(7 + root + (0, 2, 4, 7, 4, 2)[eighth % 6], eighth, 1, accent=-4)


def _melody(player: _Player, root: int) -> None:
    """A melody over a chord, with pedal: notes of the chord on beats, neighbours between them."""
    player.pedal()
    player.chord(root, player.eighths)
    start = 0
    while start < player.eighths:
        length = min(int(player.random.choice((1, 1, 2, 2, 3))), player.eighths - start)
        degrees = [degree for degree in range(14, 25) if start not in player.strong or (degree - root) % 7 in (0, 2, 4)]
        near = [degree for degree in degrees if 0 < abs(degree - player.melody) <= 2]
        player.melody = int(player.random.choice(near or degrees))
        player.play(player.melody, start, length, accent=6)
        start += length


TEXTURES: dict[str, Callable[[_Player, int], None]] = {"scale": _scale, "arpeggio": _arpeggio, "melody": _melody}


class SyntheticPianoDataModule(SymbolicAudioDataModule):
    """Generated pieces, each with a seed of its own.

    Args:
        dataset_dir: folder for encoded pieces.
        num_train_pieces: pieces for training.
        num_valid_pieces: pieces for validation, and as many for test.
        first_seed: of the pieces; `seed` is that of what is random in training.
        **kwargs: see `SymbolicAudioDataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/synthetic-piano",
        num_train_pieces: int = 500,
        num_valid_pieces: int = 50,
        first_seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        check_least(1, num_train_pieces=num_train_pieces, num_valid_pieces=num_valid_pieces)
        check_least(0, first_seed=first_seed)
        # Training is last: more training pieces leave the others as they are.
        test = first_seed + num_valid_pieces
        train = test + num_valid_pieces
        ends = {"valid": (first_seed, test), "test": (test, train), "train": (train, train + num_train_pieces)}
        self.raw_data = Seeds({split: range(*pair) for split, pair in ends.items()})


def read_piece(seed: int) -> PrettyMIDI:
    return piano_piece(seed).midi


@dataclass(frozen=True)
class Seeds:
    """The source of the pieces: their seeds by split."""

    splits: Mapping[str, range]

    read = staticmethod(read_piece)

    def identity(self) -> dict[str, Any]:
        return {"version": VERSION, "seeds": {split: [part.start, part.stop] for split, part in self.splits.items()}}

    def load(self, work_dir: Path) -> Mapping[str, range]:
        return self.splits
