"""The examples of a split, as the loaders ask for them (`loader.py`)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy.typing as npt
from torch.utils.data import Dataset

from perceiver.data.cache import read_array

IGNORE = -100  # the label of what does not count, which torch.nn.functional.cross_entropy ignores

Key = int | tuple[int, int] | tuple[int, int, bool]
ExampleT = TypeVar("ExampleT")


class Examples(Dataset[ExampleT], ABC, Generic[ExampleT]):
    """Examples of a split, asked for with `(epoch, index)`, or with `index` alone, which is epoch 0.

    With `(epoch, index, True)` an example is repeated: another process has it, too, so here it must not count.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, epoch: int, index: int) -> ExampleT:
        """Makes an example, always the same one."""

    @abstractmethod
    def repeated(self, example: ExampleT) -> ExampleT:
        """The example without its labels, or marked so that its batch has none of it."""

    def __getitem__(self, key: Key) -> ExampleT:
        epoch, index, *repeated = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} is not in [0, {len(self)})")
        example = self.example(epoch, index)
        return self.repeated(example) if any(repeated) else example


@dataclass(eq=False)
class CachedExamples(Examples[ExampleT]):
    """Examples made of arrays in the folder of a cache.

    Args:
        directory: the folder.
        split: name of the split.

    Raises:
        ValueError: if files of the split are missing or damaged.
    """

    directory: Path
    split: str

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry all data into each spawned worker.
        return partial(type(self), **{field.name: getattr(self, field.name) for field in fields(self)}), ()

    def array(self, name: str) -> npt.NDArray[Any]:
        return read_array(self.directory, f"{self.split}.{name}")
