"""Documents that share a sequence: texts and pieces of unequal length without padding (Perceiver AR, arXiv 2202.07765).

    tokens     a a a a a b b c c c c        lengths 5, 2 and 4, max_latents 3
    positions  0 1 2 3 4 0 1 0 1 2 3
    latents        * * * * *   * * *        the last ones of each document, as if it were alone
    order      a a c | a a a b b c c c      prefixes of all documents, then latents of all

In this order they are a prefix and latents, which all layers take as those of a single sequence. Besides positions, the
mask alone tells the documents apart: a latent attends to its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Whose the keys of a layer are: first the prefixes of all documents, then their latents, which are the queries.

    Attributes:
        prefix_lens: Number of prefix tokens of each document. Known to the host, so that no device is waited for.
        num_latents: Number of latents of each document.
        numbers: Number of the document of each key (M,).
    """

    prefix_lens: Sequence[int]
    num_latents: Sequence[int]
    numbers: Tensor

    def latents(self) -> Documents:
        """The same where there are latents only."""
        num_latents = sum(self.num_latents)
        return Documents([0] * len(self.prefix_lens), self.num_latents, self.numbers[-num_latents:])

    def readers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """First and last document (M + N,) that read each key: it is one, its own."""
        return self.numbers, self.numbers

    def queries(self, x: Tensor) -> Sequence[Tensor]:
        """Queries (B, H, N, K) of each document."""
        return torch.split(x, list(self.num_latents), dim=2)

    def keys(self, x: Tensor) -> Sequence[Tensor]:
        """Keys or values (B, H, M, K) of each document."""
        num_documents = len(self.prefix_lens)
        parts = torch.split(x, [*self.prefix_lens, *self.num_latents], dim=2)
        return [
            torch.cat([prefix, latents], dim=2) if prefix.shape[2] else latents
            for prefix, latents in zip(parts[:num_documents], parts[num_documents:], strict=True)
        ]


@dataclass(frozen=True)
class Packing:
    """How tokens of documents, one after the other, become a prefix and latents.

    Attributes:
        order: Indices (M + N,) of the tokens.
        positions: Their positions (1, M + N), each in its document.
        documents: Whose they are.
    """

    order: Tensor
    positions: Tensor
    documents: Documents

    @property
    def prefix_len(self) -> int:
        return sum(self.documents.prefix_lens)

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        max_latents: int,
        *,
        prefix_dropout: float = 0.0,
        device: torch.device | None = None,
    ) -> Packing:
        """Packs documents. All is computed on the host and sent to the device, which is not waited for.

        Args:
            lengths: Number of tokens of each document, at least 1.
            max_latents: Number of its last tokens that are latents, all of a shorter document.
            prefix_dropout: Fraction of the prefix positions of each document to leave out, at random.
            device: Device of the tensors.
        """
        sizes = torch.tensor(lengths)
        num_latents = sizes.clamp(max=max_latents)
        prefix_lens = sizes - num_latents
        number, position = _counted(sizes)
        is_prefix = position < prefix_lens[number]
        prefix, latents = is_prefix.nonzero()[:, 0], (~is_prefix).nonzero()[:, 0]
        if prefix_dropout:
            prefix_lens = prefix_lens - (prefix_lens.double() * prefix_dropout).long()
            _, rank = _counted(sizes - num_latents)
            # random within each document, one document after the other
            shuffled = prefix[(number[prefix] + torch.rand(len(prefix), dtype=torch.float64)).argsort()]
            prefix = shuffled[rank < prefix_lens[number[prefix]]].sort().values
        order = torch.cat([prefix, latents])
        tensors = (x.to(device, non_blocking=True) for x in (order, position[order][None], number[order]))
        order, positions, numbers = tensors
        return cls(order, positions, Documents(prefix_lens.tolist(), num_latents.tolist(), numbers))


def latent_indices(lengths: Sequence[int], max_latents: int, *, device: torch.device | None = None) -> Tensor:
    """Which tokens of documents, one after the other, are latents: indices (N,). Arguments as in `Packing.of`."""
    sizes = torch.tensor(lengths)
    number, position = _counted(sizes)
    return (position >= (sizes - max_latents)[number]).nonzero()[:, 0].to(device, non_blocking=True)


def _counted(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes of groups, one after the other -> for each member the number of its group, and its number in it"""
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    return group, torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]


def check_packed(x: Tensor, lengths: Sequence[int], max_seq_len: int) -> None:
    """Raises ValueError if tokens (1, T) are not documents of these lengths, one after the other."""
    if x.ndim < 2 or x.shape[0] != 1:
        raise ValueError(f"packed documents have shape {tuple(x.shape)}, expected (1, number of tokens)")
    if not isinstance(lengths, Sequence) or not all(isinstance(n, Integral) for n in lengths):
        raise ValueError(f"lengths of packed documents must be a list of integers, not {lengths!r:.200}")
    if not lengths or min(lengths) < 1 or sum(lengths) != x.shape[1]:
        raise ValueError(f"lengths of packed documents must be positive and add up to {x.shape[1]}, not {lengths}")
    if max(lengths) > max_seq_len:
        raise ValueError(f"a document has {max(lengths)} tokens, which exceeds max_seq_len={max_seq_len} of the model")
