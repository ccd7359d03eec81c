"""Pieces of music as token ids on disk, and windows of them as examples.

```
<directory>/key.json             what the pieces were made from (`cache.py`)
<directory>/skipped.json         pieces that could not be read: name -> reason
<directory>/<split>.tokens.npy   all pieces of a split, one after the other, uint16
<directory>/<split>.offsets.npy  piece k is tokens[offsets[k]:offsets[k + 1]], int64
```

Arrays are memory-mapped. Windows never reach from one piece into the next.
"""

import json
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pretty_midi import PrettyMIDI
from torch import Tensor
from tqdm import tqdm

from perceiver.data.cache import ArrayFile, read_offsets
from perceiver.data.examples import IGNORE, CachedExamples
from perceiver.data.streams import WINDOWS, stream
from perceiver.data.workers import map_ordered
from perceiver.processing.midi import DAMAGED, NOTE_OFF, PAD, TIME_SHIFT, Ids, change_tempo, encode_midi, transpose

LOWEST, HIGHEST = 21, 108  # pitches of a piano

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.uint16]
Batch = tuple[Tensor, Tensor, Tensor]


def write_pieces(
    work: Path, result: Path, splits: Mapping[str, Sequence[Any]], read: Callable[[Any], PrettyMIDI], num_workers: int
) -> None:
    """Encodes the pieces of all splits.

    A piece that cannot be read, or has no notes, is reported and left out.

    Args:
        work: folder for intermediate files.
        result: folder for the pieces.
        splits: what each piece is read from: a file, a seed.
        read: reads a piece; a function of a module, so that worker processes can have it.
        num_workers: processes.

    Raises:
        ValueError: if a split has no piece that can be read.
    """
    skipped: dict[str, str] = {}
    for split, sources in splits.items():
        lengths = [0]
        pieces = _encoded(split, sources, read, num_workers)
        with ArrayFile(result / f"{split}.tokens.npy", np.uint16) as tokens, closing(pieces) as encoded:
            for source, ids in zip(sources, encoded, strict=True):
                if isinstance(ids, str):
                    name = str(source).removeprefix(f"{work}{os.sep}")
                    logger.warning("skipped %s: %s", name, ids)
                    skipped[name] = ids
                else:
                    tokens.write(ids)
                    lengths.append(len(ids))
        if len(lengths) == 1:
            raise ValueError(f"split {split!r} has no piece that can be read, of {len(sources)}")
        with ArrayFile(result / f"{split}.offsets.npy", np.int64) as offsets:
            offsets.write(np.cumsum(lengths))
    (result / "skipped.json").write_text(json.dumps(skipped, indent=1))


def _encoded(
    split: str, sources: Sequence[Any], read: Callable[[Any], PrettyMIDI], num_workers: int
) -> Generator[Any, None, None]:
    """Token ids of the pieces, uint16, or why there are none; in the order of `sources`."""
    with closing(map_ordered(partial(_encode, read), sources, num_workers)) as encoded:
        yield from tqdm(encoded, desc=f"Encoding {split}", total=len(sources), unit="piece")


def _encode(read: Callable[[Any], PrettyMIDI], source: Any) -> Any:
    try:
        ids = encode_midi(read(source))
    except DAMAGED as error:
        reason = str(error).removeprefix(f"{source} is ")  # a file's name is in front of it already
        return repr(error) if reason == str(error) else reason
    return np.array(ids, np.uint16) if ids else "it has no notes"


@dataclass(frozen=True)
class Windows:
    """Which windows of pieces are examples.

    Attributes:
        max_seq_len: inputs per example.
        padding_side: where a shorter example is padded to `max_seq_len`, "left" or "right".
        random: start windows anywhere, differently in each epoch. Otherwise the windows of a piece follow each other,
            the last one may be short, and every token but the first of a piece is a label once.
        min_seq_len: with `random`, give each example a random length from this to `max_seq_len`.
        transposition: with `random`, raise or lower each example by up to that many semitones. Notes stay within the
            range of a piano.
        tempo: with `random`, play each example faster or slower by a factor of up to 1 + `tempo`.
        seed: of all that is random.
    """

    max_seq_len: int
    padding_side: Literal["left", "right"] = "left"
    random: bool = False
    min_seq_len: int | None = None
    transposition: int = 0
    tempo: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class PieceWindows(CachedExamples[Batch]):
    """Examples of a split: `labels`, `input_ids` and `pad_mask`, each (max_seq_len,).

    Labels are the next tokens, -100 at padding; the default `collate_fn` makes batches. What is random is drawn per
    (seed, epoch, index).

    Args:
        windows: which windows are examples.
    """

    windows: Windows

    def __post_init__(self) -> None:
        self.tokens, windows = self.array("tokens"), self.windows
        self.offsets = read_offsets(self.directory, f"{self.split}.offsets", len(self.tokens))
        # Random windows can all be whole, but for those of pieces that are shorter than one.
        num_labels = np.diff(self.offsets) - 1
        rounded = num_labels // windows.max_seq_len if windows.random else -(-num_labels // windows.max_seq_len)
        self.first = np.append(0, np.cumsum(np.maximum(rounded, 1)))  # number of each piece's first window

    @property
    def lengths(self) -> Ids:
        """Inputs of each example, or where that is random, the most that there can be (`packing.py`)."""
        counts = np.diff(self.first)
        num_labels = np.repeat(np.diff(self.offsets) - 1, counts)
        if not self.windows.random:
            num_labels -= (np.arange(len(self)) - np.repeat(self.first[:-1], counts)) * self.windows.max_seq_len
        return np.minimum(num_labels, self.windows.max_seq_len)

    @property
    def num_pieces(self) -> int:
        return len(self.offsets) - 1

    def piece(self, index: int) -> Ids:
        """All token ids of a piece."""
        if not 0 <= index < self.num_pieces:
            raise IndexError(f"piece {index} is not in [0, {self.num_pieces})")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def example(self, epoch: int, index: int) -> Batch:
        ids = self.window(epoch, index)
        width, length = self.windows.max_seq_len, len(ids) - 1
        start = width - length if self.windows.padding_side == "left" else 0
        place = slice(start, start + length)
        labels, input_ids = torch.full((width,), IGNORE), torch.full((width,), PAD)
        pad_mask = torch.ones(width, dtype=torch.bool)
        labels[place], input_ids[place], pad_mask[place] = torch.from_numpy(ids[1:]), torch.from_numpy(ids[:-1]), False
        return labels, input_ids, pad_mask

    def repeated(self, example: Batch) -> Batch:
        labels, input_ids, pad_mask = example
        return torch.full_like(labels, IGNORE), input_ids, pad_mask

    def window(self, epoch: int, index: int) -> Ids:
        """Token ids of an example, up to `max_seq_len + 1`."""
        piece = int(np.searchsorted(self.first, index, side="right")) - 1
        number, count = index - int(self.first[piece]), int(self.first[piece + 1] - self.first[piece])
        ids = self.tokens[self.offsets[piece] : self.offsets[piece + 1]]
        if self.windows.random:
            return self._random_window(stream(WINDOWS, self.windows.seed, epoch, index), ids, number, count)
        start = number * self.windows.max_seq_len
        return ids[start : start + self.windows.max_seq_len + 1].astype(np.int64)

    def _random_window(self, random: np.random.Generator, piece: Tokens, number: int, count: int) -> Ids:
        """A window that starts in part `number` of `count` equal parts of where it can start."""
        w = self.windows
        length = w.max_seq_len if w.min_seq_len is None else int(random.integers(w.min_seq_len, w.max_seq_len + 1))
        size = min(length + 1, len(piece))
        starts = len(piece) - size + 1
        start = int(random.integers(number * starts // count, (number + 1) * starts // count))
        if w.tempo == 0:
            ids = piece[start : start + size].astype(np.int64)
        else:
            # Faster music has fewer time shifts, so take what may be needed to fill the window.
            factor = float(np.exp(random.uniform(-1, 1) * np.log1p(w.tempo)))
            ids = change_tempo(piece[start : start + 2 * size].astype(np.int64), factor)[:size]
        return _randomly_transposed(random, ids, w.transposition) if w.transposition else ids


def _randomly_transposed(random: np.random.Generator, ids: Ids, most: int) -> Ids:
    pitches = ids[ids < TIME_SHIFT] % NOTE_OFF
    if len(pitches) == 0:
        return ids
    lowest, highest = int(pitches.min()), int(pitches.max())
    # Notes that are outside of a piano's range already may stay where they are.
    down, up = min(most, max(lowest - LOWEST, 0)), min(most, max(HIGHEST - highest, 0))
    return transpose(ids, int(random.integers(-down, up + 1)))
