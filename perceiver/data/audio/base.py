"""The base of the data modules of symbolic audio: windows of pieces of music.

`prepare_data` encodes the pieces once, in parallel, `setup` maps what is there as examples (`pieces.py`), and the
loaders serve batches `(labels, input_ids, pad_mask)`, each (B, max_seq_len), or packed ones (`packing.py`).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from perceiver.checks import check_least, check_padding_side, check_range
from perceiver.data.audio.pieces import PieceWindows, Windows, write_pieces
from perceiver.data.cache import Cache, source_key
from perceiver.data.module import DataModule
from perceiver.data.packing import PackedRows, packing_collator
from perceiver.processing.midi import VOCAB_SIZE


class SymbolicAudioDataModule(DataModule):
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
        packing: examples shorter than `max_seq_len` share rows of that length, know nothing of each other, and are not
            padded: batches are `(labels, input_ids, lengths)`.
        preproc_workers: preprocessing processes.
        batch_size: training examples per batch.
        **kwargs: see `DataModule`.

    Attributes:
        raw_data: a source whose splits are sequences of anything, for each piece what its function `read` makes a
            `PrettyMIDI` of, in a worker process. An error of it means that the piece is broken.
        vocab_size: 389.

    Raises:
        ValueError: if an argument is out of range.
    """

    vocab_size = VOCAB_SIZE
    cache: Cache

    def __init__(
        self,
        dataset_dir: str,
        max_seq_len: int,
        min_seq_len: int | None = None,
        padding_side: Literal["left", "right"] = "left",
        random_transposition: int = 0,
        random_tempo: float = 0.0,
        packing: bool = False,
        preproc_workers: int = 1,
        batch_size: int = 16,
        **kwargs: Any,
    ):
        super().__init__(batch_size=batch_size, **kwargs)
        check_least(1, max_seq_len=max_seq_len, preproc_workers=preproc_workers)
        check_least(0, random_transposition=random_transposition)
        check_padding_side(padding_side)
        if min_seq_len is not None:
            check_range(1, max_seq_len, min_seq_len=min_seq_len)
        if not 0 <= random_tempo < 1:
            raise ValueError(f"random_tempo={random_tempo} must be in [0, 1)")
        self.max_seq_len, self.packing, self.preproc_workers = max_seq_len, packing, preproc_workers
        self.fixed_windows = Windows(max_seq_len, padding_side)
        self.random_windows = Windows(
            max_seq_len, padding_side, True, min_seq_len, random_transposition, random_tempo, self.seed
        )
        self.cache = Cache(dataset_dir, self._cache_key, self._fill_cache)

    @property
    def pieces(self) -> dict[str, PieceWindows]:
        """Examples by split, after `setup`."""
        return self.examples

    def _cache_key(self) -> dict[str, Any]:
        return {"data": source_key(self.raw_data)}

    def _fill_cache(self, work: Path, result: Path) -> None:
        splits = self.raw_data.load(work)
        write_pieces(work, result, splits, self.raw_data.read, self.preproc_workers)

    def load_examples(self) -> dict[str, PieceWindows]:
        return {split: self._examples(split, split == "train") for split in self.cache.splits()}

    def split_examples(self, split: str, *, training: bool) -> Any:
        self.named_split(split)
        windows = self._examples(split, training)
        return PackedRows(windows, self.max_seq_len, self.seed) if self.packing else windows

    def collate_function(self, *, training: bool) -> Any:
        return packing_collator if self.packing else None

    def _examples(self, split: str, training: bool) -> PieceWindows:
        return PieceWindows(self.cache_dir, split, self.random_windows if training else self.fixed_windows)

    def validation_record(self, index: int = -1) -> Tensor:
        """Inputs (n,) of a validation example, int64, without padding: a prompt whose continuation is logged.

        Args:
            index: number of the example, or -1 for a random one, which is a function of `seed` and the trainer's step.

        Raises:
            ValueError: if there is no such example.
        """
        number = self.validation_index(index)
        return torch.from_numpy(self.pieces["valid"].window(0, number)[:-1])
