"""Any MIDI files."""

from typing import Any

from perceiver.checks import check_share
from perceiver.data.audio.base import SymbolicAudioDataModule
from perceiver.data.audio.files import MAX_UNPACKED_BYTES, MidiFiles, split_by_folder


class LocalMidiDataModule(SymbolicAudioDataModule):
    """The MIDI files of a folder or zip archive.

    If it has folders `train` and `valid`, and possibly `test`, these are the splits. Otherwise some of the files are
    for validation.

    Args:
        dataset_dir: folder for encoded pieces.
        source: folder, zip archive, or URL of a zip archive.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        valid_fraction: share of the files for validation where there are no folders for it, in (0, 1).
        max_unpacked_bytes: bytes that the MIDI files and tables of a zip archive may have.
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
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        check_share(valid_fraction=valid_fraction)
        settings = {"valid_fraction": valid_fraction}
        self.raw_data = MidiFiles(source, sha256, dataset_dir, split_by_folder, settings, max_unpacked_bytes)
