"""Labels of a data set, numbers or names, as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

OUTSIDE = "O"  # the label of words in no entity
STRINGS = ("string", "large_string")
MAX_CLASSES = 1_000_000  # of numbers without names


def find_label_names(
    splits: Mapping[str, datasets.Dataset], column: str, given: Sequence[str] | None = None, *, lists: bool = False
) -> list[str]:
    """Names of the labels 0, 1, ... of a column of labels, or of `lists` of labels.

    They are `given`, or the names that the data set itself has, or for numbers "0", "1", ... up to the largest in the
    training split, or for truth values "false" and "true", or for strings those of the training split, sorted, but "O"
    first.

    Raises:
        ValueError: if a split has no such column or it holds neither integers nor strings, if `given` has a name twice,
            or if a number is so large that the column cannot be one of classes.
    """
    for split, documents in splits.items():
        kind = _label_feature(split, documents, column, lists).dtype
        if not (kind in STRINGS or str(kind).startswith(("int", "uint", "bool"))):
            raise ValueError(f"column {column!r} of split {split!r} must hold integers or strings, not {kind}")
    if given is not None:
        if len(set(given)) != len(given) or not given:
            raise ValueError(f"label names must be different and at least one, not {list(given)}")
        return list(given)
    feature = _label_feature("train", splits["train"], column, lists)
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values: set[Any] = set()
    for table in splits["train"].select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        labels = table.column(column).combine_chunks()
        values.update(pc.unique(labels.flatten() if lists else labels).to_pylist())
    values.discard(None)
    if feature.dtype in STRINGS:
        return sorted(values, key=lambda name: (name != OUTSIDE, name))
    if feature.dtype == "bool":
        return ["false", "true"]
    largest = int(max(values, default=-1))
    if largest >= MAX_CLASSES:
        raise ValueError(
            f"column {column!r} has the number {largest}: classes count from 0, and may be {MAX_CLASSES:,} at most. "
            "Is it the column of labels? If so, give the names of all classes"
        )
    return [str(number) for number in range(largest + 1)]


def label_numbers(labels: pa.Array, column: str, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels, numbers or names, as numbers. (n,) -> (n,) int64.

    Raises:
        ValueError: if one is missing or none of `names`.
    """
    shown = str(list(names)) if len(names) <= 20 else f"[{', '.join(map(repr, names[:20]))}, ...]"
    if labels.null_count:
        raise ValueError(f"column {column!r} has {labels.null_count} missing labels in a batch of {len(labels)}")
    if str(labels.type) in STRINGS:
        numbers = pc.index_in(labels, value_set=pa.array(names, labels.type))
        for wrong in labels.filter(pc.is_null(numbers))[:1]:
            raise ValueError(f"label {wrong.as_py()!r} in column {column!r} is none of {shown}")
        return numbers.to_numpy().astype(np.int64)
    values: np.ndarray[Any, np.dtype[np.int64]] = labels.cast(pa.int64()).to_numpy()
    for wrong in values[(values < 0) | (values >= len(names))][:1]:
        raise ValueError(f"label {wrong} in column {column!r} must be in [0, {len(names)}), one of {shown}")
    return values


def column_feature(split: str, documents: datasets.Dataset, column: str) -> Any:
    """What a column holds.

    Raises:
        ValueError: if there is no such column.
    """
    if column not in documents.column_names:
        raise ValueError(f"split {split!r} has no column {column!r}, only {documents.column_names}")
    return documents.features[column]


def _label_feature(split: str, documents: datasets.Dataset, column: str, lists: bool) -> Any:
    feature = column_feature(split, documents, column)
    label = getattr(feature, "feature", None) if lists else feature
    if not hasattr(label, "dtype"):
        kind = "lists of labels" if lists else "labels"
        raise ValueError(f"column {column!r} of split {split!r} must hold {kind}, not {feature}")
    return label
