"""MIDI <-> token ids, in the vocabulary of the published symbolic audio models.

    0 .. 127     note on, of this pitch
    128 .. 255   note off
    256 .. 355   time shift by 1 to 100 steps of 10 ms; a longer gap is several of them
    356 .. 387   velocity of the notes that follow, in buckets of four: v // 4
    388          padding

Events are in the order of their exact times; times are rounded to steps from the start of the piece, so rounding errors
don't add up. Each note on has its velocity before it, also where it is the same again: the published encoder does so,
and the published models know nothing else.

The sustain pedal has no token: it is in the lengths of notes. A note that begins while the pedal is down sounds until
the pedal goes up, or until the next onset of the same pitch before that.

What the vocabulary can't say: which of two sounding notes of one pitch a note off is for (it is for the one that began
first), a note that is shorter than half a step (it is lost in decoding), and what instrument plays.
"""

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mido.midifiles.meta import KeySignatureError
from pretty_midi import Instrument, Note, PrettyMIDI, Text

from perceiver.checks import check_least

NOTE_ON, NOTE_OFF, TIME_SHIFT, VELOCITY, PAD, VOCAB_SIZE = 0, 128, 256, 356, 388, 389
STEPS_PER_SECOND = 100
MAX_SHIFT = VELOCITY - TIME_SHIFT  # steps
BUCKET = 4  # velocities per velocity token
MAX_SECONDS = 24 * 3600  # longer pieces are damaged files; each second of silence is a token
SUSTAIN, DOWN = 64, 64  # number of the pedal's control, and the least value that means down
CONTINUATION = "continuation"  # the text event where a prompt ends
# What mido and pretty_midi raise where they can't read on.
DAMAGED = (OSError, EOFError, ValueError, LookupError, ArithmeticError, TypeError, KeySignatureError)

logger = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def read_midi(piece: PrettyMIDI | str | Path) -> PrettyMIDI:
    """Reads a MIDI file; what looks wrong in it is logged. What is read already is returned as it is.

    Raises:
        OSError: if there is no such file, or it is no MIDI file or a damaged one.
    """
    if isinstance(piece, PrettyMIDI):
        return piece
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            midi = PrettyMIDI(str(piece))
        except DAMAGED as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # no such file, no right to read it
            reason = str(error) or "it ends too early"  # mido's EOFError says nothing
            raise OSError(f"{piece} is no MIDI file, or a damaged one: {reason}") from error
    for warning in caught:
        logger.warning("%s: %s", piece, warning.message)
    return midi


def encode_midi(piece: PrettyMIDI | str | Path) -> list[int]:
    """Token ids of all notes of all instruments but percussion; none if there are no notes. `piece` is not changed.

    Args:
        piece: a `PrettyMIDI`, or the path of a MIDI file.

    Raises:
        OSError: see `read_midi`; also if a note of a file is as follows.
        ValueError: if a note has a negative time or one of more than a day, ends before it starts, or has a pitch or
            velocity that is not in 0 .. 127.
    """
    if not isinstance(piece, PrettyMIDI):
        try:
            return encode_midi(read_midi(piece))
        except ValueError as error:
            raise OSError(f"{piece} is a damaged MIDI file: {error}") from error
    instruments = [instrument for instrument in piece.instruments if not instrument.is_drum]
    notes = np.concatenate([np.empty((4, 0)), *map(_sounding_notes, instruments)], axis=1)
    start, end, pitch, velocity = notes[:, np.argsort(notes[0], kind="stable")]
    times = np.stack([start, start, end], axis=1).ravel()
    ids = np.stack([VELOCITY + velocity // BUCKET, NOTE_ON + pitch, NOTE_OFF + pitch], axis=1).ravel().astype(np.int64)
    # Stable: what happens at the same time stays in the order of the notes.
    order = np.argsort(times, kind="stable")
    encoded: list[int] = _with_shifts(ids[order], _steps(times[order])).tolist()
    return encoded


def decode_midi(ids: Any, prompt_length: int = 0) -> PrettyMIDI:
    """The piece that token ids describe, played by a piano.

    A note off without a note on before it is ignored. One that comes after its note has ended makes that note sound a
    second time, from the same start to here. Notes that are still on at the end, and notes of no length, are left out.

    Args:
        ids: (n,) integers, in a list, an array or a CPU tensor.
        prompt_length: how many of the ids are a prompt. If there are any, a text event "continuation" is where the
            others begin: MIDI editors show it, and so does `draw_piano_roll`.

    Returns:
        A piece with one instrument. Velocities are the smallest of their buckets, 0 before the first velocity token.
        Padding is read as velocity 128, which no MIDI file can hold, so take it away before.

    Raises:
        ValueError: if `ids` has another shape or type, or ids that are not in the vocabulary, or `prompt_length` is no
            integer of at least 0.
    """
    check_least(0, prompt_length=prompt_length)
    ids = np.asarray(ids)
    if ids.ndim != 1 or not (ids.size == 0 or np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"token ids of shape {ids.shape} and type {ids.dtype} must be one row of integers")
    outside = ids[(ids < 0) | (ids >= VOCAB_SIZE)]
    if len(outside):
        raise ValueError(f"token id {outside[0]} must be in 0 .. {VOCAB_SIZE - 1}")
    events, steps = _without_shifts(ids.astype(np.int64))
    ons, offs = _pairs(events)
    ons, offs = (index[steps[offs] > steps[ons]] for index in (ons, offs))

    # Index of the last velocity event so far; -1, where there is none yet, looks up the 0 at the end.
    latest = np.maximum.accumulate(np.where(events >= VELOCITY, np.arange(len(events)), -1))
    velocity = np.append((events - VELOCITY) * BUCKET, 0)[latest[ons]]
    piano = Instrument(program=1)
    columns = velocity, events[ons], steps[ons] / STEPS_PER_SECOND, steps[offs] / STEPS_PER_SECOND
    piano.notes = [Note(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    midi = PrettyMIDI()
    midi.instruments.append(piano)
    if prompt_length:
        end = [PAD]  # an event that keeps the time shifts at the end of the prompt
        _, prompt_steps = _without_shifts(np.append(ids[:prompt_length], end).astype(np.int64))
        midi.text_events.append(Text(CONTINUATION, float(prompt_steps[-1] / STEPS_PER_SECOND)))
    return midi


def transpose(ids: Ids, semitones: int) -> Ids:
    """Token ids with all pitches raised by `semitones`, which must leave them in 0 .. 127."""
    return np.where(ids < TIME_SHIFT, ids + semitones, ids)


def change_tempo(ids: Ids, factor: float) -> Ids:
    """Token ids with all times multiplied by `factor`, which is positive; there may be more or fewer of them."""
    if not 0 < factor < math.inf:
        raise ValueError(f"factor={factor} of a tempo must be positive and finite")
    end = [PAD]  # an event that keeps the time shifts after the last one
    events, steps = _without_shifts(np.append(ids, end))
    return _with_shifts(events, np.rint(steps * factor).astype(np.int64))[: -len(end)]


def pedals(instrument: Instrument, note_ends: Floats) -> tuple[Floats, Floats]:
    """When the sustain pedal goes down, and when up after that; if never, at the end of the last note."""
    changes = [(change.time, change.value >= DOWN) for change in instrument.control_changes if change.number == SUSTAIN]
    changes.sort(key=lambda change: change[0])
    times = np.array([time for time, _ in changes], np.float64)
    turns = times[np.diff([False, *(down for _, down in changes)])]
    if len(turns) % 2:
        turns = np.append(turns, max(turns[-1], note_ends.max(initial=0)))
    return turns[0::2], turns[1::2]


def _sounding_notes(instrument: Instrument) -> Floats:
    """Start, end, pitch and velocity of an instrument's notes, held as long as the pedal says: (4, n)."""
    notes = np.array([(n.start, n.end, n.pitch, n.velocity) for n in instrument.notes], np.float64).reshape(-1, 4).T
    start, end, pitch, velocity = notes
    right = (start >= 0) & (start <= end) & (end <= MAX_SECONDS)
    right &= (pitch >= 0) & (pitch <= 127) & (velocity >= 0) & (velocity <= 127)
    if not right.all():
        raise ValueError(
            f"{instrument.notes[int(np.argmin(right))]}: it must be 0 <= start <= end <= {MAX_SECONDS} seconds, "
            "and pitch and velocity must be in 0 .. 127"
        )
    return np.stack([start, _hold(start, end, pitch, *pedals(instrument, end)), pitch, velocity])


def _hold(start: Floats, end: Floats, pitch: Floats, downs: Floats, ups: Floats) -> Floats:
    """Ends of notes (n,) when what begins between `downs[i]` and `ups[i]` is held."""
    if len(start) == 0 or len(downs) == 0:
        return end
    pedal = np.searchsorted(downs, start, side="right") - 1
    up = ups[pedal]
    inside = (pedal >= 0) & (start <= up)
    # Equal notes at the same time are one onset.
    onsets, onset = np.unique(np.stack([pitch, start], axis=1), axis=0, return_inverse=True)
    following = np.append(onsets[1:], [[-1, 0]], axis=0)
    next_onset = np.where(following[:, 0] == onsets[:, 0], following[:, 1], np.inf)[onset.ravel()]
    return np.where(inside, np.where(next_onset <= up, next_onset, np.maximum(end, up)), end)


def _steps(seconds: Floats) -> Ids:
    return np.rint(seconds * STEPS_PER_SECOND).astype(np.int64)


def _with_shifts(events: Ids, steps: Ids) -> Ids:
    """Puts time shifts between events (n,) that happen at `steps` (n,), which don't decrease."""
    gaps = np.diff(steps, prepend=0)
    positions = np.cumsum(-(-gaps // MAX_SHIFT) + 1) - 1
    ids = np.full(positions[-1] + 1 if len(positions) else 0, TIME_SHIFT + MAX_SHIFT - 1, np.int64)
    ids[positions] = events
    moved = gaps > 0
    ids[positions[moved] - 1] = TIME_SHIFT + (gaps[moved] - 1) % MAX_SHIFT  # the last shift takes what is left
    return ids


def _without_shifts(ids: Ids) -> tuple[Ids, Ids]:
    """The other events and when they happen, in steps: inverse of `_with_shifts`."""
    shift = (ids >= TIME_SHIFT) & (ids < VELOCITY)
    steps = np.cumsum(np.where(shift, ids - TIME_SHIFT + 1, 0))
    return ids[~shift], steps[~shift]


def _pairs(events: Ids) -> tuple[Ids, Ids]:
    """Where notes begin and end: indices of note ons, and of the note off of each, in the order of the note ons."""
    pairs = [np.empty((2, 0), np.int64)]
    for pitch in np.unique(events[(events >= NOTE_OFF) & (events < TIME_SHIFT)]) - NOTE_OFF:
        ons, offs = np.flatnonzero(events == NOTE_ON + pitch), np.flatnonzero(events == NOTE_OFF + pitch)
        # A queue: the k-th note off ends the first note that is still on. If none is, it takes the last one again.
        number = np.arange(1, len(offs) + 1)
        begun = np.searchsorted(ons, offs)
        vain = np.maximum.accumulate(np.maximum(number - begun, 0))  # note offs that found no note, up to here
        note = np.where(np.diff(vain, prepend=0) > 0, begun, number - vain) - 1
        pairs.append(np.stack([ons[note[note >= 0]], offs[note >= 0]]))
    ons, offs = np.concatenate(pairs, axis=1)
    order = np.lexsort((offs, ons))
    return ons[order], offs[order]
