"""What the data modules of symbolic audio share: encode pieces once, serve windows of them.

1. `prepare_data` encodes the pieces, in parallel, into `<dataset_dir>/<key>/` (`pieces.py`). The key covers the leaf's
   `identity` and the format version. A second run finds the folder and starts at once; a folder exists only if it is
   complete.
2. `setup` maps the splits as examples.
3. The loaders serve batches `(labels, input_ids, pad_mask)`, each (B, max_seq_len). What is random in them depends on
   `seed` and the epoch, not on the number of workers (`perceiver.data.loader`).
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pretty_midi import PrettyMIDI
from torch import Tensor

from perceiver.data.audio.pieces import FORMAT_VERSION, PieceWindows, Source, Windows, write_pieces
from perceiver.data.module import SplitLoaders
from perceiver.data.streams import RECORDS, stream
from perceiver.processing.midi import VOCAB_SIZE


class SymbolicAudioDataModule(SplitLoaders, pl.LightningDataModule):
    """Serves pieces of music as next-token examples.

    Training examples are random windows of pieces, new in each epoch. Validation and test examples are all windows of
    all pieces in their order, always the same.

    Args:
        dataset_dir: folder for downloads and encoded pieces.
        max_seq_len: inputs per example. A piece that is shorter is padded.
        min_seq_len: give each training example a random length from this to `max_seq_len`; None gives all
            `max_seq_len`.
        padding_side: "left" or "right".
        random_transposition: raise or lower each training example by up to that many semitones.
        random_tempo: play each training example faster or slower by a factor of up to 1 + `random_tempo`, in [0, 1).
        preproc_workers: preprocessing processes.
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        pieces: examples by split, after `setup`.
        vocab_size: 389.

    Raises:
        ValueError: if an argument is out of range.
    """

    vocab_size = VOCAB_SIZE

    def __init__(
        self,
        dataset_dir: str,
        max_seq_len: int,
        min_seq_len: int | None = None,
        padding_side: Literal["left", "right"] = "left",
        random_transposition: int = 0,
        random_tempo: float = 0.0,
        preproc_workers: int = 1,
        batch_size: int = 16,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        for name, value, least in [
            ("max_seq_len", max_seq_len, 1),
            ("random_transposition", random_transposition, 0),
            ("preproc_workers", preproc_workers, 1),
            ("seed", seed, 0),
        ]:
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if min_seq_len is not None and not 1 <= min_seq_len <= max_seq_len:
            raise ValueError(f"min_seq_len={min_seq_len} must be at least 1 and at most max_seq_len={max_seq_len}")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side={padding_side!r} must be 'left' or 'right'")
        if not 0 <= random_tempo < 1:
            raise ValueError(f"random_tempo={random_tempo} must be in [0, 1)")
        self.dataset_dir = Path(dataset_dir)
        self.max_seq_len = max_seq_len
        self.fixed_windows = Windows(max_seq_len, padding_side)
        self.random_windows = Windows(
            max_seq_len, padding_side, True, min_seq_len, random_transposition, random_tempo, seed
        )
        self.preproc_workers = preproc_workers
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.pieces: dict[str, PieceWindows] = {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells these pieces from others, as JSON values: the cache key."""

    @abstractmethod
    def load(self, work_dir: Path) -> Mapping[str, Sequence[Source]]:
        """Finds the pieces.

        Args:
            work_dir: for intermediate files; deleted afterwards.

        Returns:
            Splits "train", "valid" and possibly "test": what `read` takes, for each piece.
        """

    @staticmethod
    @abstractmethod
    def read(source: Source) -> PrettyMIDI:
        """Reads a piece, in a worker process; an error means that the piece is broken."""

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, "data": {"class": type(self).__name__, **self.identity()}}

    @property
    def cache_dir(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.cache_key, sort_keys=True).encode()).hexdigest()
        return self.dataset_dir / digest[:16]

    def prepare_data(self) -> None:
        if not self.cache_dir.is_dir():
            write_pieces(self.cache_dir, self.cache_key, self.load, self.read, num_workers=self.preproc_workers)

    def setup(self, stage: str | None = None) -> None:
        if not self.cache_dir.is_dir():
            raise ValueError(f"{self.cache_dir} does not exist: call prepare_data() before setup()")
        splits = sorted(path.name.removesuffix(".offsets.npy") for path in self.cache_dir.glob("*.offsets.npy"))
        self.pieces = {split: self._examples(split, random=split == "train") for split in splits}

    def _examples(self, split: str, *, random: bool) -> PieceWindows:
        return PieceWindows(self.cache_dir, split, self.random_windows if random else self.fixed_windows)

    def split_examples(self, split: str, *, training: bool) -> PieceWindows:
        examples = self.named_split(self.pieces, split)
        return examples if training else self._examples(split, random=False)

    def validation_record(self, index: int = -1) -> Tensor:
        """Inputs (n,) of a validation example, int64, without padding: a prompt whose continuation is logged.

        Args:
            index: number of the example, or -1 for a random one, which is a function of `seed` and the trainer's step.

        Raises:
            ValueError: if there is no such example.
        """
        examples = self.named_split(self.pieces, "valid")
        if not -1 <= index < len(examples):
            raise ValueError(f"validation record {index} must be in [0, {len(examples)}), or -1 for a random one")
        if index == -1:
            step = self.trainer.global_step if self.trainer is not None else 0
            index = int(stream(RECORDS, self.seed, step, 0).integers(len(examples)))
        return torch.from_numpy(examples.window(0, index)[:-1])
