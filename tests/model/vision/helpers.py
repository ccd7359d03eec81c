"""What the tests of vision models share: data that are dicts, and the largest tensor that a model makes."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader


class DictData(pl.LightningDataModule):
    """Serves the same examples for training, validation and test, in batches that are dicts."""

    def __init__(self, columns: dict[str, Tensor], batch_size: int = 4, **attributes: Any) -> None:
        super().__init__()
        self.columns, self.batch_size = columns, batch_size
        for name, value in attributes.items():
            setattr(self, name, value)

    def train_dataloader(self) -> DataLoader[Any]:
        size = len(next(iter(self.columns.values())))
        examples: Any = [{name: column[i] for name, column in self.columns.items()} for i in range(size)]
        return DataLoader(examples, batch_size=self.batch_size)

    val_dataloader = test_dataloader = train_dataloader


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result
