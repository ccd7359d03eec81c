"""Packing: several documents of unequal length share a row, and a batch is its rows one after the other, unpadded.

    documents  aaaaa  bb  cccc  ddd          max_seq_len 7
    rows       aaaaabb  ccccddd
    batch      labels (1, T), input_ids (1, T) and the lengths [5, 2, 4, 3] of its documents

Which documents share a row is a function of `seed`: an epoch has as many rows as the next one, in another order, and
loaders share and resume rows as they do examples (`loader.py`). What is random in a document, its length for example,
is new in each epoch all the same. It may leave a row shorter, which costs nothing: there is no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perceiver.data.examples import IGNORE, Examples
from perceiver.data.streams import ROWS, stream

WINDOW = 1024  # documents that are distributed on rows at a time

Ids = npt.NDArray[np.int64]
NOTHING = np.array([IGNORE]), np.array([0])  # a document that predicts nothing
PackedBatch = tuple[Tensor, Tensor, list[int]]


class DocumentExamples(Protocol):
    """Examples that can be packed."""

    @property
    def lengths(self) -> Ids:
        """The number of inputs that each example has at most. It may turn out to have fewer, or none."""

    def window(self, epoch: int, index: int) -> Ids:
        """Token ids of an example (n + 1,): n inputs, and after each the next token."""


@dataclass(eq=False)
class PackedRows(Examples[list[tuple[Ids, Ids]]]):
    """Rows of documents: lists of `(labels, input_ids)`, each (n,), the labels of a repeated row all -100.

    Args:
        documents: what to pack.
        max_seq_len: inputs that a row has at most.
        seed: of which documents share a row.
    """

    documents: DocumentExamples
    max_seq_len: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.members, self.offsets = pack_rows(self.documents.lengths, self.max_seq_len, self.seed)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def example(self, epoch: int, index: int) -> list[tuple[Ids, Ids]]:
        members = self.members[self.offsets[index] : self.offsets[index + 1]]
        documents = [self.documents.window(epoch, int(member)) for member in members]
        return [(ids[1:], ids[:-1]) for ids in documents if len(ids) > 1]

    def repeated(self, example: list[tuple[Ids, Ids]]) -> list[tuple[Ids, Ids]]:
        return [(np.full_like(labels, IGNORE), input_ids) for labels, input_ids in example]


def pack_rows(lengths: Ids, max_seq_len: int, seed: int = 0) -> tuple[Ids, Ids]:
    """Distributes documents on rows: those of a window of shuffled ones, the longest first, each on the first row that
    has room for it (first-fit decreasing).

    Args:
        lengths: of the documents, at most `max_seq_len`. Those without a token are left out.
        max_seq_len: of the rows.
        seed: of the order in which documents are taken.

    Returns:
        `members` and `offsets`: the documents of row r are `members[offsets[r]:offsets[r + 1]]`.
    """
    order = stream(ROWS, seed, 0, 0).permutation(len(lengths))
    order = order[lengths[order] > 0]
    rows, num_rows = np.empty_like(order), 0
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        window = order[start : start + WINDOW] = window[np.argsort(-lengths[window], kind="stable")]
        room = np.full(len(window), max_seq_len)
        for i, length in enumerate(lengths[window].tolist(), start):
            row = int(np.argmax(room >= length))
            room[row] -= length
            rows[i] = num_rows + row
        num_rows += int((room < max_seq_len).sum())
    by_row = np.argsort(rows, kind="stable")
    return order[by_row], np.searchsorted(rows[by_row], np.arange(num_rows + 1))


def packing_collator(rows: Sequence[list[tuple[Ids, Ids]]]) -> PackedBatch:
    """Rows -> `labels` (1, T), `input_ids` (1, T), int64, and the lengths of the documents in them."""
    documents = [document for row in rows for document in row] or [NOTHING]
    labels, input_ids = (torch.from_numpy(np.concatenate(part))[None] for part in zip(*documents, strict=True))
    return labels, input_ids, [len(ids) for _, ids in documents]
