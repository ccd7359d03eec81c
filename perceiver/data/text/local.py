"""Local UTF-8 text files. A document is a line with its line break ("\\r\\n" becomes "\\n")."""

from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from perceiver.data.text.common import TextDataModule


class LocalTextDataModule(TextDataModule):
    """Text files for training and validation.

    Args:
        dataset_dir: folder for preprocessed text.
        train_files: files, folders (all `*.txt` below them) or glob patterns; read in the order given, those of
            a folder or pattern sorted. A file that is found more than once is read once.
        valid_files: as `train_files`. Without them the last lines of the training text are the validation split.
        valid_fraction: share of lines for that, in (0, 1).
        **kwargs: see `TextDataModule`.

    Raises:
        ValueError: also later, when the files are looked up: if there are none, if one cannot be read or if one is for
            training and validation.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/local",
        *,
        train_files: list[str] | str,
        valid_files: list[str] | str | None = None,
        valid_fraction: float = 0.05,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction={valid_fraction} must be in (0, 1)")
        self.train_files, self.valid_files, self.valid_fraction = train_files, valid_files, valid_fraction

    def identity(self) -> dict[str, Any]:
        train, valid = self._files()
        if valid is None:
            return {"train": file_stamps(train), "valid_fraction": self.valid_fraction}
        return {"train": file_stamps(train), "valid": file_stamps(valid)}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        train_files, valid_files = self._files()
        train = _load_lines(train_files, work_dir)
        if valid_files is not None:
            return {"train": train, "valid": _load_lines(valid_files, work_dir)}
        num_train = len(train) - max(1, round(len(train) * self.valid_fraction))
        if num_train < 1:
            raise ValueError(f"{len(train)} lines cannot be split with valid_fraction={self.valid_fraction}")
        return {"train": train.select(range(num_train)), "valid": train.select(range(num_train, len(train)))}

    def _files(self) -> tuple[list[Path], list[Path] | None]:
        train = find_files(self.train_files)
        if self.valid_files is None:
            return train, None
        valid = find_files(self.valid_files)
        train_paths = {file.resolve() for file in train}
        both = [str(file) for file in valid if file.resolve() in train_paths]
        if both:
            raise ValueError(f"{both} are in train_files and in valid_files: validation text must not be trained on")
        return train, valid


def find_files(patterns: list[str] | str) -> list[Path]:
    """Resolves files, folders and glob patterns to readable files, in the order given, each pattern sorted.

    A file that is found more than once is in the result once, where it was found first.

    Raises:
        ValueError: if a pattern matches nothing or a file cannot be read.
    """
    files: dict[Path, Path] = {}  # by what they resolve to
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern)
        if path.is_dir():
            found = [file for file in path.rglob("*.txt") if file.is_file()]
        elif path.is_file():
            found = [path]
        else:
            found = [Path(name) for name in glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207
        if not found:
            raise ValueError(f"{pattern!r} is no file, no folder with *.txt files and no pattern that matches a file")
        for file in sorted(found):
            files.setdefault(file.resolve(), file)
    for file in files.values():
        try:
            file.open("rb").close()
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error}") from error
    return list(files.values())


def file_stamps(files: Iterable[Path]) -> list[list[str | int]]:
    """Absolute path, size and modification time of each file: changes when a file or their order does."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _lines(files: list[Path]) -> Iterator[dict[str, str]]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield {"text": line}


def _load_lines(files: list[Path], work_dir: Path) -> datasets.Dataset:
    if not any(file.stat().st_size for file in files):
        raise ValueError(f"{[str(file) for file in files]}: all files are empty")
    try:
        # Not `load_dataset("text", data_files=...)`: it takes names for patterns and URLs.
        return datasets.Dataset.from_generator(
            _lines,
            features=datasets.Features({"text": datasets.Value("large_string")}),
            gen_kwargs={"files": files},
            cache_dir=str(work_dir / "lines"),
        )
    except DatasetGenerationError as error:
        raise ValueError(f"cannot read {[str(file) for file in files]} as UTF-8 text: {error.__cause__}") from error
