"""Pieces of a few notes."""

from pretty_midi import Instrument, Note, PrettyMIDI


def piece(*notes: tuple[int, int, float, float], is_drum: bool = False) -> PrettyMIDI:
    """A piece of notes (velocity, pitch, start, end)."""
    midi = PrettyMIDI()
    midi.instruments.append(Instrument(0, is_drum))
    midi.instruments[0].notes = [Note(*note) for note in notes]
    return midi
