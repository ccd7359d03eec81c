"""The base of data modules whose text is on the Hugging Face Hub, or in a local folder in the layout of the hub.

That layout is a folder of data files (Parquet, JSON lines, ...) with the names of splits in theirs, or a `README.md`
that says which configuration has which files. A leaf has the id, the configuration and what its splits and columns are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from perceiver.data.text.common import TextDataModule


class HubTextDataModule(TextDataModule):
    """Reads splits of a data set.

    Args:
        dataset_dir: folder for preprocessed text.
        repo_id: hub id, or a local folder in the layout of the hub.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        **kwargs: see `TextDataModule`.
    """

    def __init__(self, dataset_dir: str, repo_id: str, config_name: str | None, revision: str | None, **kwargs: Any):
        super().__init__(dataset_dir, **kwargs)
        self.repo_id, self.config_name, self.revision = repo_id, config_name, revision

    def splits(self) -> dict[str, str]:
        """Our names of splits: those of the data set."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        return {**hub_identity(self.repo_id, self.config_name, self.revision), "splits": self.splits()}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        return load_splits(
            self.repo_id, self.config_name, self.revision, self.splits(), work_dir, num_workers=self.preproc_workers
        )


class UnsplitHubTextDataModule(HubTextDataModule):
    """Reads a data set that has a training split only, and takes validation text from it.

    Args:
        dataset_dir: folder for preprocessed text.
        repo_id: hub id, or a local folder in the layout of the hub.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub.
        source_train_size: share or number of documents for training; None takes all that are not for validation.
        source_valid_size: share or number of documents for validation.
        **kwargs: see `TextDataModule`.

    Raises:
        ValueError: if a size is neither a share in (0, 1) nor a number of at least 1.
    """

    scattered = True  # validation documents are taken from everywhere; otherwise from the end

    def __init__(
        self,
        dataset_dir: str,
        repo_id: str,
        config_name: str | None,
        revision: str | None,
        source_train_size: float | int | None,
        source_valid_size: float | int,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, repo_id, config_name, revision, **kwargs)
        for name, size in {"source_train_size": source_train_size, "source_valid_size": source_valid_size}.items():
            if size is not None and not (0 < size < 1 or (size >= 1 and size == int(size))):
                raise ValueError(f"{name}={size} must be a share in (0, 1) or a number of documents, at least 1")
        self.source_train_size, self.source_valid_size = source_train_size, source_valid_size

    def splits(self) -> dict[str, str]:
        return {"train": "train"}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "sizes": [self.source_train_size, self.source_valid_size]}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        documents = super().load(work_dir)["train"]
        return split_off(documents, self.source_train_size, self.source_valid_size, scattered=self.scattered)


def hub_identity(repo_id: str, config_name: str | None, revision: str | None) -> dict[str, Any]:
    """What tells a data set from others: for a local folder also sizes and modification times of its files."""
    folder = Path(repo_id)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    return {"repo_id": repo_id, "config_name": config_name, "revision": revision, "files": files}


def load_splits(
    repo_id: str,
    config_name: str | None,
    revision: str | None,
    splits: Mapping[str, str],
    work_dir: Path,
    num_workers: int = 1,
) -> dict[str, datasets.Dataset]:
    """Loads splits of a data set under our names.

    Raises:
        ValueError: if there is no such data set, configuration or split.
    """
    num_proc = num_workers if num_workers > 1 else None
    try:
        found = datasets.load_dataset(
            repo_id, config_name, revision=revision, cache_dir=str(work_dir / "hub"), num_proc=num_proc
        )
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"cannot load {repo_id!r}: {error.__cause__ or error}") from error
    missing = set(splits.values()) - set(found)
    if missing:
        raise ValueError(f"{repo_id} has no split {sorted(missing)}, only {sorted(found)}")
    return {ours: found[theirs] for ours, theirs in splits.items()}


def split_off(
    documents: datasets.Dataset, train_size: float | int | None, valid_size: float | int, *, scattered: bool
) -> dict[str, datasets.Dataset]:
    """Splits documents into "train" and "valid", both in their order; no document is in both.

    Args:
        documents: at least 2.
        train_size: share or number of documents; None takes all that are not for validation.
        valid_size: share or number of documents.
        scattered: take validation documents from everywhere, the same each time; otherwise the last ones.

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
