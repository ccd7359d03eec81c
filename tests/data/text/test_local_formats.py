"""JSON lines, CSV and Parquet; compressed and remote files; labels; what is wrong with a file."""

import gzip
import io
import json
import lzma
import tracemalloc
import zipfile
from pathlib import Path

import fsspec
import fsspec.compression
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st

from perceiver.data.text import rows as rows_module
from perceiver.data.text.common import Task
from perceiver.data.text.files import find_files
from perceiver.data.text.local import LocalTextDataModule
from perceiver.data.text.rows import blocks, line_array, read_columns, suffix
from tests.archives import encrypt

ROWS = [("good film, häßlich", "pos"), ('bad,\n"film"', "neg"), ("2020-01-01", "neg"), ("☕", "pos")] * 10


def write(path: Path, rows: list[tuple] = ROWS, columns: tuple[str, str] = ("text", "label")) -> str:
    table = pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True)))
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        content = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return str(path)


def module(tmp_path: Path, tokenizer: str, **kwargs: object) -> LocalTextDataModule:
    options = {"tokenizer": tokenizer, "max_seq_len": 12, "num_workers": 0, "batch_size": 3, **kwargs}
    data = LocalTextDataModule(str(tmp_path / "cache"), **options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_rows_are_documents(tmp_path, byte_tokenizer_dir, name):
    """Also text that looks like dates, has line breaks or quotes."""
    train, valid = write(tmp_path / name), write(tmp_path / f"valid-{name}", ROWS[:2])
    data = module(tmp_path, byte_tokenizer_dir, train_files=train, valid_files=valid, test_files=valid)
    decoded = {split: data.tokenizer.decode(chunks.tokens.tolist()) for split, chunks in data.chunks.items()}
    texts = [text for text, _ in ROWS]
    assert decoded == {"train": "".join(texts), "valid": "".join(texts[:2]), "test": "".join(texts[:2])}
    options = {"train_files": train, "valid_files": valid, "task": Task.clf}
    data = module(tmp_path, byte_tokenizer_dir, **options)
    assert data.label_names == ["neg", "pos"]
    assert data.num_classes == 2
    assert data.chunks["train"].labels.tolist() == [1, 0, 0, 1] * 10


def test_folders_have_files_of_several_formats(tmp_path, byte_tokenizer_dir):
    (tmp_path / "texts").mkdir()
    for name in ("a.jsonl", "b.csv", "c.parquet", "d.jsonl.gz"):
        write(tmp_path / "texts" / name)
    data = module(tmp_path, byte_tokenizer_dir, train_files=str(tmp_path / "texts"), task=Task.clf)
    assert len(data.chunks["train"]) + len(data.chunks["valid"]) == 160


def test_classification_batches(tmp_path, byte_tokenizer_dir):
    """One example per document, cut on the right: the recorded cases `prepare_dataset` and `default_collator_clf`."""
    lines = ["abc def", "gh", "ijklmnop q", "r s t u v", "wx", "yz 0123"]
    train = write(tmp_path / "a.jsonl", list(zip(lines, range(6), strict=True)))
    options = {"train_files": train, "valid_files": write(tmp_path / "v.jsonl", [("gh", 1), ("", 5)]), "task": Task.clf}
    data = module(tmp_path, byte_tokenizer_dir, max_seq_len=6, **options)
    assert [data.chunks["train"][i]["input_ids"].tolist() for i in range(6)] == [
        [103, 104, 105, 38, 106, 107],
        [109, 110],
        [111, 112, 113, 114, 115, 116],
        [120, 38, 121, 38, 122, 38],
        [125, 126],
        [127, 128, 38, 54, 55, 56],
    ]
    ((labels, input_ids, pad_mask),) = data.val_dataloader()
    assert (labels.tolist(), input_ids.tolist()) == ([1, 5], [[109, 110], [0, 0]])
    assert pad_mask.tolist() == [[False, False], [True, True]]
    seen = [labels for labels, _, _ in data.train_dataloader()]
    assert sorted(np.concatenate(seen).tolist()) == list(range(6))

    special = module(tmp_path, byte_tokenizer_dir, max_seq_len=6, add_special_tokens=True, **options)
    assert special.cache_dir == data.cache_dir
    assert [special.chunks["train"][i]["input_ids"].tolist() for i in (0, 1, 5)] == [
        [4, 103, 104, 105, 38, 5],
        [4, 109, 110, 5],
        [4, 127, 128, 38, 54, 5],
    ]
    with pytest.raises(ValueError, match="max_seq_len=2 leaves no room for text beside 2 special tokens"):
        module(tmp_path, byte_tokenizer_dir, max_seq_len=2, add_special_tokens=True, **options)


def test_special_tokens_of_sentencepiece_are_kept(tmp_path, xlnet_tokenizer_dir):
    train = write(tmp_path / "a.jsonl", [("the statements of the object are statements", 0), ("the", 1)] * 3)
    options = {"train_files": train, "valid_files": write(tmp_path / "v.jsonl", [("the", 1)]), "task": Task.clf}
    data = module(tmp_path, xlnet_tokenizer_dir, max_seq_len=6, add_special_tokens=True, **options)
    text_preprocessor = data.text_preprocessor()
    for i, text in enumerate(["the statements of the object are statements", "the"]):
        assert data.chunks["train"][i]["input_ids"].tolist() == text_preprocessor.preprocess(text)[0].tolist()


def test_validation_documents_are_from_everywhere(tmp_path, byte_tokenizer_dir):
    """A file that is sorted by label has both in both splits."""
    train = write(tmp_path / "a.jsonl", [(f"doc {i:02}", i // 20) for i in range(40)])
    data = module(tmp_path, byte_tokenizer_dir, train_files=train, valid_fraction=0.3, task=Task.clf)
    texts = {s: [data.tokenizer.decode(c[i]["input_ids"]) for i in range(len(c))] for s, c in data.chunks.items()}
    assert len(texts["valid"]) == 12
    assert sorted(texts["train"] + texts["valid"]) == [f"doc {i:02}" for i in range(40)]
    assert set(data.chunks["valid"].labels.tolist()) == {0, 1}
    assert texts["valid"] == sorted(texts["valid"])


def test_label_names(tmp_path, byte_tokenizer_dir):
    numbers = write(tmp_path / "numbers.csv", [("a", 2), ("b", 0)])
    valid = write(tmp_path / "valid.csv", [("a", 1)])
    options = {"valid_files": valid, "task": Task.clf}
    assert module(tmp_path, byte_tokenizer_dir, train_files=numbers, **options).label_names == ["0", "1", "2"]
    names = ["low", "mid", "high", "top"]
    data = module(tmp_path, byte_tokenizer_dir, train_files=numbers, label_names=names, **options)
    assert data.label_names == names
    assert (
        LocalTextDataModule(
            tokenizer="unused", max_seq_len=8, train_files="unused", label_names=names, task=Task.clf
        ).num_classes
        == 4
    )
    early = LocalTextDataModule(
        str(tmp_path / "early"), tokenizer=byte_tokenizer_dir, max_seq_len=8, train_files=numbers, **options
    )
    assert early.num_classes == 3  # preprocesses
    data = module(tmp_path, byte_tokenizer_dir, train_files=numbers, valid_files=valid)
    with pytest.raises(ValueError, match=r"task=Task.mlm has no classes, only Task.clf has"):
        data.label_names  # noqa: B018


@pytest.mark.parametrize(
    ("train", "valid", "change", "message"),
    [
        ([("a", 0)], [("a", 1)], {}, r"label 1 in column 'label' must be in \[0, 1\), one of \['0'\]"),
        ([("a", 0)], [("a", -1)], {}, r"label -1 in column 'label' must be in \[0, 1\)"),
        ([("a", 0)], [("a", 0)], {"label_names": ["x", "x"]}, "label names must be different and at least one"),
        ([("a", 3)], [("a", 0)], {"label_names": ["x", "y"]}, r"label 3 .* must be in \[0, 2\), one of \['x', 'y'\]"),
        ([("a", "good")], [("a", "bad")], {}, r"label 'bad' in column 'label' is none of \['good'\]"),
        ([("a", "good")], [("a", 0)], {"label_names": ["x"]}, r"label 'good' in column 'label' is none of \['x'\]"),
        ([("a", 0.5)], [("a", 0)], {}, "column 'label' of split 'train' must hold integers or strings, not float64"),
        ([("a", 1), ("b", None)], [("a", 1)], {}, "column 'label' has 1 missing labels in a batch of 2"),
        ([(1, 1)], [("a", 1)], {}, "cannot read .*train.parquet as .parquet|column 'text' .* must hold strings"),
        ([("a", 0)], [("a", 0)], {"label_column": "class"}, r"no column \['class'\], only \['text', 'label'\]"),
        ([("a", 0)], [("a", 0)], {"text_column": "body"}, r"no column \['body'\], only \['text', 'label'\]"),
        ([("a", 0)], [("a", 0)], {"random_train_shift": True}, "random shift and truncation are for chunks of text"),
        ([("a", 0)], [("a", 0)], {"padding_side": "left"}, "padding_side='left' is not possible with task=Task.clf"),
    ],
)
def test_bad_labels_and_columns(tmp_path, byte_tokenizer_dir, train, valid, change, message):
    options = {"train_files": write(tmp_path / "train.parquet", train), "task": Task.clf, **change}
    with pytest.raises(ValueError, match=message):
        module(tmp_path, byte_tokenizer_dir, valid_files=write(tmp_path / "valid.parquet", valid), **options)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_text_files_have_no_labels(tmp_path, byte_tokenizer_dir):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(
        ValueError, match=r"cannot read .*a.txt as .txt: there is no column \['label'\], only \['text'\]"
    ):
        module(tmp_path, byte_tokenizer_dir, train_files=str(tmp_path / "a.txt"), task=Task.clf)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "cannot read .*a.jsonl as .jsonl: JSON parse error"),
        ("a.jsonl", b'{"body": "a"}\n', r"there is no column \['text'\], only \['body'\]"),
        ("a.jsonl", b'{"text": 1}\n', "JSON parse error"),
        ("a.csv", b"text,label\na,b,c\n", "Expected 2 columns, got 3"),
        ("a.csv", b"", "cannot read .*a.csv as .csv: Empty CSV file"),
        ("a.parquet", b"PAR1 not parquet", "cannot read .*a.parquet as .parquet: .*Parquet"),
        ("a.jsonl.gz", b"not gzip", "cannot read .*a.jsonl.gz as .jsonl: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-12],
            "cannot read .*a.jsonl.gz as .jsonl: Compressed file",
        ),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "it is not UTF-8 near byte 13"),
        ("a.jsonl", b"\n\n", "all files are empty"),
        ("a.txt.xz", lzma.compress(b"a line\n" * 99)[:-30] + bytes(30), "cannot read .*a.txt.xz as .txt: "),
        ("a.txt.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "cannot read .*a.txt.gz as .txt: Error -3"),
        (
            "a.csv",
            b"text,label\na,b\nc\n",
            "cannot read .*a.csv as .csv: CSV parse error: Row #3: Expected 2 columns, got 1",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "b": ' + b"[" * 20_000 + b"]" * 20_000 + b"}\n",
            "nested 20001 deep, more than 100",
        ),
    ],
)
def test_unreadable_files(tmp_path, byte_tokenizer_dir, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        module(tmp_path, byte_tokenizer_dir, train_files=str(tmp_path / name))


def test_brackets_in_text_are_not_nested(tmp_path):
    text = "[{" * 300 + '\\"' + "[{" * 300
    path = write(tmp_path / "a.jsonl", [(text, 0)])
    assert read_columns([path], {"text": "text"}, tmp_path, "train")["text"][:] == [text]


def test_zst_without_its_library(tmp_path, monkeypatch):
    monkeypatch.delitem(fsspec.compression.compr, "zstd", raising=False)
    (tmp_path / "a.jsonl.zst").write_bytes(bytes.fromhex("28b52ffd0000"))
    with pytest.raises(ValueError, match=r"cannot read .*a.jsonl.zst: it needs zstandard: pip install zstandard"):
        find_files(str(tmp_path / "a.jsonl.zst"))


def test_encrypted_archives(tmp_path):
    """fsspec reads the file in a zip archive."""
    with zipfile.ZipFile(tmp_path / "a.txt.zip", "w") as archive:
        archive.writestr("a.txt", "secret")
    encrypt(tmp_path / "a.txt.zip")
    with pytest.raises(ValueError, match=r"cannot read .*a.txt.zip: .* encrypted"):
        find_files(str(tmp_path / "a.txt.zip"))


@pytest.mark.parametrize(("name", "line"), [("a.txt", b"x" * 100), ("a.jsonl", b'{"text": "' + b"x" * 88 + b'"}')])
def test_lines_have_a_limit(tmp_path, byte_tokenizer_dir, name, line):
    """A small compressed file may hold a huge one."""
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\n" * 7 + line, mtime=0))
    options = {"train_files": str(tmp_path / f"{name}.gz"), "valid_files": write(tmp_path / "v.csv")}
    with pytest.raises(ValueError, match=r"the line at byte 7 has more than max_line_bytes=99 bytes"):
        module(tmp_path, byte_tokenizer_dir, max_line_bytes=99, **options)
    data = module(tmp_path, byte_tokenizer_dir, max_line_bytes=100, **options)
    assert data.chunks["train"].tokens[-1] == 6 + ord("x")
    with pytest.raises(ValueError, match="max_line_bytes=0 must be at least 1"):
        module(tmp_path, byte_tokenizer_dir, max_line_bytes=0, **options)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "one"), ("a.jsonl", '{"text": "one"}'), ("a.csv", "text\none"), ("a.txt.gz", "one"), ("a.log", "one")],
)
@pytest.mark.parametrize("block_bytes", [1, 64])
def test_a_byte_order_mark_is_no_text(tmp_path, monkeypatch, name, content, block_bytes):
    encoded = (content + "\n").encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(encoded, mtime=0) if name.endswith(".gz") else encoded)
    if suffix(name) != ".csv":
        monkeypatch.setattr(rows_module, "BLOCK_BYTES", block_bytes)
    (found,) = read_columns([str(tmp_path / name)], {"text": "text"}, tmp_path, "train")["text"][:]
    assert found.rstrip("\n") == "one"


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["true", "false", "true"], ["false", "true"], [1, 0, 1]),
        (["01", "10", "01"], ["01", "10"], [0, 1, 0]),
        (["1", "0", "2"], ["0", "1", "2"], [1, 0, 2]),
        (["1", "0", "x"], ["0", "1", "x"], [1, 0, 2]),
        (["1.0", "0.0", "1.0"], ["0.0", "1.0"], [1, 0, 1]),
        (["2020-01-02", "2020-01-01", "NA"], ["2020-01-01", "2020-01-02", "NA"], [1, 0, 2]),
        (["1" * 19, "1", "0"], ["0", "1", "1" * 19], [2, 1, 0]),
    ],
)
def test_labels_of_csv_are_text_unless_all_are_integers(tmp_path, byte_tokenizer_dir, labels, names, numbers):
    rows = "".join(f"t{i},{label}\n" for i, label in enumerate(labels))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8-sig")
    (tmp_path / "v.csv").write_text(f"text,label\nt,{labels[0]}\n")
    options = {"train_files": str(tmp_path / "a.csv"), "valid_files": str(tmp_path / "v.csv"), "task": Task.clf}
    data = module(tmp_path, byte_tokenizer_dir, **options)
    assert data.label_names == names
    assert data.chunks["train"].labels.tolist() == numbers
    assert data.chunks["valid"].labels.tolist() == numbers[:1]


def test_one_file_of_numbers_beside_one_of_names(tmp_path, byte_tokenizer_dir):
    """The validation file alone would be numbers, of which 1 is another class."""
    train = write(tmp_path / "a.csv", [("a", "1"), ("b", "2"), ("c", "x")])
    (tmp_path / "v.csv").write_text("text,label\nd,2\ne,1\n")
    data = module(tmp_path, byte_tokenizer_dir, train_files=train, valid_files=str(tmp_path / "v.csv"), task=Task.clf)
    assert data.label_names == ["1", "2", "x"]
    assert data.chunks["valid"].labels.tolist() == [1, 0]


@pytest.mark.parametrize("other", ["7", "x"])
def test_an_empty_label_is_missing(tmp_path, byte_tokenizer_dir, other):
    (tmp_path / "a.csv").write_text(f"text,label\na,{other}\nb,\n")
    with pytest.raises(ValueError, match="column 'label' has 1 missing labels in a batch of 2"):
        train = str(tmp_path / "a.csv")
        module(tmp_path, byte_tokenizer_dir, train_files=train, valid_files=write(tmp_path / "v.csv"), task=Task.clf)


def test_remote_files(tmp_path, byte_tokenizer_dir):
    remote = fsspec.filesystem("memory")
    remote.pipe({"/texts/a.txt": b"one\n", "/texts/b.jsonl": b'{"text": "two "}\n', "/texts/c.bin": b"no"})
    try:
        assert find_files("memory://texts") == [
            "memory:///texts/a.txt",
            "memory:///texts/b.jsonl",
        ]
        assert [str(file) for file in find_files("memory://texts/*.txt")] == ["memory:///texts/a.txt"]
        options = {"train_files": "memory://texts", "valid_files": write(tmp_path / "v.csv")}
        data = module(tmp_path, byte_tokenizer_dir, **options)
        assert data.tokenizer.decode(data.chunks["train"].tokens.tolist()) == "one\ntwo "
        key = data.cache_dir
        remote.pipe("/texts/a.txt", b"three\n")
        assert module(tmp_path, byte_tokenizer_dir, **options).cache_dir != key
        with pytest.raises(ValueError, match=r"'memory://texts/\*.csv' is no file, no folder"):
            find_files("memory://texts/*.csv")
        with pytest.raises(ValueError, match=r"^\['memory:///texts/a.txt'\] are in train_files and in test_files"):
            module(tmp_path, byte_tokenizer_dir, train_files="memory://texts", test_files="memory://texts/a.txt")
        with pytest.raises(ValueError, match=r"cannot read gibberish://a: .*gibberish"):
            find_files("gibberish://a")
    finally:
        remote.rm("/texts", recursive=True)


@given(st.lists(st.text(alphabet="ab\n\r é☕"), max_size=5), st.integers(1, 9))
@settings(max_examples=200)
def test_blocks_are_whole_lines_whatever_their_size(texts, size):
    """Equal to Python's lines of a text file."""
    content = "".join(texts).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", size)
        found = [line.as_py() for block in blocks(io.BytesIO(content)) for line in line_array(block)]
    assert found == list(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_memory_is_that_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1 << 16)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line of text\n" * 500_000)  # 7.5 MB
    tracemalloc.start()
    documents = read_columns(find_files(str(path)), {"text": "text"}, tmp_path, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(documents) == 500_000
    assert peak < 4 << 20
