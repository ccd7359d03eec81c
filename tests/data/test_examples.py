"""How examples are asked for, and that pickles of those in a cache carry no data."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from perceiver.data.examples import CachedExamples, Examples


class Numbers(Examples[tuple[int, int]]):
    def __len__(self) -> int:
        return 3

    def example(self, epoch: int, index: int) -> tuple[int, int]:
        return epoch, index

    def repeated(self, example: tuple[int, int]) -> tuple[int, int]:
        return -example[0], -example[1]


def test_keys():
    examples = Numbers()
    assert (examples[2], examples[5, 1], examples[5, 1, False], examples[5, 1, True]) == (
        (0, 2),
        (5, 1),
        (5, 1),
        (-5, -1),
    )
    for index in (-1, 3):
        for key in (index, (4, index), (4, index, True)):
            with pytest.raises(IndexError, match=rf"example {index} is not in \[0, 3\)"):
                examples[key]


@dataclass(eq=False)
class Rows(CachedExamples[float]):
    factor: float

    def __post_init__(self) -> None:
        self.values = self.array("values")

    def __len__(self) -> int:
        return len(self.values)

    def example(self, epoch: int, index: int) -> float:
        return self.factor * self.values[index]

    def repeated(self, example: float) -> float:
        return 0.0


def test_a_pickle_carries_no_data(tmp_path: Path):
    np.save(tmp_path / "train.values.npy", np.arange(10_000))
    rows = Rows(tmp_path, "train", 3.0)
    pickled = pickle.dumps(rows)
    assert len(pickled) < 500
    again = pickle.loads(pickled)
    assert isinstance(again.values, np.memmap) and [again[7], again[1, 7]] == [rows[7], rows[1, 7]] == [21.0, 21.0]
    with pytest.raises(ValueError, match=r"is damaged, delete it: .*valid.values.npy"):
        Rows(tmp_path, "valid", 3.0)
