"""Loaders: the order of examples is a function of (seed, epoch), and training resumes in the middle of an epoch.

Lightning calls `set_epoch` on the sampler before each epoch, and saves and restores the `state_dict` of a loader that
has one, so a run resumed from a checkpoint sees the batches that the interrupted one would have seen. The sampler hands
the epoch to the dataset with every index: workers that were started earlier (or stay alive) cannot have a stale one.

In distributed training all processes must have as many batches, so where the examples can't be shared evenly some
process gets one that another has, too. It is marked as repeated, and its labels are left out: nothing counts twice.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """Keys `(epoch, index, repeated)` of one process, shuffled and different in each epoch.

    A `DistributedSampler`, so Lightning leaves it alone.

    Args:
        dataset: the examples, which take these keys.
        num_replicas: processes.
        rank: number of this process.
        shuffle: False gives the order of the text and epoch 0, always.
        seed: of the order.
    """

    dataset: Any  # with a length
    start = 0  # keys that the next iteration skips

    def __init__(
        self, dataset: Dataset[Any], *, num_replicas: int = 1, rank: int = 0, shuffle: bool = True, seed: int = 0
    ):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)

    def set_epoch(self, epoch: int) -> None:
        if not self.shuffle:
            return
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        return islice(self._keys(), start, None)

    def _keys(self) -> Iterator[tuple[int, int, bool]]:
        size, epoch = len(self.dataset), self.epoch
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(size, generator=generator)
        else:
            order = torch.arange(size)
        for position in range(self.rank, self.num_samples * self.num_replicas, self.num_replicas):
            yield epoch, int(order[position % size]), position >= size


class ResumableLoader(DataLoader[Any]):
    """Counts the examples it hands out, and can start after that many.

    Lightning sets the epoch. A loop of your own does it with `loader.sampler.set_epoch(epoch)` before each epoch;
    otherwise all epochs have the order and the masks of epoch 0.

    A state may be loaded into a loader with another batch size; it starts at the first example that was not handed out.
    Lightning itself counts batches, though: with another batch size it may end the resumed epoch early and leave out
    its validation.
    """

    batch_size: int
    sampler: EpochSampler

    def __init__(self, dataset: Dataset[Any], *, batch_size: int, sampler: EpochSampler, **kwargs: Any):
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **kwargs)
        self.num_examples_done = 0  # of this rank

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing runs until the first batch is asked for. Lightning creates the iterator of a resumed run
        # before it tells the sampler the epoch.
        self.num_examples_done = self.sampler.start
        for batch in super().__iter__():
            self.num_examples_done = min(self.num_examples_done + self.batch_size, len(self.sampler))
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.sampler.epoch,
            "num_examples_done": self.num_examples_done,
            "num_replicas": self.sampler.num_replicas,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where the state was taken.

        Raises:
            ValueError: if it was taken in the middle of an epoch that other ranks shared.
        """
        done, num_replicas = state["num_examples_done"], state["num_replicas"]
        if num_replicas != self.sampler.num_replicas:
            if 0 < done < -(-len(self.sampler.dataset) // num_replicas):
                raise ValueError(
                    f"the epoch was begun by {num_replicas} processes and cannot go on with "
                    f"{self.sampler.num_replicas}: their shares of it differ"
                )
            done = len(self.sampler) if done > 0 else 0
        self.sampler.set_epoch(state["epoch"])
        self.sampler.start = self.num_examples_done = done
