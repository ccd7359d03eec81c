"""enwik8: the first 10^8 bytes of an XML dump of Wikipedia (http://mattmahoney.net/dc/textdata.html)."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from perceiver.checks import check_least
from perceiver.data.text.common import TextDataModule
from perceiver.data.text.files import find_files, stamp
from perceiver.data.text.rows import UNREADABLE, file_system, line_array

MAX_BYTES = 1_073_741_824
BLOCK_BYTES = 1 << 20
ENDS = {"train": 90, "valid": 95, "test": 100}  # percent; megabytes of the whole file


class Enwik8DataModule(TextDataModule):
    """The standard split of enwik8: 90 MB for training, 5 MB for validation, 5 MB for test, in this order.

    Nothing is removed or replaced, so that bits per byte compare with published ones. A document is a line. A split
    ends between characters, so it can differ from the standard one by up to 3 bytes.

    Args:
        dataset_dir: folder for preprocessed text.
        source: path or URL of the file `enwik8`, or of a zip archive that has it. Another file is split by the same
            shares.
        max_bytes: of the file, and of the archive. The text is in memory as a whole.
        **kwargs: see `TextDataModule`.

    Raises:
        ValueError: also later, when the file is looked up: if it cannot be read, is not UTF-8 or too short.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/enwik8",
        *,
        source: str = "https://mattmahoney.net/dc/enwik8.zip",
        max_bytes: int = MAX_BYTES,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        check_least(1, max_bytes=max_bytes)
        self.raw_data = Enwik8(source, max_bytes)


@dataclass(frozen=True)
class Enwik8:
    """The source of the text.

    Args:
        source: see `Enwik8DataModule`.
        max_bytes: see `Enwik8DataModule`.
    """

    source: str
    max_bytes: int = MAX_BYTES

    def identity(self) -> dict[str, Any]:
        return {"source": self.source if "://" in self.source else stamp(find_files(self.source)[0])}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        raw, (fs, path) = work_dir / "raw", file_system(self.source)
        try:
            with fs.open(path, "rb") as source, raw.open("wb") as copy:
                while block := source.read(BLOCK_BYTES):
                    self._check_size(copy.tell() + len(block))
                    copy.write(block)
            if zipfile.is_zipfile(raw):
                with zipfile.ZipFile(raw) as archive:
                    self._check_size(archive.getinfo("enwik8").file_size)
                    raw = Path(archive.extract("enwik8", work_dir))
            content = raw.read_bytes()
            content.decode()
        except UNREADABLE as error:
            raise ValueError(f"cannot read {self.source}: {error}") from error
        splits, start = {}, 0
        for split, percent in ENDS.items():
            stop = len(content) * percent // 100
            while stop < len(content) and content[stop] & 0xC0 == 0x80:  # inside of a character
                stop -= 1
            if stop <= start:
                raise ValueError(f"{self.source} has {len(content)} bytes: too few to split")
            splits[split] = datasets.Dataset(pa.table({"text": line_array(content[start:stop])}))
            start = stop
        return splits

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise ValueError(f"it has more than max_bytes={self.max_bytes} bytes")
