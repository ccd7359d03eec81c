"""Packing: which documents share a row, what batches hold of them, processes that share rows, runs that go on."""

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from perceiver.data.audio.synthetic import SyntheticPianoDataModule
from perceiver.data.loader import EpochSampler, ResumableLoader
from perceiver.data.packing import PackedRows, pack_rows, packing_collator
from perceiver.data.text.common import Task
from tests.data.text.test_common import Words
from tests.tokenizers import byte_tokenizer

# Documents of 1 to 30 bytes, of which a row of 16 inputs takes several; 30 are cut into 17 and 13.
TEXTS = ["abcdefghijklmnopqrstuvwxyz"[:length] + "." for length in (3, 8, 1, 12, 5, 0, 2, 9)] + ["0123456789" * 3]


def words(tmp_path: Path, **kwargs: Any) -> Words:
    byte_tokenizer(tmp_path / "tokenizer")
    options = {"max_seq_len": 16, "task": Task.clm, "packing": True, "batch_size": 2, **kwargs}
    data = Words(tmp_path, {"train": TEXTS, "valid": TEXTS}, tokenizer=str(tmp_path / "tokenizer"), **options)
    data.prepare_data()
    data.setup()
    return data


def documents_of(data: Any, batch: Any) -> list[str]:
    """Texts of a batch's documents, after a look at what must hold of their labels."""
    labels, input_ids, lengths = batch
    assert labels.shape == input_ids.shape == (1, sum(lengths)) and labels.dtype == input_ids.dtype == torch.int64
    texts = []
    for own, inputs in zip(labels[0].split(lengths), input_ids[0].split(lengths), strict=True):
        assert torch.equal(own[:-1], inputs[1:])
        texts.append(data.tokenizer.decode([*inputs.tolist(), own[-1]]))
    return texts


def as_lists(batches: Any) -> list[Any]:
    return [[labels.tolist(), input_ids.tolist(), lengths] for labels, input_ids, lengths in batches]


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(20, 30), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_document_is_in_one_row_that_has_room_for_it(lengths, max_seq_len, seed):
    members, offsets = pack_rows(np.array(lengths, np.int64), max_seq_len, seed)
    assert sorted(members) == [i for i, length in enumerate(lengths) if length > 0]
    rows = [members[a:b] for a, b in pairwise(offsets)]
    assert all(0 < sum(lengths[i] for i in row) <= max_seq_len for row in rows)
    assert offsets[0] == 0 and offsets[-1] == len(members)


def test_rows_are_full():
    """Log-normal lengths, more of them than a window has."""
    lengths = np.random.default_rng(0).lognormal(np.log(100), 1.0, 3000).astype(np.int64).clip(1, 1024)
    members, offsets = pack_rows(lengths, 1024)
    sums = np.add.reduceat(lengths[members], offsets[:-1])
    assert sums.mean() > 0.97 * 1024
    other, _ = pack_rows(lengths, 1024, seed=1)
    assert not np.array_equal(members, other)
    assert np.array_equal(members, pack_rows(lengths, 1024)[0])
    assert np.abs(np.diff(members)).mean() > 500  # not neighbours


def test_documents_stay_apart_and_every_token_but_the_first_is_a_label_once(tmp_path):
    data = words(tmp_path)
    expected = sorted([text for text in TEXTS[:-1] if len(text) > 1] + [TEXTS[-1][:17], TEXTS[-1][17:]])
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        assert sorted(text for batch in batches for text in documents_of(data, batch)) == expected
        assert all(labels.shape[1] <= 2 * 16 for labels, _, _ in batches)
        assert len(batches) == len(loader) < len(expected) / 2
    assert data.chunks["valid"].lengths.tolist() == [3, 8, 1, 12, 5, 2, 9, 16, 12]
    assert data.tokenizer.decode(data.validation_record(7)) == TEXTS[-1][:16]
    assert data.bytes_per_token == 1


def test_lengths_are_random_where_that_is_asked_for(tmp_path):
    data = words(tmp_path, random_train_truncation=True, random_min_seq_len=6)
    whole = data.chunks["valid"].lengths
    loader = data.train_dataloader()
    epochs = [sorted(n for _, _, lengths in loader for n in lengths) for _ in range(5)]
    assert len({tuple(lengths) for lengths in epochs}) > 2
    for lengths in epochs:
        assert [n for n in lengths if n < 6] == sorted(n for n in whole if n < 6)  # those are short enough
        assert sum(lengths) < sum(whole)
    assert sorted(n for _, _, lengths in data.val_dataloader() for n in lengths) == sorted(whole)


def test_processes_share_rows_and_no_label_counts_twice(tmp_path):
    data = words(tmp_path)
    rows = data.split_examples("train", training=True)
    assert isinstance(rows, PackedRows) and len(rows) % 4
    labelled, counts = 0, set()
    for rank in range(4):
        sampler = EpochSampler(rows, num_replicas=4, rank=rank)
        batches = list(ResumableLoader(rows, batch_size=1, sampler=sampler, collate_fn=packing_collator))
        labelled += sum(int((labels != -100).sum()) for labels, _, _ in batches)
        counts.add(len(batches))
    assert labelled == data.chunks["train"].lengths.sum()
    assert len(counts) == 1


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_loader_goes_on_where_another_stopped_whatever_its_workers(tmp_path):
    data = words(tmp_path, random_train_truncation=True, random_min_seq_len=3, batch_size=1)
    whole = data.train_dataloader()
    epochs = [as_lists(whole) for _ in range(2)]
    assert sorted(map(str, epochs[0])) != sorted(map(str, epochs[1]))
    stopped = data.train_dataloader()
    list(stopped)
    begun = as_lists(islice(stopped, 2))
    rows = data.split_examples("train", training=True)
    sampler = EpochSampler(rows, num_replicas=1, rank=0)
    resumed = ResumableLoader(rows, batch_size=1, sampler=sampler, collate_fn=packing_collator, num_workers=1)
    resumed.load_state_dict(stopped.state_dict())
    assert begun + as_lists(resumed) == epochs[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": Task.mlm}, "packing=True is for next tokens, task=Task.clm, not for task=Task.mlm"),
        ({"random_train_shift": True}, "packing=True keeps documents apart, and a random shift"),
        ({"random_valid_shift": True}, "packing=True keeps documents apart, and a random shift"),
    ],
)
def test_what_packing_is_not_possible_with(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        words(tmp_path, **change)


def test_text_is_preprocessed_anew_only_where_documents_were_not_kept(tmp_path):
    packed, plain = words(tmp_path), words(tmp_path, packing=False)
    assert packed.cache_dir != plain.cache_dir
    assert not list(plain.cache_dir.glob("*.offsets.npy"))
    assert words(tmp_path, max_seq_len=7).reads == 0  # another length needs nothing new


def test_a_batch_of_documents_that_have_become_empty():
    """A faster piece of pauses has fewer tokens."""
    labels, input_ids, lengths = packing_collator([[], []])
    assert (labels.tolist(), input_ids.tolist(), lengths) == ([[-100]], [[0]], [1])


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def module(**kwargs: Any) -> SyntheticPianoDataModule:
        options = {"max_seq_len": 64, "batch_size": 3, "num_workers": 0, "packing": True, **kwargs}
        data = SyntheticPianoDataModule(folder, 5, 3, **options)
        data.setup()
        return data

    folder = str(tmp_path_factory.mktemp("music"))
    SyntheticPianoDataModule(folder, 5, 3, max_seq_len=1).prepare_data()
    return module


def test_pieces_are_packed_window_by_window(music):
    """Validation has all windows that it has without packing, the short ones at the ends of pieces together."""
    packed, plain = music(), music(packing=False)
    expected = [row[~pads] for _, x, mask in plain.val_dataloader() for row, pads in zip(x, mask, strict=True)]
    found = []
    for labels, x, lengths in packed.val_dataloader():
        found += x[0].split(lengths)
        for own, inputs in zip(labels[0].split(lengths), x[0].split(lengths), strict=True):
            assert torch.equal(own[:-1], inputs[1:])
    assert sorted(x.tolist() for x in found) == sorted(x.tolist() for x in expected)
    assert len(packed.split_examples("valid", training=False)) < len(found)
    assert packed.pieces["valid"].lengths.tolist() == [len(x) for x in expected]


def test_random_windows_are_those_without_packing(music):
    options = {"min_seq_len": 20, "random_transposition": 3, "random_tempo": 0.2}
    packed, plain = music(**options).train_dataloader(), music(**options, packing=False).train_dataloader()
    for _ in range(2):  # epochs
        found = [part.tolist() for _, x, lengths in packed for part in x[0].split(lengths)]
        expected = [row[~pads].tolist() for _, x, mask in plain for row, pads in zip(x, mask, strict=True)]
        assert sorted(found) == sorted(expected)
    assert music().split_examples("train", training=True).documents.lengths.max() == 64
