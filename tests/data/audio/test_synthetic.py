"""Generated pieces obey their own rules, and the data module serves them."""

from itertools import pairwise

import numpy as np
import pytest
from pretty_midi import ControlChange, key_number_to_key_name

from perceiver.data.audio.synthetic import METRES, SCALES, TEXTURES, SyntheticPianoDataModule, _Player, piano_piece
from perceiver.processing.midi import decode_midi, encode_midi

PIECES = [piano_piece(seed) for seed in range(100)]


def test_a_piece_is_a_function_of_its_seed():
    encoded = [encode_midi(piece.midi) for piece in PIECES]
    assert encode_midi(piano_piece(7).midi) == encoded[7]
    assert len({tuple(ids) for ids in encoded}) == len(PIECES)


def test_all_keys_metres_and_textures_occur():
    assert len({piece.key for piece in PIECES}) == 24
    assert {piece.metre for piece in PIECES} == set(METRES)
    assert {texture for piece in PIECES for texture in piece.textures} == set(TEXTURES)


def test_notes_are_in_the_key():
    for piece in PIECES:
        tonic, scale = piece.pitch_classes[0], SCALES[piece.key.split()[1].lower()]
        assert piece.pitch_classes == tuple((tonic + step) % 12 for step in scale)
        notes = piece.midi.instruments[0].notes
        assert {note.pitch % 12 for note in notes} <= set(piece.pitch_classes)
        assert 21 <= min(note.pitch for note in notes) and max(note.pitch for note in notes) <= 108
        last = [note for note in notes if note.start == notes[-1].start]
        assert {note.pitch % 12 for note in last} == {piece.pitch_classes[degree] for degree in (0, 2, 4)}
        assert min(note.pitch for note in last) % 12 == tonic


def test_notes_are_in_the_metre():
    """Onsets are on eighth notes, and each bar begins with its loudest melody note and a bass note."""
    for piece in PIECES:
        eighth = piece.bar_seconds / sum(METRES[piece.metre])
        notes = piece.midi.instruments[0].notes
        starts = np.array([note.start for note in notes]) / eighth
        assert np.abs(starts - starts.round()).max() < 1e-6
        num_bars = 4 * len(piece.textures) + 1
        for bar in range(num_bars):
            begin, end = round(bar * piece.bar_seconds, 2), round((bar + 1) * piece.bar_seconds, 2)
            of_bar = [note for note in notes if begin <= note.start < end - 1e-6]
            assert min(of_bar, key=lambda note: note.pitch).start == begin
            melody = [
                max((n for n in of_bar if n.start == start), key=lambda n: n.pitch)
                for start in {n.start for n in of_bar}
            ]
            assert max(melody, key=lambda note: note.velocity).start == begin
            assert all(note.end < end for note in of_bar)
        assert abs(piece.midi.get_end_time() - num_bars * piece.bar_seconds) < 0.03


def test_what_is_known_is_in_the_midi():
    for piece in PIECES:
        (key,), (metre,) = piece.midi.key_signature_changes, piece.midi.time_signature_changes
        assert key_number_to_key_name(key.key_number) == piece.key
        assert (metre.numerator, metre.denominator) == piece.metre
        _, (tempo,) = piece.midi.get_tempo_changes()
        quarters = piece.metre[0] * 4 / piece.metre[1]
        assert tempo == pytest.approx(60 * quarters / piece.bar_seconds)


def test_pedal_is_down_over_chords():
    for piece in PIECES:
        changes: list[ControlChange] = piece.midi.instruments[0].control_changes
        with_pedal = sum(texture != "scale" for texture in piece.textures)
        assert [(change.number, change.value) for change in changes] == [(64, 127), (64, 0)] * 4 * with_pedal
        assert all(a.time < b.time for a, b in pairwise(changes))


def test_round_trip_loses_nothing():
    for piece in PIECES[:20]:
        notes = piece.midi.instruments[0].notes
        decoded = decode_midi(encode_midi(piece.midi)).instruments[0].notes
        assert sorted((n.start, n.pitch, n.velocity - n.velocity % 4) for n in notes) == sorted(
            (n.start, n.pitch, n.velocity) for n in decoded
        )


def test_two_bars_of_a_scale():
    """In C major, four-four time, eighth notes of 0.2 s: up over C, down over G."""
    player = _Player(0, "major", METRES[4, 4], 0.2, np.random.default_rng(0))
    for root in (0, 4):
        TEXTURES["scale"](player, root)
        player.next_bar()
    notes = player.piece().instruments[0].notes
    assert [note.pitch for note in notes[:9]] == [36, 60, 62, 64, 65, 67, 69, 71, 72]
    assert [note.pitch for note in notes[9:]] == [43, 81, 79, 77, 76, 74, 72, 71, 69]
    assert [note.start for note in notes[9:]] == [1.6, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0]
    assert [note.end for note in notes[:3]] == [1.58, 0.18, 0.38]


def test_splits_have_pieces_of_their_own(tmp_path):
    data = SyntheticPianoDataModule(str(tmp_path), 5, 2, first_seed=3, max_seq_len=64, num_workers=0)
    data.prepare_data()
    data.setup()
    for split, seeds in {"valid": (3, 4), "test": (5, 6), "train": (7, 8, 9, 10, 11)}.items():
        pieces = data.pieces[split]
        assert [pieces.piece(i).tolist() for i in range(len(seeds))] == [
            encode_midi(piano_piece(s).midi) for s in seeds
        ]
        assert pieces.num_pieces == len(seeds)
    more = SyntheticPianoDataModule(str(tmp_path), 6, 2, first_seed=3, max_seq_len=64)
    assert more.cache_dir != data.cache_dir


@pytest.mark.parametrize("name", ["num_train_pieces", "num_valid_pieces"])
def test_wrong_arguments(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        SyntheticPianoDataModule(max_seq_len=8, **{name: 0})
    with pytest.raises(ValueError, match="first_seed=-1 must be at least 0"):
        SyntheticPianoDataModule(max_seq_len=8, first_seed=-1)
