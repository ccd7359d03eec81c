"""Blocks of latents of one sequence: a loss on more of its tokens than the last ones (Perceiver AR, arXiv 2202.07765).

    tokens     a b c d e f g h i            prefix_len 3, two blocks
    first      a b c | d e f                each block is what it is alone: the prefix is all that comes before it
    second     a b c d e f | g h i
    order      a b c d e f | d e f g h i    what is prefix of some block, then latents of all

In this order they are a prefix and latents, which the cross-attention takes as those of a single sequence, as with
packed documents (core/packing.py); its mask alone tells the blocks apart. A token that is a latent, and prefix of
later blocks, has two forms, since prefix and latents are normalised by different layers. Each form is normalised and
projected once. After the cross-attention the blocks know nothing of each other: they are as many examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentBlocks:
    """Which keys of the cross-attention are whose: first the prefix of the last block, then the latents of all blocks.

    A prefix token belongs to the first block that has it and to all later ones, a latent to its block alone.

    Attributes:
        stretches: For each block, the number of prefix tokens that it has and the block before it has not.
        size: Number of latents of a block.
    """

    stretches: Sequence[int]
    size: int

    @classmethod
    def of(cls, prefix_len: int, num_latents: int, num_blocks: int) -> LatentBlocks:
        """Blocks of equal size.

        Args:
            prefix_len: Number of tokens before the first block.
            num_latents: Number of latents of all blocks.
            num_blocks: Number of blocks K.
        """
        if prefix_len < 0 or num_blocks < 1 or num_latents < num_blocks or num_latents % num_blocks:
            raise ValueError(
                f"{num_latents} latents after prefix_len={prefix_len} tokens can't be divided into "
                f"num_blocks={num_blocks} blocks of equal size"
            )
        size = num_latents // num_blocks
        return cls([prefix_len] + [size] * (num_blocks - 1), size)

    def __len__(self) -> int:
        return len(self.stretches)

    @property
    def prefix_len(self) -> int:
        """Number of prefix tokens of the last block, which are those of all blocks."""
        return sum(self.stretches)

    def order(self, device: torch.device | None = None) -> Tensor:
        """Indices (1, M + N) of the tokens: prefix of the last block, latents of all."""
        first, end = self.stretches[0], self.prefix_len + self.size
        return torch.cat([torch.arange(self.prefix_len, device=device), torch.arange(first, end, device=device)])[None]

    def dropped(self, order: Tensor, fraction: float) -> tuple[LatentBlocks, Tensor]:
        """Leaves out random prefix positions, others for each example (arXiv 2202.07765, section 3.3).

        Each stretch loses this fraction of its positions, and with it the prefix of each block. What one block loses,
        later ones lose, too: it is neither normalised nor projected.

        Args:
            order: Indices (B, M + N) of the tokens.
            fraction: What to leave out.

        Returns:
            What is left, and its indices (B, less).
        """
        stretches = [length - count_dropped(length, fraction) for length in self.stretches]
        prefix, latents = order[:, : self.prefix_len], order[:, self.prefix_len :]
        kept = [
            part.gather(1, torch.rand(part.shape, device=order.device).topk(length, dim=1).indices.sort(dim=1).values)
            for part, length in zip(torch.split(prefix, list(self.stretches), dim=1), stretches, strict=True)
        ]
        return LatentBlocks(stretches, self.size), torch.cat([*kept, latents], dim=1)

    def readers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """First and last block (M + N,) that read each key. Those of the last N keys are the block of a query."""
        number = torch.arange(len(self))
        latents = number.repeat_interleave(self.size)
        prefix = number.repeat_interleave(torch.tensor(self.stretches))
        first, last = torch.cat([prefix, latents]), torch.cat([torch.full_like(prefix, len(self) - 1), latents])
        return first.to(device, non_blocking=True), last.to(device, non_blocking=True)

    def parts(self) -> Iterator[tuple[slice, slice, bool]]:
        """Queries and keys that see each other, each key once, and whether as latents of a block, that is causally."""
        end, first = len(self) * self.size, 0
        for i, length in enumerate(self.stretches):
            if length:
                yield slice(i * self.size, end), slice(first, first + length), False
            first += length
        for start in range(0, end, self.size):
            yield slice(start, start + self.size), slice(first + start, first + start + self.size), True

    def keys(self, x: Tensor, dim: int = 2) -> list[list[Tensor]]:
        """Views of the keys of each block, which lie along dimension `dim`: the stretches of its prefix, its latents.

        All blocks get the same view of a stretch, so that autograd adds up gradients of stretches, not of all keys.
        """
        parts = torch.split(x, [*self.stretches, *[self.size] * len(self)], dim=dim)
        return [[*parts[: i + 1], parts[len(self) + i]] for i in range(len(self))]


def count_dropped(length: int, fraction: float) -> int:
    """How many of `length` positions are left out.

    A fraction that torch has compiled with another value before is a variable to it, and checkpointed layers take no
    size that is made of one. A ratio of integers is a constant.
    """
    numerator, denominator = fraction.as_integer_ratio()
    return int(length * (numerator / denominator))
