"""Every token of every document is in exactly one chunk; a corpus folder is complete or absent."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PerceiverTokenizer

from perceiver.data.text.corpus import TokenChunks, write_corpus
from perceiver.data.text.tokenization import encode
from tests.data.text.conftest import word_piece_tokenizer

BYTES = PerceiverTokenizer()
# The lines of the recorded case `prepare_dataset`, from which the published library dropped "o" and "123".
LINES = ["abc def", "gh", "ijklmnop q", "r s t u v", "wx", "yz 0123"]


def write(
    directory: Path, texts=LINES, tokenizer=BYTES, add_special_tokens=False, batch_size=4, num_workers=1, **columns
) -> None:
    data = texts if isinstance(texts, datasets.Dataset) else datasets.Dataset.from_dict(columns or {"text": texts})
    arguments = {"add_special_tokens": add_special_tokens, "batch_size": batch_size, "num_workers": num_workers}
    write_corpus(directory, {"made": "here"}, lambda work: {"train": data}, tokenizer, **arguments)


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
@settings(max_examples=50, deadline=None)
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


def test_items_carry_index_and_epoch(tmp_path):
    write(tmp_path / "c")
    chunks = TokenChunks(tmp_path / "c", "train", 6)
    assert (chunks[2]["index"], chunks[2]["epoch"]) == (2, 0)
    assert (chunks[5, 2]["index"], chunks[5, 2]["epoch"]) == (2, 5)
    assert chunks[5, 2]["input_ids"].dtype == chunks[5, 2]["word_ids"].dtype == np.int64
    with pytest.raises(IndexError, match=r"chunk 7 is not in \[0, 7\)"):
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error, monkeypatch):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("perceiver.data.text.corpus._write_flat", fail)
    with pytest.raises(error):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"key.json", "train.tokens.npy", "train.marks.npy"}


def test_the_faster_of_two_processes_wins(tmp_path):
    write(tmp_path / "c", ["first"])
    write(tmp_path / "c", ["second"])
    assert flat(rows(tmp_path / "c", 9)[0]) == encode(BYTES, ["first"]).tokens.tolist()


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
