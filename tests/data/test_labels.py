"""Names and numbers of labels."""

import datasets
import pyarrow as pa
import pytest

from perceiver.data.labels import find_label_names, label_numbers

VALUES = {
    "numbers": ([2, 0, 2], ["0", "1", "2"]),
    "names": (["b", "O", "a"], ["O", "a", "b"]),
    "missing": ([None, "b", "a"], ["a", "b"]),
    "truth": ([True, False, True], ["false", "true"]),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("lists", [False, True])
def test_names_are_those_of_the_training_split(kind, lists):
    values, names = VALUES[kind]
    column = [[value] * 2 for value in values] if lists else values
    splits = {
        "train": datasets.Dataset.from_dict({"y": column}),
        "valid": datasets.Dataset.from_dict({"y": column[1:]}),
    }
    assert find_label_names(splits, "y", lists=lists) == names
    assert find_label_names(splits, "y", ["x", *names], lists=lists) == ["x", *names]


def test_names_of_the_data_set_itself():
    features = datasets.Features({"y": datasets.ClassLabel(names=["no", "yes", "maybe"])})
    splits = {"train": datasets.Dataset.from_dict({"y": [1]}, features=features)}
    assert find_label_names(splits, "y") == ["no", "yes", "maybe"]


@pytest.mark.parametrize(
    ("column", "given", "lists", "message"),
    [
        ([0.5], None, False, "column 'y' of split 'train' must hold integers or strings, not float64"),
        ([[1]], None, False, "column 'y' of split 'train' must hold labels, not List"),
        ([1], None, True, "column 'y' of split 'train' must hold lists of labels, not Value"),
        ([[[1]]], None, True, "column 'y' of split 'train' must hold lists of labels, not List"),
        ([1], ["a", "a"], False, r"label names must be different and at least one, not \['a', 'a'\]"),
        ([1], [], False, r"label names must be different and at least one, not \[\]"),
    ],
)
def test_wrong_columns_and_names(column, given, lists, message):
    with pytest.raises(ValueError, match=message):
        find_label_names({"train": datasets.Dataset.from_dict({"y": column})}, "y", given, lists=lists)


def test_numbers():
    names = [f"n{i}" for i in range(30)]
    assert label_numbers(pa.array([29, 0, 3]), "y", names).tolist() == [29, 0, 3]
    for kind in (pa.string(), pa.large_string()):
        assert label_numbers(pa.array(["n29", "n0"], kind), "y", names).tolist() == [29, 0]
    for labels, message in (
        ([0, 30], r"label 30 in column 'y' must be in \[0, 30\), one of \['n0', .*'n19', \.\.\.\]"),
        (["n1", "z"], r"label 'z' in column 'y' is none of \['n0', .*'n19', \.\.\.\]"),
        ([1, None], "column 'y' has 1 missing labels in a batch of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            label_numbers(pa.array(labels), "y", names)


def test_the_number_of_classes_has_a_limit():
    """A wrong column would be as many names as its largest number."""
    splits = {"train": datasets.Dataset.from_dict({"y": [0, 10**12]})}
    with pytest.raises(
        ValueError, match=r"column 'y' has the number 1000000000000: classes count from 0, and may be 1,"
    ):
        find_label_names(splits, "y")
    assert find_label_names(splits, "y", ["a", "b"]) == ["a", "b"]
    splits = {"train": datasets.Dataset.from_dict({"y": [999_999]})}
    assert len(find_label_names(splits, "y")) == 1_000_000
