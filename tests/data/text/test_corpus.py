"""Every token of every document is in exactly one chunk; a corpus folder is complete or absent."""

import json
import math
import pickle
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from transformers import PerceiverTokenizer

from perceiver.data.text.corpus import TokenChunks, write_corpus
from perceiver.data.text.encoders import TextEncoder
from perceiver.processing.tokenization import encode
from tests.data.named_cache import NamedCache
from tests.data.text.conftest import word_piece_tokenizer

BYTES = PerceiverTokenizer()
# The lines of the recorded case `prepare_dataset`, from which the published library dropped "o" and "123".
LINES = ["abc def", "gh", "ijklmnop q", "r s t u v", "wx", "yz 0123"]


def write(
    directory: Path, texts=LINES, tokenizer=BYTES, add_special_tokens=False, batch_size=4, num_workers=1, **columns
) -> None:
    data = texts if isinstance(texts, datasets.Dataset) else datasets.Dataset.from_dict(columns or {"text": texts})
    splits, sizes = {"train": data}, {"batch_size": batch_size, "num_workers": num_workers}

    def fill(work: Path, result: Path) -> None:
        write_corpus(result, splits, TextEncoder(tokenizer, splits, add_special_tokens), **sizes)

    NamedCache(directory, fill).prepare()


def rows(directory: Path, max_seq_len: int) -> tuple[list[list[int]], list[list[int]]]:
    chunks = TokenChunks(directory, "train", max_seq_len)
    items = [chunks[i] for i in range(len(chunks))]
    return [item["input_ids"].tolist() for item in items], [item["word_ids"].tolist() for item in items]


def flat(rows: list[list[int]]) -> list[int]:
    return [token for row in rows for token in row]


def test_recorded_chunks_and_what_was_lost(tmp_path):
    write(tmp_path / "c")
    input_ids, words = rows(tmp_path / "c", 6)
    assert input_ids == [
        [103, 104, 105, 38, 106, 107],
        [108, 109, 110, 111, 112, 113],
        [114, 115, 116, 117, 118, 38],
        [119, 120, 38, 121, 38, 122],
        [38, 123, 38, 124, 125, 126],
        [127, 128, 38, 54, 55, 56],
        [57],
    ]
    assert words[:2] == [[1, 1, 1, 2, 2, 2], [0, 1, 1, 2, 2, 2]]  # 0: the rest of a word that began in the last chunk
    assert words[5:] == [[1, 1, 2, 2, 2, 2], [0]]


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_batches_of_preprocessing_change_nothing(tmp_path, batch_size, add_special_tokens):
    write(tmp_path / "c", batch_size=batch_size, add_special_tokens=add_special_tokens)
    assert flat(rows(tmp_path / "c", 5)[0]) == encode(BYTES, LINES, add_special_tokens).tokens.tolist()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_workers_change_nothing(tmp_path):
    write(tmp_path / "c", num_workers=2, batch_size=2)
    assert flat(rows(tmp_path / "c", 5)[0]) == encode(BYTES, LINES).tokens.tolist()


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.integers(1, 30))
@settings(max_examples=50)
def test_chunking_conserves_every_token(tmp_path_factory, texts, max_seq_len):
    directory = tmp_path_factory.mktemp("corpus")
    encoded = encode(BYTES, ["x", *texts])
    np.save(directory / "train.tokens.npy", encoded.tokens)
    np.save(directory / "train.marks.npy", encoded.marks)
    input_ids, words = rows(directory, max_seq_len)
    assert bytes(token - 6 for token in flat(input_ids)).decode() == "".join(["x", *texts])
    assert all(len(row) == max_seq_len for row in input_ids[:-1])
    assert 1 <= len(input_ids[-1]) <= max_seq_len
    assert [len(row) for row in words] == [len(row) for row in input_ids]


def causal(directory: Path, max_seq_len: int) -> list[list[int]]:
    """Chunks of `max_seq_len + 1` tokens: the inputs and the last label."""
    items = TokenChunks(directory, "train", max_seq_len, next_token=True)
    return [[*items[i]["input_ids"].tolist(), int(items[i]["label_ids"][-1])] for i in range(len(items))]


def test_recorded_causal_chunks_and_what_was_lost(tmp_path):
    write(tmp_path / "c")
    assert causal(tmp_path / "c", 6) == [
        [103, 104, 105, 38, 106, 107, 108],
        [109, 110, 111, 112, 113, 114, 115],
        [116, 117, 118, 38, 119, 120, 38],
        [121, 38, 122, 38, 123, 38, 124],
        [125, 126, 127, 128, 38, 54, 55],
        [56, 57],  # lost
    ]
    write(tmp_path / "special", add_special_tokens=True)
    assert causal(tmp_path / "special", 6)[:5] == [
        [4, 103, 104, 105, 38, 106, 107],
        [108, 5, 4, 109, 110, 5, 4],
        [111, 112, 113, 114, 115, 116, 117],
        [118, 38, 119, 5, 4, 120, 38],
        [121, 38, 122, 38, 123, 38, 124],
    ]


def flat_chunks(directory: Path, tokens: list[int], max_seq_len: int, **options) -> TokenChunks:
    np.save(directory / "train.tokens.npy", np.array(tokens, np.uint16))
    np.save(directory / "train.marks.npy", np.ones(len(tokens), np.int8))
    return TokenChunks(directory, "train", max_seq_len, **options)


def test_recorded_causal_items(tmp_path):
    chunks = flat_chunks(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8], 3, next_token=True)
    assert len(chunks) == 2
    assert {name: values.tolist() for name, values in chunks[0].items() if name.endswith("ids")} == {
        "input_ids": [1, 2, 3],
        "label_ids": [2, 3, 4],
    }


@given(st.integers(2, 200), st.integers(1, 30))
@settings(max_examples=50)
def test_what_is_a_label_and_how_often(tmp_path_factory, num_tokens, max_seq_len):
    """Every token is once in a chunk, and once a label unless it is the first of its chunk."""
    directory = tmp_path_factory.mktemp("corpus")
    chunks = flat_chunks(directory, list(range(num_tokens)), max_seq_len, next_token=True)
    items = [chunks[i] for i in range(len(chunks))]
    assert all((item["label_ids"] == item["input_ids"] + 1).all() for item in items)
    assert all(len(item["input_ids"]) == max_seq_len for item in items[:-1])
    assert 1 <= len(items[-1]["input_ids"]) <= max_seq_len
    chunked = flat(causal(directory, max_seq_len))
    left_out = num_tokens % (max_seq_len + 1) == 1  # a last chunk of one token, from which nothing can be predicted
    assert chunked == list(range(num_tokens - left_out))
    firsts = set(range(0, num_tokens, max_seq_len + 1))
    assert flat([item["label_ids"].tolist() for item in items]) == [i for i in chunked if i not in firsts]


@pytest.mark.parametrize("next_token", [False, True])
def test_recorded_random_shift(tmp_path, next_token):
    """The four starts in the record; the recorded items are inputs of 4, from records of 4."""
    chunks = flat_chunks(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8], 4 - next_token, next_token=next_token, shift=True)
    assert len(chunks) == 1
    rows = Counter(tuple(chunks[epoch, 0]["input_ids"].tolist()) for epoch in range(400))
    assert set(rows) == {(i, i + 1, i + 2, i + 3)[: 4 - next_token] for i in (1, 2, 3, 4)}
    assert all(abs(count - 100) < 5 * math.sqrt(400 * 0.25 * 0.75) for count in rows.values())


def test_recorded_random_truncation(tmp_path):
    """Lengths 5 to 11 of 12, equally often, as in 2000 recorded runs; always the head of the example."""
    chunks = flat_chunks(tmp_path, list(range(13)), 12, next_token=True, min_seq_len=5)
    items = [chunks[epoch, 0] for epoch in range(2000)]
    for item in items:
        n = len(item["input_ids"])
        assert item["input_ids"].tolist() == list(range(n))
        assert item["label_ids"].tolist() == list(range(1, n + 1))
    lengths = Counter(len(item["input_ids"]) for item in items)
    assert set(lengths) == set(range(5, 12))
    assert all(abs(count - 2000 / 7) < 5 * math.sqrt(2000 / 7 * 6 / 7) for count in lengths.values())


@given(
    num_tokens=st.integers(2, 100),
    max_seq_len=st.integers(2, 20),
    next_token=st.booleans(),
    shift=st.booleans(),
    min_seq_len=st.none() | st.integers(1, 19),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 2**40),
)
@settings(max_examples=80)
def test_random_windows(tmp_path_factory, num_tokens, max_seq_len, next_token, shift, min_seq_len, seed, epoch):
    options = {"next_token": next_token, "shift": shift, "min_seq_len": min_seq_len, "seed": seed}
    directory = tmp_path_factory.mktemp("corpus")
    chunks = flat_chunks(directory, list(range(num_tokens)), max_seq_len, **options)
    plain = TokenChunks(directory, "train", max_seq_len, next_token=next_token)
    assert len(chunks) == max(1, len(plain) - shift)
    for index in range(len(chunks)):
        ids = chunks[epoch, index]["input_ids"]
        again = TokenChunks(directory, "train", max_seq_len, **options)[epoch, index]["input_ids"]
        assert ids.tolist() == again.tolist() == list(range(ids[0], ids[0] + len(ids)))  # consecutive, no holes
        whole = plain[index]["input_ids"]
        longest = max_seq_len if shift and len(plain) > 1 else len(whole)
        shifts = ids[0] - whole[0]
        assert 0 <= shifts <= (max_seq_len + next_token - 1) * shift
        if min_seq_len is None or longest <= min_seq_len:
            assert len(ids) == longest
        else:
            assert min_seq_len <= len(ids) < longest
        if next_token:
            assert chunks[epoch, index]["label_ids"].tolist() == (ids + 1).tolist()
        else:
            assert len(chunks[epoch, index]["word_ids"]) == len(ids)


def test_windows_depend_on_seed_epoch_and_index(tmp_path):
    options = {"next_token": True, "shift": True, "min_seq_len": 10}
    chunks = flat_chunks(tmp_path, list(range(3000)), 99, **options)

    def windows(epoch: int, seed: int = 0) -> list[tuple[int, int]]:
        items = [TokenChunks(tmp_path, "train", 99, **options, seed=seed)[epoch, i]["input_ids"] for i in range(29)]
        return [(int(ids[0]) - 100 * i, len(ids)) for i, ids in enumerate(items)]

    assert len(chunks) == 29
    assert windows(0) == windows(0)
    assert len({*windows(0), *windows(1), *windows(0, seed=1)}) > 80  # of 87
    assert chunks[3]["input_ids"].tolist() == chunks[0, 3]["input_ids"].tolist()
    for one, options in ((0, {"shift": True}), (1, {"min_seq_len": 10})):  # each alone, too
        alone = TokenChunks(tmp_path, "train", 99, next_token=True, **options)
        items = [alone[i]["input_ids"] for i in range(len(alone))]
        assert len({(int(ids[0]) - 100 * i, len(ids))[one] for i, ids in enumerate(items)}) > 15
        assert len({(int(ids[0]) - 100 * i, len(ids))[1 - one] for i, ids in enumerate(items)}) == 1


def test_a_split_without_an_example(tmp_path):
    assert len(flat_chunks(tmp_path, [1], 4)) == 1
    with pytest.raises(ValueError, match="split 'train' has 1 tokens: too few"):
        flat_chunks(tmp_path, [1], 4, next_token=True)


def test_arrays_that_do_not_go_together(tmp_path):
    write(tmp_path / "c", ["abc"])
    np.save(tmp_path / "c" / "train.marks.npy", np.ones(2, np.int8))
    with pytest.raises(ValueError, match="c is damaged, delete it: 3 tokens, 2 marks of 'train'"):
        TokenChunks(tmp_path / "c", "train", 6)


def test_bytes_of_the_raw_text(tmp_path):
    write(tmp_path / "c", ["häßlich ☕", "", None, "abc"], add_special_tokens=True)
    assert json.loads((tmp_path / "c" / "num_bytes.json").read_text()) == {"train": len("häßlich ☕abc".encode())}
    assert TokenChunks(tmp_path / "c", "train", 6).num_bytes == len("häßlich ☕abc".encode())


def test_items_carry_index_and_epoch(tmp_path):
    write(tmp_path / "c")
    chunks = TokenChunks(tmp_path / "c", "train", 6)
    assert (chunks[2]["index"], chunks[2]["epoch"]) == (2, 0)
    assert (chunks[5, 2]["index"], chunks[5, 2]["epoch"]) == (2, 5)
    assert chunks[5, 2]["input_ids"].dtype == chunks[5, 2]["word_ids"].dtype == np.int64
    with pytest.raises(IndexError, match=r"example 7 is not in \[0, 7\)"):
        chunks[7]


def test_tokens_are_stored_in_two_bytes_unless_the_vocabulary_is_bigger(tmp_path):
    write(tmp_path / "small")
    assert TokenChunks(tmp_path / "small", "train", 6).tokens.dtype == np.uint16
    big = word_piece_tokenizer(num_extra_tokens=2**16)
    write(tmp_path / "big", ["extra65535 a"], big)
    chunks = TokenChunks(tmp_path / "big", "train", 6)
    assert chunks.tokens.dtype == np.uint32
    assert chunks[0]["input_ids"].tolist() == [len(big) - 1, 15]


def test_pickling_carries_no_data(tmp_path):
    write(tmp_path / "c", ["abc"] * 1000)
    chunks = TokenChunks(tmp_path / "c", "train", 6)
    pickled = pickle.dumps(chunks)
    assert len(pickled) < 500
    assert pickle.loads(pickled)[499]["input_ids"].tolist() == chunks[499]["input_ids"].tolist()
    options = {"next_token": True, "shift": True, "min_seq_len": 2, "seed": 3}
    causal = TokenChunks(tmp_path / "c", "train", 6, **options)
    again = pickle.loads(pickle.dumps(causal))
    assert {name: getattr(again, name) for name in options} == options
    assert again[1, 50]["label_ids"].tolist() == causal[1, 50]["label_ids"].tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error, monkeypatch):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("perceiver.data.text.corpus._flat", fail)
    with pytest.raises(error):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    names = {"checksums.json", "key.json", "num_bytes.json", "train.tokens.npy", "train.marks.npy"}
    assert {path.name for path in (tmp_path / "c").iterdir()} == names


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' has no column 'text', only \['body'\]"):
        write(tmp_path / "c", body=["a"])
    with pytest.raises(ValueError, match="column 'text' of split 'train' must hold strings, not int64"):
        write(tmp_path / "c", text=[1])
    with pytest.raises(ValueError, match="split 'train' has 2 documents but no text in them"):
        write(tmp_path / "c", ["", ""], add_special_tokens=True)
    empty = datasets.Dataset.from_dict({"text": []}, features=datasets.Features({"text": datasets.Value("string")}))
    with pytest.raises(ValueError, match="split 'train' is empty"):
        write(tmp_path / "c", empty)
    assert list(tmp_path.iterdir()) == []
