"""Where raw data comes from, and the folder that keeps what was made of it.

A source is any object with these two methods:

    identity()       what tells its data from others, as JSON values: a change means new preprocessing
    load(work_dir)   the splits "train", "valid" and possibly "test"; in `work_dir` it may leave intermediate files
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 4  # of what data modules write; part of the key


class Source(Protocol):
    """See above."""

    def identity(self) -> dict[str, Any]: ...

    def load(self, work_dir: Path) -> Mapping[str, Any]: ...


def file_stamp(path: Path) -> list[Any]:
    """Name, size and modification time: changes with the file."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def source_key(source: Source) -> dict[str, Any]:
    """The part of a key that is the raw data's."""
    return {"class": type(source).__name__, **source.identity()}


class Cache:
    """The folder `<dataset_dir>/<16 hexadecimal digits>`, made once, which is there complete or not at all.

    Its name is a hash of its key, everything that changes what is in it, which is also in `key.json`.

    Args:
        dataset_dir: may be shared.
        key: returns the key, JSON values. Called when the folder is first asked for.
        fill: writes the files, given a folder for intermediate ones, deleted afterwards, and the folder to fill.
    """

    def __init__(
        self, dataset_dir: str | Path, key: Callable[[], Mapping[str, Any]], fill: Callable[[Path, Path], None]
    ):
        self.dataset_dir, self._key, self._fill = Path(dataset_dir), key, fill

    @cached_property
    def key(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **self._key()}

    @cached_property
    def directory(self) -> Path:
        return self.dataset_dir / hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]

    def prepare(self) -> None:
        """Fills the folder, unless it is there."""
        if self.directory.is_dir():
            return
        self.dataset_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete-", dir=self.dataset_dir) as name:
            work, result = Path(name), Path(name) / "result"
            result.mkdir()
            (result / "key.json").write_text(json.dumps(self.key, indent=2, sort_keys=True))
            self._fill(work, result)
            try:
                result.replace(self.directory)
            except OSError:
                # Another process was faster: a directory that is not empty cannot be replaced.
                if not self.directory.is_dir():
                    raise

    def check(self) -> None:
        """Checks that the folder is there, and was made with this key.

        Raises:
            ValueError: if it is not, or was made with another key, by another version for example.
        """
        if not self.directory.is_dir():
            raise ValueError(f"{self.directory} does not exist: call prepare_data() before setup()")
        try:
            found = json.loads((self.directory / "key.json").read_text())
            if not isinstance(found, dict):
                raise ValueError(f"key.json holds {found!r}")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.directory} is no cache of this version, delete it: {error}") from error
        for name, value in json.loads(json.dumps(self.key)).items():
            if found.get(name) != value:
                raise ValueError(f"{self.directory} was made with {name}={found.get(name)!r}, not {value!r}: delete it")

    def read(self, name: str) -> Any:
        """What is in a JSON file of the folder, which is made if there is none yet."""
        self.prepare()
        self.check()
        return json.loads((self.directory / name).read_text())

    def splits(self) -> list[str]:
        """Names of the splits that have tokens."""
        return sorted(path.name.removesuffix(".tokens.npy") for path in self.directory.glob("*.tokens.npy"))


def read_array(directory: Path, name: str) -> npt.NDArray[Any]:
    """Maps `<name>.npy` of the folder of a cache into memory.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        return np.load(directory / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{directory} is damaged, delete it: {error}") from error
