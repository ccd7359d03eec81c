"""The training loader: its order is a function of (seed, epoch), and it resumes in the middle of an epoch.

Lightning calls `set_epoch` on the sampler before each epoch, and saves and restores the `state_dict` of a loader that
has one, so a run resumed from a checkpoint sees the batches that the interrupted one would have seen. The sampler hands
the epoch to the dataset with every index: workers that were started earlier (or stay alive) cannot have a stale one.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from perceiver.data.text.collator import Batch
from perceiver.data.text.corpus import TokenChunks


class EpochSampler(DistributedSampler[Any]):
    """Shuffled `(epoch, index)` keys, different in each epoch. A `DistributedSampler`, so Lightning leaves it alone."""

    start = 0  # keys that the next iteration skips

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for index in islice(super().__iter__(), start, None):
            yield self.epoch, index


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it hands out, and can start after that many."""

    sampler: EpochSampler
    batch_size: int

    def __init__(self, dataset: TokenChunks, *, batch_size: int, sampler: EpochSampler, **kwargs: Any):
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **kwargs)
        self.num_batches_done = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing runs until the first batch is asked for. Lightning creates the iterator of a resumed run
        # before it tells the sampler the epoch.
        self.num_batches_done = self.sampler.start // self.batch_size
        for batch in super().__iter__():
            self.num_batches_done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "num_batches_done": self.num_batches_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.set_epoch(state["epoch"])
        self.sampler.start = state["num_batches_done"] * self.batch_size
