"""Files of text: lines of text files, rows of JSON lines, CSV and Parquet; local, or remote through fsspec."""

from typing import Any

from perceiver.checks import check_least
from perceiver.data.text.common import Task, TextDataModule
from perceiver.data.text.encoders import LABEL, TEXT
from perceiver.data.text.files import FileSplits, file_source
from perceiver.data.text.rows import MAX_LINE_BYTES


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
        label_column: clf: where the label is in a row, a number or a name. In CSV files, labels are numbers if all are
            integers without leading zeros, otherwise names.
        label_names: clf: names of the labels, in the order of their numbers. Without them numbers count from 0 to the
            largest in the training split, and names are sorted.
        max_line_bytes: length that a line of a file may have, decompressed: a small file may hold a huge one.
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
        max_line_bytes: int = MAX_LINE_BYTES,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        check_least(1, max_line_bytes=max_line_bytes)
        labelled = self.task is Task.clf
        columns = {text_column: TEXT, label_column: LABEL} if labelled else {text_column: TEXT}
        self.given_label_names = label_names if labelled else None
        patterns = {"train": train_files, "valid": valid_files, "test": test_files}
        # Files are often sorted by label.
        self.raw_data = file_source(FileSplits(patterns, columns, max_line_bytes), valid_fraction, scattered=labelled)
