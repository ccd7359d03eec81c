"""enwik8: the first 10^8 bytes of an XML dump of Wikipedia (http://mattmahoney.net/dc/textdata.html)."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from perceiver.data.text.common import TextDataModule
from perceiver.data.text.files import find_files, line_array, open_url

SHARES = {"train": 90, "valid": 5, "test": 5}  # percent; megabytes of the whole file


class Enwik8DataModule(TextDataModule):
    """The standard split of enwik8: 90 MB for training, 5 MB for validation, 5 MB for test, in this order.

    Nothing is removed or replaced, so that bits per byte compare with published ones. A document is a line. A split
    ends between characters, so it can differ from the standard one by up to 3 bytes.

    Args:
        dataset_dir: folder for preprocessed text.
        source: path or URL of the file `enwik8`, or of a zip archive that has it. Another file is split by the same
            shares.
        **kwargs: see `TextDataModule`.

    Raises:
        ValueError: also later, when the file is looked up: if it cannot be read, is not UTF-8 or too short.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/enwik8",
        *,
        source: str = "https://mattmahoney.net/dc/enwik8.zip",
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        self.source = source

    def identity(self) -> dict[str, Any]:
        return {"source": self.source if "://" in self.source else find_files(self.source)[0].stamp()}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        raw = work_dir / "raw"
        try:
            with open_url(self.source) as source, raw.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            if zipfile.is_zipfile(raw):
                with zipfile.ZipFile(raw) as archive:
                    raw = Path(archive.extract("enwik8", work_dir))
            content = raw.read_bytes()
            content.decode()
        except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot read {self.source}: {error}") from error
        splits, start, share = {}, 0, 0
        for split, percent in SHARES.items():
            share += percent
            stop = len(content) * share // 100
            while stop < len(content) and content[stop] & 0xC0 == 0x80:  # inside of a character
                stop -= 1
            if stop <= start:
                raise ValueError(f"{self.source} has {len(content)} bytes: too few to split")
            splits[split] = datasets.Dataset(pa.table({"text": line_array(content[start:stop])}))
            start = stop
        return splits
