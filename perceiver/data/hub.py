"""Data sets of the Hugging Face Hub, or of a local folder in its layout, as sources (`cache.py`).

That layout is a folder of data files (Parquet, JSON lines, ...) with the names of splits in theirs, or a `README.md`
that says which configuration has which files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from perceiver.data.cache import Source, file_stamp


@dataclass(frozen=True)
class HubSplits:
    """Splits of a data set.

    Args:
        repo_id: hub id, or a local folder.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub.
        splits: our names of splits: those of the data set.
        columns: what columns are called there: here. Without them all are taken.
        num_workers: processes that read.
    """

    repo_id: str
    config_name: str | None
    revision: str | None
    splits: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    num_workers: int = 1

    def identity(self) -> dict[str, Any]:
        """For a local folder, this has sizes and modification times of its files."""
        folder = Path(self.repo_id)
        files = [file_stamp(path) for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
        names = {"repo_id": self.repo_id, "config_name": self.config_name, "revision": self.revision}
        return {**names, "files": files, "splits": dict(self.splits), "columns": dict(self.columns)}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        """Raises:
        ValueError: if there is no such data set, configuration, split or column.
        """
        num_proc = self.num_workers if self.num_workers > 1 else None
        found = self._found(set(self.splits.values()), cache_dir=str(work_dir / "hub"), num_proc=num_proc)
        splits = {ours: found[theirs] for ours, theirs in self.splits.items()}
        if self.columns:
            splits = {split: self._renamed(split, rows) for split, rows in splits.items()}
        return splits

    def stream(self, split: str, column: str) -> datasets.IterableDataset:
        """A split, by its name there, which is read while it is used. Raises as above."""
        documents = self._found({split}, streaming=True)[split]
        names = documents.column_names
        if names is None:  # not known before it is read
            return documents
        if column not in names:
            raise ValueError(f"split {split!r} of {self.repo_id} has no column {column!r}, only {names}")
        return documents.select_columns([column])

    def _found(self, wanted: set[str], **options: Any) -> Any:
        try:
            found = datasets.load_dataset(self.repo_id, self.config_name, revision=self.revision, **options)
        except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
            raise ValueError(f"cannot load {self.repo_id!r}: {error.__cause__ or error}") from error
        if missing := wanted - set(found):
            raise ValueError(f"{self.repo_id} has no split {sorted(missing)}, only {sorted(found)}")
        return found

    def _renamed(self, split: str, rows: datasets.Dataset) -> datasets.Dataset:
        if missing := [column for column in self.columns if column not in rows.column_names]:
            raise ValueError(f"split {split!r} has no column {missing}, only {rows.column_names}")
        changed = {theirs: ours for theirs, ours in self.columns.items() if theirs != ours}
        return rows.select_columns(list(self.columns)).rename_columns(changed)


@dataclass(frozen=True)
class SplitOff:
    """Takes validation documents from the split "train" of a source.

    Args:
        source: with that split, and possibly "test".
        source_train_size: share or number of documents for training; None takes all that are not for validation.
        source_valid_size: share or number of documents for validation.
        scattered: take them from everywhere, the same each time; otherwise the last ones.

    Raises:
        ValueError: if a size is neither a share in (0, 1) nor a number of at least 1.
    """

    source: Source
    source_train_size: float | int | None
    source_valid_size: float | int
    scattered: bool

    def __post_init__(self) -> None:
        for name in ("source_train_size", "source_valid_size"):
            size = getattr(self, name)
            if size is not None and not (0 < size < 1 or (size >= 1 and size == int(size))):
                raise ValueError(f"{name}={size} must be a share in (0, 1) or a number of documents, at least 1")

    def identity(self) -> dict[str, Any]:
        return {**self.source.identity(), "sizes": [self.source_train_size, self.source_valid_size, self.scattered]}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        splits = self.source.load(work_dir)
        sizes = self.source_train_size, self.source_valid_size
        return {**splits, **split_off(splits["train"], *sizes, scattered=self.scattered)}


def split_off(
    documents: datasets.Dataset, train_size: float | int | None, valid_size: float | int, *, scattered: bool
) -> dict[str, datasets.Dataset]:
    """Splits documents into "train" and "valid", both in their order; no document is in both. See `SplitOff`.

    Raises:
        ValueError: if there are too few documents.
    """
    total = len(documents)
    num_valid = max(1, round(total * valid_size)) if valid_size < 1 else int(valid_size)
    rest = total - num_valid
    num_train = rest if train_size is None else max(1, round(total * train_size)) if train_size < 1 else int(train_size)
    if num_train < 1 or num_train > rest:
        wanted = f"{'all others' if train_size is None else train_size} for training and {valid_size} for validation"
        raise ValueError(f"{total} documents cannot be split into {wanted}")
    if not scattered:  # ranges are taken without a list of what is in them
        return {"train": documents.select(range(num_train)), "valid": documents.select(range(rest, total))}
    is_valid = np.zeros(total, bool)
    is_valid[np.random.default_rng(0).permutation(total)[:num_valid]] = True
    train, valid = np.flatnonzero(~is_valid)[:num_train], np.flatnonzero(is_valid)
    return {"train": documents.select(train), "valid": documents.select(valid)}
