"""Data sets of the hub as sources, in place of which there are local folders; what is split off for validation."""

from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings, strategies as st

from perceiver.data.hub import HubSplits, SplitOff, split_off

datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "hub").mkdir()
    for split, size in (("train", 8), ("test", 3)):
        rows = {"id": list(range(size)), "body": [f"{split} {i}" for i in range(size)]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "hub" / f"{split}.parquet")
    return str(tmp_path / "hub")


def test_splits_and_columns_have_our_names(folder, tmp_path):
    names = {"train": "train", "valid": "test", "test": "test"}
    splits = HubSplits(folder, None, None, names, {"body": "text"}).load(tmp_path)
    assert {split: rows.column_names for split, rows in splits.items()} == {split: ["text"] for split in names}
    assert splits["valid"]["text"][:] == splits["test"]["text"][:] == ["test 0", "test 1", "test 2"]
    assert HubSplits(folder, None, None, names).load(tmp_path)["train"].column_names == ["id", "body"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_workers_change_nothing(folder, tmp_path):
    alone, together = (HubSplits(folder, None, None, {"train": "train"}, num_workers=n) for n in (1, 2))
    assert alone.identity() == together.identity()
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    rows = alone.load(tmp_path / "a")["train"], together.load(tmp_path / "b")["train"]
    assert rows[0]["body"][:] == rows[1]["body"][:]


def test_identity(folder):
    source = HubSplits(folder, None, None, {"train": "train"})
    first = source.identity()
    assert first == source.identity() and len(first["files"]) == 2
    datasets.Dataset.from_dict({"id": [1], "body": ["other"]}).to_parquet(Path(folder) / "test.parquet")
    others = [
        source,
        HubSplits(folder, "a", None, {"train": "train"}),
        HubSplits(folder, None, "b", {"train": "train"}),
        HubSplits(folder, None, None, {"train": "test"}),
        HubSplits(folder, None, None, {"train": "train"}, {"body": "text"}),
        SplitOff(source, None, 0.1, scattered=True),
        SplitOff(source, None, 0.1, scattered=False),
        SplitOff(source, 3, 0.1, scattered=False),
    ]
    identities = [first, *(other.identity() for other in others)]
    assert all(identities[i] != identities[j] for i in range(9) for j in range(i))


def test_stream(folder):
    documents = HubSplits(folder, None, None).stream("test", "body")
    assert list(documents) == [{"body": f"test {i}"} for i in range(3)]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_there(folder, tmp_path, stream):
    def read(repo_id: str, split: str, column: str) -> None:
        source = HubSplits(repo_id, None, None, {"train": split}, {column: "text"})
        source.stream(split, column) if stream else source.load(tmp_path)

    with pytest.raises(ValueError, match=r"cannot load .*missing"):
        read(str(tmp_path / "missing"), "train", "body")
    with pytest.raises(ValueError, match=r"has no split \['valid'\], only \['test', 'train'\]"):
        read(folder, "valid", "body")
    with pytest.raises(ValueError, match=r"split 'train' .*has no column .*'text'.*, only \['id', 'body'\]"):
        read(folder, "train", "text")


def test_split_off_leaves_other_splits(folder, tmp_path):
    source = HubSplits(folder, None, None, {"train": "train", "test": "test"})
    splits = SplitOff(source, 5, 2, scattered=False).load(tmp_path)
    assert {split: rows["id"][:] for split, rows in splits.items()} == {
        "train": [0, 1, 2, 3, 4],
        "test": [0, 1, 2],
        "valid": [6, 7],
    }


@given(
    st.integers(2, 60),
    st.none() | st.integers(1, 20) | st.floats(0.01, 0.6),
    st.integers(1, 20) | st.floats(0.01, 0.6),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_split_off(total, train_size, valid_size, scattered):
    documents = datasets.Dataset.from_dict({"i": list(range(total))})
    try:
        splits = split_off(documents, train_size, valid_size, scattered=scattered)
    except ValueError as error:
        assert "documents cannot be split" in str(error)
        return
    train, valid = (list(splits[name]["i"]) for name in ("train", "valid"))
    assert train
    assert len(valid) == (valid_size if valid_size >= 1 else max(1, round(total * valid_size)))
    assert not set(train) & set(valid)
    assert (train, valid) == (sorted(train), sorted(valid))
    if train_size is None:
        assert len(train) + len(valid) == total
    if not scattered:
        assert valid == list(range(total - len(valid), total))
