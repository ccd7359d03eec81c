"""Data modules over MIDI files: in a folder or a zip archive, local or downloaded."""

import hashlib
import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretty_midi import PrettyMIDI

from perceiver.data.audio.base import SymbolicAudioDataModule
from perceiver.data.audio.download import download
from perceiver.processing.midi import read_midi

SUFFIXES = (".mid", ".midi")


class MidiFilesDataModule(SymbolicAudioDataModule):
    """Pieces are the MIDI files of a folder or zip archive, `.mid` or `.midi`. Percussion is left out.

    Args:
        dataset_dir: folder for downloads and encoded pieces.
        source: folder, zip archive, or URL of a zip archive.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        **kwargs: see `SymbolicAudioDataModule`.
    """

    def __init__(self, dataset_dir: str, source: str, sha256: str | None, **kwargs: Any):
        super().__init__(dataset_dir, **kwargs)
        self.source = source
        self.sha256 = sha256

    @abstractmethod
    def split(self, folder: Path) -> Mapping[str, Sequence[Path]]:
        """MIDI files by split."""

    def identity(self) -> dict[str, Any]:
        if "://" in self.source:
            return {"source": self.source, "sha256": self.sha256}
        path = Path(self.source).resolve()
        if not path.exists():
            raise ValueError(f"source={self.source!r} is no file or folder")
        # Of all that is in a folder, these are read; a cache may be in it, too.
        kinds = (*SUFFIXES, ".csv")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in kinds) if path.is_dir() else [path]
        stamps = [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
        return {"source": str(path), "files": hashlib.sha256(repr(stamps).encode()).hexdigest()}

    def load(self, work_dir: Path) -> Mapping[str, Sequence[Path]]:
        path = Path(self.source)
        if "://" in self.source:
            path = self.dataset_dir / "downloads" / self.source.rsplit("/", 1)[1]
            download(self.source, path, self.sha256)
        return self.split(path if path.is_dir() else _unpack(path, work_dir / "unpacked"))

    @staticmethod
    def read(source: Path) -> PrettyMIDI:
        return read_midi(source)


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


def check_fraction(valid_fraction: float) -> None:
    """Raises:
    ValueError: if it is out of range.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction={valid_fraction} must be in (0, 1)")


def _unpack(archive: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(archive) as contents:
            contents.extractall(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"cannot unpack {archive}: {error}") from error
    return folder
