"""The loaders of a data module, over examples by split. Leaves say what the examples are and how batches are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from perceiver.data.loader import EpochSampler, ResumableLoader

ExamplesT = TypeVar("ExamplesT")


class SplitLoaders:
    """Training, validation and test loaders of a Lightning data module, which has the attributes below.

    Training batches depend on `seed` and the epoch, not on the number of workers, and resume within an epoch. Those of
    validation and test are the same in every epoch.

    Attributes:
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random.
    """

    trainer: Any
    batch_size: int
    valid_batch_size: int
    num_workers: int
    pin_memory: bool
    seed: int

    def split_examples(self, split: str, *, training: bool) -> Dataset[Any]:
        """Examples of "train", "valid" or "test"; `training`: with what is random anew in each epoch.

        Raises:
            ValueError: if there is no such split.
        """
        raise NotImplementedError

    def collate_function(self, *, training: bool) -> Any:
        """What makes a batch of examples, torch's default if None; `training` as in `split_examples`."""
        return None

    def train_dataloader(self) -> DataLoader[Any]:
        if self.trainer is not None and self.trainer.overfit_batches:
            return self._dataloader("train", self.batch_size, training=False)  # the same few batches in every epoch
        return self._dataloader("train", self.batch_size, training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("valid", self.valid_batch_size, training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("test", self.valid_batch_size, training=False)

    def _dataloader(self, split: str, batch_size: int, *, training: bool) -> DataLoader[Any]:
        examples = self.split_examples(split, training=training)
        world_size, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler: EpochSampler | None = None  # the order of the examples
        if training or world_size > 1:
            sampler = EpochSampler(examples, num_replicas=world_size, rank=rank, shuffle=training, seed=self.seed)
        loader: Any = ResumableLoader if training else DataLoader
        result: DataLoader[Any] = loader(
            examples,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=self.collate_function(training=training),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
        )
        return result

    def named_split(self, splits: Mapping[str, ExamplesT], split: str) -> ExamplesT:
        """A split of `splits`.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in splits:
            raise ValueError(f"{type(self).__name__} has no split {split!r}, only {sorted(splits)}")
        return splits[split]
