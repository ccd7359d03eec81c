"""MAESTRO: 1,276 performances of piano music with pedal and velocities, 200 hours (arXiv 1810.12247)."""

import csv
from pathlib import Path
from typing import Any

from perceiver.data.audio.base import SymbolicAudioDataModule
from perceiver.data.audio.files import MAX_UNPACKED_BYTES, MidiFiles

URL = "https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip"
SHA256 = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"  # as its page gives it
TABLE = "maestro-v3.0.0.csv"
SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # as the table calls them


class MaestroV3DataModule(SymbolicAudioDataModule):
    """MAESTRO v3.0.0 with its own splits, in which no composition is in two. 56 MB, license CC BY-NC-SA 4.0.

    Args:
        dataset_dir: folder for the download and encoded pieces.
        source: another place of `maestro-v3.0.0-midi.zip`, a path or URL, or the unpacked folder.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        max_unpacked_bytes: bytes that the MIDI files and tables of a zip archive may have.
        **kwargs: see `SymbolicAudioDataModule`.

    Raises:
        ValueError: also later, if `source` is not what it must be.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/maestro-v3",
        source: str = URL,
        sha256: str | None = SHA256,
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        self.raw_data = MidiFiles(source, sha256, dataset_dir, split_by_table, max_unpacked_bytes=max_unpacked_bytes)


def split_by_table(folder: Path) -> dict[str, list[Path]]:
    """MIDI files by split, as the table of MAESTRO says.

    Raises:
        ValueError: if there is no such table, it is another one, or it has files of other folders.
    """
    table = next(folder.rglob(TABLE), None)
    if table is None:
        raise ValueError(f"{folder} has no {TABLE}, the table that says what is for training")
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS.values()}
    try:
        with table.open(encoding="utf-8-sig", newline="") as rows:
            for row in csv.DictReader(rows):
                name = row["midi_filename"] or ""  # None where a row is too short
                if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"{name!r} is no file below it")
                splits[SPLITS[row["split"]]].append(table.parent / name)
    except (KeyError, csv.Error, OSError, ValueError) as error:
        raise ValueError(f"{table} is not the table of MAESTRO v3.0.0: {error!r}") from error
    return splits
