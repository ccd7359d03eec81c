"""Where raw data comes from, and the folder that keeps what was made of it.

A source is any object with these two methods:

    identity()       what tells its data from others, as JSON values: a change means new preprocessing
    load(work_dir)   the splits "train", "valid" and possibly "test"; in `work_dir` it may leave intermediate files
"""

import errno
import hashlib
import json
import shutil
import signal
import tempfile
import threading
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from perceiver.claims import MACHINE, Claim, abandoned

FORMAT_VERSION = 5  # of what data modules write; part of the key
INCOMPLETE = "incomplete-"
CHECKSUMS = "checksums.json"  # file: [size, SHA-256 checksum, None for a large one]
SMALL_BYTES = 1 << 20  # of files whose content is checked each time; of others it is the size
BLOCK_BYTES = 1 << 20


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


def sha256_of(path: Path) -> str:
    """SHA-256 checksum of a file, in hexadecimal."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest()


class Cache:
    """The folder `<dataset_dir>/<16 hexadecimal digits>`, made once, which is there complete or not at all.

    Its name is a hash of its key, everything that changes what is in it, which is also in `key.json`. It is made in a
    folder of its own, `incomplete-*`, which goes when it fails or is ended with SIGINT or SIGTERM. Where it is killed,
    the next one on the same machine that makes something there removes what was left.

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
        """Fills the folder, unless it is there.

        Raises:
            OSError: also if the disk is full.
        """
        if self.directory.is_dir():
            return
        self.dataset_dir.mkdir(parents=True, exist_ok=True)
        for left in abandoned(self.dataset_dir, INCOMPLETE):
            shutil.rmtree(left.path, ignore_errors=True)  # another user's stays
            left.release()
        with _sigterm_raises(), _incomplete_folder(self.dataset_dir) as work:
            result = work / "result"
            result.mkdir()
            try:
                (result / "key.json").write_text(json.dumps(self.key, indent=2, sort_keys=True))
                self._fill(work, result)
                (result / CHECKSUMS).write_text(json.dumps(_checksums(result), indent=1))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                reason = f"{self.dataset_dir} has no space left: what was begun there is deleted"
                raise OSError(error.errno, reason) from error
            try:
                result.replace(self.directory)
            except OSError:
                # Another process was faster: a directory that is not empty cannot be replaced.
                if not self.directory.is_dir():
                    raise

    def check(self) -> None:
        """Checks that the folder is there, was made with this key, and has the files that were written.

        Raises:
            ValueError: if it is not, or was made with another key, by another version for example.
        """
        if not self.directory.is_dir():
            raise ValueError(f"{self.directory} does not exist: call prepare_data() before setup()")
        found = read_json(self.directory, "key.json", dict)
        for name, value in json.loads(json.dumps(self.key)).items():
            if found.get(name) != value:
                raise ValueError(f"{self.directory} was made with {name}={found.get(name)!r}, not {value!r}: delete it")
        for name, expected in read_json(self.directory, CHECKSUMS, dict).items():
            if _checksum(self.directory / name) != expected:
                raise ValueError(f"{self.directory} is damaged, delete it: {name} is not what was written")

    def read(self, name: str) -> Any:
        """What is in a JSON file of the folder, which is made if there is none yet."""
        self.prepare()
        self.check()
        return read_json(self.directory, name)

    def splits(self) -> list[str]:
        """Names of the splits that have tokens."""
        return sorted(path.name.removesuffix(".tokens.npy") for path in self.directory.glob("*.tokens.npy"))


@contextmanager
def _incomplete_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process, deleted afterwards."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{INCOMPLETE}{MACHINE}-", dir=parent))
        try:
            claim = Claim(folder)
        except BlockingIOError:  # another process has taken it for one that was left, and is deleting it
            continue
        break
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        claim.release()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM is an exception, so that files and workers go, unless it is handled already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _checksums(folder: Path) -> dict[str, list[Any]]:
    return {path.name: _checksum(path) for path in sorted(folder.iterdir())}


def _checksum(path: Path) -> list[Any]:
    if not path.is_file():
        return []
    size = path.stat().st_size
    return [size, sha256_of(path) if size <= SMALL_BYTES else None]


def read_json(directory: Path, name: str, kind: type = object) -> Any:
    """What is in a JSON file of the folder of a cache, of that type.

    Raises:
        ValueError: if it is missing, damaged or of another type.
    """
    try:
        found = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{directory} is no cache of this version, delete it: {name}: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{directory} is no cache of this version, delete it: {name} holds {str(found)[:100]}")
    return found


class ArrayFile:
    """Writes an array `.npy` of a row of numbers one part after the other, however many there will be.

    A full disk is an error here; where a file is reserved first and mapped, it would be a signal that ends the process.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike):
        self.dtype, self.size = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._start = self._head()

    def write(self, part: npt.NDArray[Any]) -> None:
        """Adds numbers (n,)."""
        self._file.write(np.ascontiguousarray(part, self.dtype).data)
        self.size += len(part)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            if error[0] is None:
                self._file.seek(0)
                head = self._head()
                assert head == self._start

    def _head(self) -> int:
        # numpy leaves room in it for any number of them
        fields = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, fields)
        return self._file.tell()


def read_array(directory: Path, name: str) -> npt.NDArray[Any]:
    """Maps `<name>.npy` of the folder of a cache into memory: a row of integers.

    Raises:
        ValueError: if it is missing or damaged.
    """
    path = directory / f"{name}.npy"
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError) as error:
        raise ValueError(f"{directory} is damaged, delete it: {path.name}: {error}") from error
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{directory} is damaged, delete it: {path.name} has {array.dtype} of shape {array.shape}")
    return array


def read_offsets(directory: Path, name: str, size: int) -> npt.NDArray[np.int64]:
    """As `read_array`, where parts of an array of that size begin and end: from 0 to `size`, never decreasing."""
    offsets = read_array(directory, name)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{directory} is damaged, delete it: {name}.npy must go from 0 to {size} and never decrease")
    return offsets
