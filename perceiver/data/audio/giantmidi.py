"""GiantMIDI-Piano: 10,855 pieces transcribed from recordings (arXiv 2010.07061)."""

from typing import Any

from perceiver.checks import check_share
from perceiver.data.audio.base import SymbolicAudioDataModule
from perceiver.data.audio.files import MAX_UNPACKED_BYTES, MidiFiles, split_by_folder

PAGE = "https://github.com/bytedance/GiantMIDI-Piano/blob/master/disclaimer.md"


class GiantMidiPianoDataModule(SymbolicAudioDataModule):
    """GiantMIDI-Piano, all pieces or the subset with checked surnames. License CC BY 4.0.

    There is no link to it that needs no agreement: its page, named in the error if there is no `source`, says how to
    get `midis_v1.2.zip` and `surname_checked_midis_v1.2.zip`.

    Args:
        dataset_dir: folder for encoded pieces.
        source: zip archive, unpacked folder, or a URL of a zip archive.
        sha256: checksum of what a URL gives; None leaves it unchecked. A local file is not checked.
        valid_fraction: share of the pieces for validation, in (0, 1).
        max_unpacked_bytes: bytes that the MIDI files and tables of a zip archive may have.
        **kwargs: see `SymbolicAudioDataModule`.

    Raises:
        ValueError: also later, if `source` is not what it must be.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/giantmidi-piano",
        source: str | None = None,
        sha256: str | None = None,
        valid_fraction: float = 0.05,
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
        **kwargs: Any,
    ):
        if source is None:
            raise ValueError(f"GiantMIDI-Piano must be downloaded by hand, see {PAGE}: source=path of the zip archive")
        super().__init__(dataset_dir, **kwargs)
        check_share(valid_fraction=valid_fraction)
        settings = {"valid_fraction": valid_fraction}
        self.raw_data = MidiFiles(source, sha256, dataset_dir, split_by_folder, settings, max_unpacked_bytes)
