"""MIDI files as sources (`perceiver/data/cache.py`): in a folder or a zip archive, local or downloaded."""

import errno
import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceiver.data.audio.download import download
from perceiver.data.cache import file_stamp
from perceiver.processing.midi import read_midi

SUFFIXES = (".mid", ".midi")
READ = (*SUFFIXES, ".csv")  # of all that is in a folder or archive
MAX_UNPACKED_BYTES = 4_294_967_296
DAMAGED_ARCHIVE = (zlib.error, lzma.LZMAError, struct.error)


@dataclass(frozen=True)
class MidiFiles:
    """Pieces are the MIDI files of a folder or zip archive, `.mid` or `.midi`. Percussion is left out.

    Args:
        source: folder, zip archive, or URL of a zip archive.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        dataset_dir: what a URL gives is in its folder `downloads`, in a folder for each URL.
        split: returns the MIDI files of a folder by split.
        settings: further arguments of `split`.
        max_unpacked_bytes: bytes that the MIDI files and tables of an archive may have.
    """

    source: str
    sha256: str | None
    dataset_dir: str
    split: Callable[..., Mapping[str, Sequence[Path]]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES

    read = staticmethod(read_midi)

    def identity(self) -> dict[str, Any]:
        if "://" in self.source:
            return {"source": self.source, "sha256": self.sha256, **self.settings}
        path = Path(self.source).resolve()
        if not path.exists():
            raise ValueError(f"source={self.source!r} is no file or folder")
        # A cache may be in the folder, too.
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in READ) if path.is_dir() else [path]
        stamps = repr([file_stamp(file) for file in files])
        return {"source": str(path), "files": hashlib.sha256(stamps.encode()).hexdigest(), **self.settings}

    def load(self, work_dir: Path) -> Mapping[str, Sequence[Path]]:
        path = Path(self.source)
        if "://" in self.source:
            address, name = hashlib.sha256(self.source.encode()).hexdigest()[:16], self.source.rsplit("/", 1)[1]
            path = Path(self.dataset_dir) / "downloads" / address / (name[:100] or "archive")
            download(self.source, path, self.sha256)
        if not path.is_dir():
            path = unpack(path, work_dir / "unpacked", READ, self.max_unpacked_bytes)
        return self.split(path, **self.settings)


def unpack(path: Path, folder: Path, suffixes: Sequence[str], max_bytes: int) -> Path:
    """Unpacks the files with these suffixes of a zip archive into a new folder, and returns it.

    Raises:
        ValueError: if it is no zip archive, it is damaged or encrypted, or it would be more than `max_bytes`.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.lower().endswith(tuple(suffixes))]
            # no member gives more than it says
            if (total := sum(member.file_size for member in members)) > max_bytes:
                raise ValueError(f"it has {total:,} bytes, more than max_unpacked_bytes={max_bytes}")
            archive.extractall(folder, members)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"cannot unpack {path}: {error}") from error
    # An encrypted archive is a RuntimeError, and so is an unknown compression.
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, LookupError, *DAMAGED_ARCHIVE) as error:
        raise ValueError(f"cannot unpack {path}: {error}") from error
    return folder


def midi_files(folder: Path) -> list[Path]:
    """All MIDI files of a folder and its folders, sorted.

    Raises:
        ValueError: if there are none.
    """
    # Names that begin with "._" are notes that macOS leaves in archives.
    files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("._")]
    if not files:
        raise ValueError(f"{folder} has no {' or '.join(SUFFIXES)} files")
    return sorted(files)


def split_by_folder(folder: Path, valid_fraction: float) -> dict[str, list[Path]]:
    """The files of its folders `train`, `valid` and possibly `test`, or without these `split_by_name`."""
    if (folder / "train").is_dir() and (folder / "valid").is_dir():
        return {name: midi_files(folder / name) for name in ("train", "valid", "test") if (folder / name).is_dir()}
    return split_by_name(midi_files(folder), valid_fraction)


def split_by_name(files: Sequence[Path], valid_fraction: float) -> dict[str, list[Path]]:
    """Puts a share of the files aside for validation, at least one.

    Which ones depends on hashes of their names: it looks random, but stays the same where files are moved, and nearly
    the same where some are added.

    Raises:
        ValueError: if there is only one file.
    """
    if len(files) < 2:
        raise ValueError(f"{files[0]} is the only MIDI file: there must be one for training and one for validation")
    by_hash = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    valid = set(by_hash[: min(max(round(len(files) * valid_fraction), 1), len(files) - 1)])
    return {"train": [path for path in files if path not in valid], "valid": [path for path in files if path in valid]}
