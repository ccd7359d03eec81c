"""The training loader: its order is a function of (seed, epoch), and it resumes in the middle of an epoch.

Lightning calls `set_epoch` on the sampler before each epoch, and saves and restores the `state_dict` of a loader that
has one, so a run resumed from a checkpoint sees the batches that the interrupted one would have seen. The sampler hands
the epoch to the dataset with every index: workers that were started earlier (or stay alive) cannot have a stale one.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from perceiver.data.text.collator import Batch
from perceiver.data.text.corpus import TokenChunks


class EpochSampler(DistributedSampler[Any]):
    """Shuffled `(epoch, index)` keys, different in each epoch. A `DistributedSampler`, so Lightning leaves it alone."""

    dataset: TokenChunks
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
    """Counts the examples it hands out, and can start after that many.

    Lightning sets the epoch. A loop of your own does it with `loader.sampler.set_epoch(epoch)` before each epoch;
    otherwise all epochs have the order and the masks of epoch 0.

    A state may be loaded into a loader with another batch size; it starts at the first example that was not handed out.
    Lightning itself counts batches, though: with another batch size it may end the resumed epoch early and leave out
    its validation.
    """

    sampler: EpochSampler

    def __init__(self, dataset: TokenChunks, *, batch_size: int, sampler: EpochSampler, **kwargs: Any):
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **kwargs)
        self.num_examples_done = 0  # of this rank

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing runs until the first batch is asked for. Lightning creates the iterator of a resumed run
        # before it tells the sampler the epoch.
        self.num_examples_done = self.sampler.start
        for batch in super().__iter__():
            self.num_examples_done += len(batch[0])
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
            if 0 < done < math.ceil(len(self.sampler.dataset) / num_replicas):
                raise ValueError(
                    f"the epoch was begun by {num_replicas} processes and cannot go on with "
                    f"{self.sampler.num_replicas}: their shares of it differ"
                )
            done = len(self.sampler) if done > 0 else 0
        self.sampler.set_epoch(state["epoch"])
        self.sampler.start = self.num_examples_done = done
