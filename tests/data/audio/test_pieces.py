"""Pieces on disk and windows of them, over a reader of numbers: piece k has k notes."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pretty_midi import PrettyMIDI

from perceiver.data.audio import pieces as pieces_module
from perceiver.data.audio.pieces import PieceWindows, Windows, write_pieces
from perceiver.processing.midi import PAD, decode_midi, encode_midi
from tests.data.audio.midi_pieces import piece
from tests.data.named_cache import NamedCache

TRAIN = [3, 0, 40, -1, 1, 17]  # no notes: an empty piece; a negative number: a broken one


def read(number: int) -> PrettyMIDI:
    if number < 0:
        raise OSError(f"piece {number} is broken")
    return piece(*((60, 50 + k % 30, 0.3 * k, 0.3 * k + 0.25) for k in range(number)))


def ids_of(number: int) -> list[int]:
    return encode_midi(read(number))


def write(directory: Path, num_workers: int = 1, **splits: list[int]) -> Path:
    NamedCache(directory, lambda work, result: write_pieces(work, result, splits, read, num_workers)).prepare()
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pieces") / "cache", train=TRAIN, valid=[2])


def examples(directory: Path, max_seq_len: int, **windows: Any) -> PieceWindows:
    return PieceWindows(directory, "train", Windows(max_seq_len, **windows))


def test_files(directory):
    tokens, offsets = (np.load(directory / f"train.{name}.npy") for name in ("tokens", "offsets"))
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == ids_of(3) + ids_of(40) + ids_of(1) + ids_of(17)
    assert np.diff(offsets).tolist() == [len(ids_of(n)) for n in (3, 40, 1, 17)]
    skipped = {"0": "it has no notes", "-1": "OSError('piece -1 is broken')"}
    assert json.loads((directory / "skipped.json").read_text()) == skipped
    assert sorted(path.name for path in directory.parent.iterdir()) == ["cache"]


def test_what_is_skipped_is_reported(tmp_path, caplog):
    write(tmp_path / "cache", train=TRAIN)
    assert [record.getMessage() for record in caplog.records] == [
        "skipped 0: it has no notes",
        "skipped -1: OSError('piece -1 is broken')",
    ]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_workers_change_nothing(directory, tmp_path):
    write(tmp_path / "cache", num_workers=3, train=TRAIN, valid=[2])
    files = sorted(path.name for path in directory.iterdir())
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == files
    assert all((tmp_path / "cache" / name).read_bytes() == (directory / name).read_bytes() for name in files)


def test_a_split_without_pieces_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="split 'valid' has no piece that can be read, of 2"):
        write(tmp_path / "cache", train=[1], valid=[0, -2])
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path, monkeypatch):
    encoded = pieces_module._encoded

    def other_writer(*args: Any) -> Any:
        monkeypatch.setattr(pieces_module, "_encoded", encoded)
        write(tmp_path / "cache", train=[5])
        return encoded(*args)

    monkeypatch.setattr(pieces_module, "_encoded", other_writer)
    write(tmp_path / "cache", train=[6])
    assert examples(tmp_path / "cache", 8).piece(0).tolist() == ids_of(5)


@pytest.mark.parametrize("max_seq_len", [1, 7, 16, 200])
def test_fixed_windows_have_every_next_token_once(directory, max_seq_len):
    data = examples(directory, max_seq_len)
    rows = [data[i] for i in range(len(data))]
    labels = [row[0][~row[2]].tolist() for row in rows]
    inputs = [row[1][~row[2]].tolist() for row in rows]
    tokens = [ids_of(n) for n in (3, 40, 1, 17)]
    assert sum(labels, []) == sum((ids[1:] for ids in tokens), [])
    assert sum(inputs, []) == sum((ids[:-1] for ids in tokens), [])
    assert len(data) == sum(-(-(len(ids) - 1) // max_seq_len) for ids in tokens)
    assert data[0][0].shape == (max_seq_len,)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(directory, side):
    labels, input_ids, pad_mask = examples(directory, 16, padding_side=side)[0]  # 3 notes are 14 tokens
    ids, pads = ids_of(3), 16 - 13
    pad = {"left": (pads, 0), "right": (0, pads)}[side]
    assert input_ids.tolist() == np.pad(ids[:-1], pad, constant_values=PAD).tolist()
    assert labels.tolist() == np.pad(ids[1:], pad, constant_values=-100).tolist()
    assert pad_mask.tolist() == np.pad([False] * 13, pad, constant_values=True).tolist()
    assert (labels.dtype, input_ids.dtype, pad_mask.dtype) == (torch.int64, torch.int64, torch.bool)


def test_a_repeated_example_has_no_labels(directory):
    data = examples(directory, 12, random=True)
    (labels, *inputs), (other_labels, *other_inputs) = data[(2, 3, True)], data[(2, 3, False)]
    assert (labels == -100).all() and not (other_labels == -100).all()
    assert all(torch.equal(a, b) for a, b in zip(inputs, other_inputs, strict=True))


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


@given(st.integers(1, 90), st.one_of(st.none(), st.integers(1, 90)), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=30)
def test_random_windows_are_parts_of_one_piece(directory, max_seq_len, min_seq_len, seed, epoch):
    min_seq_len = None if min_seq_len is None else min(min_seq_len, max_seq_len)
    data = examples(directory, max_seq_len, random=True, min_seq_len=min_seq_len, seed=seed)
    tokens = [ids_of(n) for n in (3, 40, 1, 17)]
    counts = [max((len(ids) - 1) // max_seq_len, 1) for ids in tokens]
    assert len(data) == sum(counts)
    owners = [ids for ids, count in zip(tokens, counts, strict=True) for _ in range(count)]
    for index, ids in enumerate(owners):
        window = data.window(epoch, index).tolist()
        assert contains(ids, window)
        most = min(max_seq_len + 1, len(ids))
        assert min((min_seq_len or max_seq_len) + 1, most) <= len(window) <= most
        assert np.array_equal(window, data.window(epoch, index))


def test_random_windows_start_anywhere_evenly(directory):
    """In the piece of 40 notes, which has room for three windows: each starts in its third of the places."""
    ids = ids_of(40)
    places = {tuple(ids[start : start + 51]): start for start in range(len(ids) - 50)}
    data = examples(directory, 50, random=True)
    assert len(data) == 1 + 3 + 1 + 1
    starts = [[places[tuple(data.window(epoch, index).tolist())] for epoch in range(400)] for index in (1, 2, 3)]
    bounds = [len(places) * third // 3 for third in range(4)]
    assert [set(part) for part in starts] == [set(range(*bounds[k : k + 2])) for k in range(3)]
    assert max(Counter(sum(starts, [])).values()) < 3 * 1200 / len(places)
    other = examples(directory, 50, random=True, seed=1)
    assert [places[tuple(other.window(epoch, 1).tolist())] for epoch in range(9)] != starts[0][:9]


def test_lengths_are_random_evenly(directory):
    data = examples(directory, 20, random=True, min_seq_len=11)
    lengths = Counter(len(data.window(epoch, 2)) - 1 for epoch in range(500))
    assert set(lengths) == set(range(11, 21)) and min(lengths.values()) > 20


def test_transposition(directory):
    plain = examples(directory, 30, random=True)
    data = examples(directory, 30, random=True, transposition=5)
    seen = set()
    for epoch in range(60):
        before, after = plain.window(epoch, 1), data.window(epoch, 1)
        notes = before < 256
        (shift,) = set((after - before)[notes].tolist())
        assert np.array_equal(after[~notes], before[~notes])
        seen.add(shift)
    assert seen == set(range(-5, 6))


@pytest.mark.parametrize(
    ("pitches", "allowed"), [((22, 60), {-1, 0, 1, 2, 3}), ((60, 106), {-3, -2, -1, 0, 1, 2}), ((5, 120), {0})]
)
def test_transposition_stays_on_the_piano(pitches, allowed):
    ids = np.array([376, pitches[0], 305, 128 + pitches[0], 376, pitches[1], 305, 128 + pitches[1]])
    random = np.random.default_rng(0)
    shifts = {int(pieces_module._randomly_transposed(random, ids, 3)[1]) - pitches[0] for _ in range(100)}
    assert shifts == allowed
    silence = np.array([355, 355])
    assert np.array_equal(pieces_module._randomly_transposed(random, silence, 3), silence)


def test_tempo(directory):
    """Notes and velocities stay; times are those of the window, by a factor of up to 1.25 or down to 0.8."""
    plain, data = examples(directory, 30, random=True), examples(directory, 30, random=True, tempo=0.25)
    factors = []
    for epoch in range(100):
        before, after = plain.window(epoch, 1), data.window(epoch, 1)
        assert len(after) == 31
        events = [ids[(ids < 256) | (ids >= 356)] for ids in (before, after)]
        common = min(map(len, events))
        assert np.array_equal(events[0][:common], events[1][:common])
        first, second = (decode_midi(ids).instruments[0].notes for ids in (before, after))
        if len(first) > 5 and len(second) > 5:
            factors.append((second[5].start - second[0].start) / (first[5].start - first[0].start))
    assert len(factors) > 50
    assert 0.79 < min(factors) < 0.85 and 1.2 < max(factors) < 1.26


def test_pickle_carries_no_tokens(directory):
    data = examples(directory, 30, random=True, seed=3)
    pickled = pickle.dumps(data)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).window(5, 2), data.window(5, 2))


def test_damage_and_wrong_indices(directory, tmp_path):
    data = examples(directory, 30)
    with pytest.raises(IndexError, match=rf"example -1 is not in \[0, {len(data)}\)"):
        data[-1]
    with pytest.raises(IndexError, match=r"piece 4 is not in \[0, 4\)"):
        data.piece(4)
    write(tmp_path / "cache", train=[5])
    np.save(tmp_path / "cache" / "train.tokens.npy", np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match=r"cache is damaged, delete it: train.offsets.npy must go from 0 to 3"):
        examples(tmp_path / "cache", 30)
    (tmp_path / "cache" / "train.tokens.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="cache is damaged, delete it"):
        examples(tmp_path / "cache", 30)
    with pytest.raises(ValueError, match="cache is damaged, delete it"):
        PieceWindows(tmp_path / "cache", "test", Windows(3))
