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
from torch.utils.data import DataLoader, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """Keys `(epoch, index, repeated)` of one process, shuffled and different in each epoch.

    A `DistributedSampler`, with its arguments, so Lightning leaves it alone. Without `shuffle` the order is that of the
    examples, and the epoch 0, always.
    """

    dataset: Any  # with a length
    start = 0  # keys that the next iteration skips
    begun = False  # whether a loader has iterated over this epoch

    def set_epoch(self, epoch: int) -> None:
        self.begun = False
        if self.shuffle and epoch != self.epoch:
            self.start = 0
            super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        return islice(self._keys(), start, None)

    def _keys(self) -> Iterator[tuple[int, int, bool]]:
        size, epoch = len(self.dataset), self.epoch
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(size, generator=generator) if self.shuffle else torch.arange(size)
        for position in range(self.rank, self.num_samples * self.num_replicas, self.num_replicas):
            yield epoch, int(order[position % size]), position >= size


class ResumableLoader(DataLoader[Any]):
    """Counts the examples it hands out, and can start after that many.

    Each iteration is the next epoch, 0 first. Lightning says which with `loader.sampler.set_epoch(epoch)`, as any loop
    can that does not begin with 0.

    A state may be loaded into a loader with another batch size; it starts at the first example that was not handed out.
    Lightning itself counts batches, though: with another batch size it may end the resumed epoch early and leave out
    its validation.
    """

    batch_size: int
    sampler: EpochSampler
    num_examples_done = 0  # of this rank

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing runs until the first batch is asked for. Lightning creates the iterator of a resumed run
        # before it tells the sampler the epoch.
        if self.sampler.begun:
            self.sampler.set_epoch(self.sampler.epoch + 1)
        self.sampler.begun = True
        self.num_examples_done = self.sampler.start
        for batch in super().__iter__():
            self.num_examples_done = min(self.num_examples_done + self.batch_size, len(self.sampler))
            yield batch

    def state_dict(self) -> dict[str, int]:
        place = {"epoch": self.sampler.epoch, "num_examples_done": self.num_examples_done}
        return {**place, "num_replicas": self.sampler.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where the state was taken.

        Raises:
            ValueError: if it was taken in the middle of an epoch that other ranks shared.
        """
        done, begun, now = state["num_examples_done"], state["num_replicas"], self.sampler.num_replicas
        if begun != now:
            if 0 < done < -(-len(self.sampler.dataset) // begun):
                raise ValueError(f"the epoch was begun by {begun} processes and cannot go on with {now}: shares differ")
            done = len(self.sampler) if done > 0 else 0
        self.sampler.set_epoch(state["epoch"])
        self.sampler.start = self.num_examples_done = done
