"""Files of splits, local and remote: which there are, when they changed, and a source of what `rows.py` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import datasets
import fsspec.asyn
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from perceiver.checks import check_share
from perceiver.data.cache import Source, file_stamp
from perceiver.data.hub import SplitOff
from perceiver.data.text.rows import (
    MAX_LINE_BYTES,
    UNREADABLE,
    file_system,
    open_rows,
    read_columns,
    read_tables,
    suffix,
)

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")  # what is looked for in folders
INTEGER = r"^(0|-?[1-9][0-9]{0,17})?$"  # as one writes it, or nothing
STAMPS = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "created")  # as file systems call them


def resolved(name: str) -> str:
    """The same name for all paths to a file."""
    return name if "://" in name else str(Path(name).resolve())


def stamp(name: str) -> list[Any]:
    """Name, size and modification time (or what a remote file system has in its place): changes with the file."""
    if "://" not in name:
        return file_stamp(Path(name))
    fs, path = file_system(name)
    info = fs.info(path)
    return [name, info.get("size"), *(str(info[key]) for key in STAMPS if key in info)]


@dataclass(frozen=True)
class FileSplits:
    """Files of each split, as a source (`cache.py`).

    Args:
        patterns: see `find_files`; by split, None for one that there is not.
        columns: see `read_columns`.
        max_line_bytes: see `read_columns`.
    """

    patterns: Mapping[str, Sequence[str | Path] | str | Path | None]
    columns: Mapping[str, str]
    max_line_bytes: int = MAX_LINE_BYTES

    def files(self) -> dict[str, list[str]]:
        """Raises:
        ValueError: see `find_files`; also if there are none for training, or a file is for something else, too.
        """
        if self.patterns["train"] is None:
            raise ValueError("train_files=None must name files, folders or patterns: text to train on")
        splits = {split: find_files(pattern) for split, pattern in self.patterns.items() if pattern is not None}
        train = set(map(resolved, splits["train"]))
        for split in splits.keys() - {"train"}:
            if both := [file for file in splits[split] if resolved(file) in train]:
                raise ValueError(f"{both} are in train_files and in {split}_files: {split} text must not be trained on")
        return splits

    def identity(self) -> dict[str, Any]:
        files = {split: [stamp(file) for file in found] for split, found in self.files().items()}
        return {"files": files, "columns": dict(self.columns)}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        splits = self.files()
        files = [file for found in splits.values() for file in found]
        limit, numbers = self.max_line_bytes, self._csv_numbers(files)
        return {
            split: read_columns(found, self.columns, work_dir, split, max_line_bytes=limit, csv_numbers=numbers)
            for split, found in splits.items()
        }

    def _csv_numbers(self, files: Sequence[str]) -> bool:
        """Whether the labels of all CSV files are integers, written as one writes them: else "01" is no 1."""
        label = list(self.columns.values())[-1]
        tables = (table for file in files if suffix(file) == ".csv" for table in read_tables(file, self.columns))
        return len(self.columns) > 1 and all(
            pc.all(pc.match_substring_regex(t[label], INTEGER)).as_py() for t in tables
        )


def file_source(files: FileSplits, valid_fraction: float, *, scattered: bool) -> Source:
    """Files for training, and for validation either files or some of the training documents, see `SplitOff`.

    Args:
        files: with patterns for "train", "valid" and "test".
        valid_fraction: share of the documents for validation if there are no files for it, in (0, 1).
        scattered: whether they are from everywhere; otherwise the last ones.
    """
    check_share(valid_fraction=valid_fraction)
    return files if files.patterns["valid"] is not None else SplitOff(files, None, valid_fraction, scattered)


def find_files(patterns: Sequence[str | Path] | str | Path) -> list[str]:
    """Resolves files, folders and glob patterns to readable files, in the order given, each pattern sorted.

    A file that is found more than once is in the result once, where it was found first.

    Raises:
        ValueError: if a pattern matches nothing or a file cannot be read.
    """
    files: dict[str, str] = {}
    for pattern in map(str, [patterns] if isinstance(patterns, str | Path) else patterns):
        try:
            found = _found(pattern)
        except (*UNREADABLE, ImportError) as error:
            raise ValueError(f"cannot read {pattern}: {error}") from error
        if not found:
            suffixes = ", ".join(SUFFIXES)
            raise ValueError(f"{pattern!r} is no file, no folder with files ({suffixes}) and no pattern with a match")
        for file in found:
            files.setdefault(resolved(file), file)
    for file in files.values():
        try:
            open_rows(file).close()
        except UNREADABLE as error:
            raise ValueError(f"cannot read {file}: {error}") from error
    return list(files.values())


def _found(pattern: str) -> list[str]:
    fs, path = file_system(pattern)
    is_local, is_file = isinstance(fs, LocalFileSystem), fs.isfile(path)
    is_folder = not is_file and fs.isdir(path)  # which reads an https:// file
    if is_file:
        names = [path]  # also if its name looks like a pattern
    elif is_local:
        found = Path(path).rglob("*") if is_folder else map(Path, glob(path, recursive=True))  # noqa: PTH207
        names = [str(name) for name in sorted(found) if name.is_file()]
    else:
        names = sorted(fs.find(path)) if is_folder else [name for name in sorted(fs.glob(path)) if fs.isfile(name)]
    files = names if is_local else [fs.unstrip_protocol(name) for name in names]
    return [file for file in files if suffix(file) in SUFFIXES] if is_folder else files


def forget_connections() -> None:
    """For a process that was forked: connections and threads of the other one can't be used."""
    fsspec.asyn.reset_lock()
