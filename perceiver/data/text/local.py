"""Files of text: lines of text files, rows of JSON lines, CSV and Parquet; local, or remote through fsspec."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from perceiver.data.text.common import Task, TextDataModule
from perceiver.data.text.encoders import LABEL, TEXT
from perceiver.data.text.files import File, find_files, read_columns
from perceiver.data.text.hub import split_off


class LocalTextDataModule(TextDataModule):
    """Files for training, validation and test.

    A document is a line of a text file, with its line break, or a row of a file in another format (`files.py`). For
    classification (task clf), which text files can't be for, a row has a label, too.

    Args:
        dataset_dir: folder for preprocessed text.
        train_files: files, folders or glob patterns, or URLs of fsspec; read in the order given, those of a folder or
            pattern sorted. A file that is found more than once is read once.
        valid_files: as `train_files`. Without them some of the training text is the validation split: the last
            documents, or, if they have labels, documents from everywhere.
        test_files: as `train_files`. Without them there is no test split.
        valid_fraction: share of the documents for validation if there are no `valid_files`, in (0, 1).
        text_column: where the text is in a row.
        label_column: clf: where the label is in a row, a number or a name.
        label_names: clf: names of the labels, in the order of their numbers. Without them numbers count from 0 to the
            largest in the training split, and names are sorted.
        **kwargs: see `TextDataModule`.

    Raises:
        ValueError: also later, when the files are looked up: if there are none, if one cannot be read or if one is for
            training and validation.
    """

    tasks = (Task.mlm, Task.clm, Task.clf)

    def __init__(
        self,
        dataset_dir: str = ".cache/local",
        *,
        train_files: list[str] | str,
        valid_files: list[str] | str | None = None,
        test_files: list[str] | str | None = None,
        valid_fraction: float = 0.05,
        text_column: str = "text",
        label_column: str = "label",
        label_names: list[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction={valid_fraction} must be in (0, 1)")
        self.patterns = {"train": train_files, "valid": valid_files, "test": test_files}
        self.valid_fraction = valid_fraction
        self.columns = {text_column: TEXT}
        if self.task is Task.clf:
            self.columns[label_column] = LABEL
            self.given_label_names = label_names

    def identity(self) -> dict[str, Any]:
        files = {split: [file.stamp() for file in found] for split, found in find_splits(self.patterns).items()}
        fraction = {} if "valid" in files else {"valid_fraction": self.valid_fraction}
        return {"files": files, "columns": self.columns, **fraction}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        files = find_splits(self.patterns)
        splits = {split: read_columns(found, self.columns, work_dir, split) for split, found in files.items()}
        if "valid" in splits:
            return splits
        scattered = self.task is Task.clf  # files are often sorted by label
        return {**splits, **split_off(splits["train"], None, self.valid_fraction, scattered=scattered)}


def find_splits(patterns: Mapping[str, list[str] | str | None]) -> dict[str, list[File]]:
    """Files of the splits that have patterns.

    Raises:
        ValueError: see `find_files`; also if a file is for training and for something else.
    """
    splits = {split: find_files(pattern) for split, pattern in patterns.items() if pattern is not None}
    train = {file.stamp()[0] for file in splits["train"]}
    for split in splits.keys() - {"train"}:
        both = [str(file) for file in splits[split] if file.stamp()[0] in train]
        if both:
            raise ValueError(f"{both} are in train_files and in {split}_files: {split} text must not be trained on")
    return splits
