"""Any MIDI files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perceiver.data.audio.files import MidiFilesDataModule, check_fraction, midi_files, split_by_name


class LocalMidiDataModule(MidiFilesDataModule):
    """The MIDI files of a folder or zip archive.

    If it has folders `train` and `valid`, and possibly `test`, these are the splits. Otherwise some of the files are
    for validation.

    Args:
        dataset_dir: folder for encoded pieces.
        source: folder, zip archive, or URL of a zip archive.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        valid_fraction: share of the files for validation where there are no folders for it, in (0, 1).
        **kwargs: see `SymbolicAudioDataModule`.

    Raises:
        ValueError: also later, if `source` is not what it must be.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/midi",
        *,
        source: str,
        sha256: str | None = None,
        valid_fraction: float = 0.05,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, source, sha256, **kwargs)
        check_fraction(valid_fraction)
        self.valid_fraction = valid_fraction

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "valid_fraction": self.valid_fraction}

    def split(self, folder: Path) -> Mapping[str, Sequence[Path]]:
        if (folder / "train").is_dir() and (folder / "valid").is_dir():
            splits = [split for split in ("train", "valid", "test") if (folder / split).is_dir()]
            return {split: midi_files(folder / split) for split in splits}
        return split_by_name(midi_files(folder), self.valid_fraction)
