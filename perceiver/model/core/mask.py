"""Who attends to whom: padding, causality, windows, documents and blocks of latents, said once for all layers.

`attention()` asks for what its kernels take: nothing, the causal flag, a boolean mask, or the blocks of such a mask in
which there is something to attend to. Mask and blocks are made when a kernel first needs them, and serve all layers
after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from perceiver.model.core.blocks import LatentBlocks
from perceiver.model.core.packing import Documents

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_BLOCK_SIZE = 128  # FlexAttention's default
_Mask = TypeVar("_Mask")


def _kept(masks: dict[tuple[int, int], _Mask], sizes: tuple[int, int], make: Callable[[], _Mask]) -> _Mask:
    """The mask of these sizes, made if there is none yet.

    Compiled code makes each: a checkpointed layer may change nothing outside, and what is made twice the compiler sees.
    """
    if torch.compiler.is_compiling():
        return make()
    if sizes not in masks:
        masks[sizes] = make()
    return masks[sizes]


class AttentionMask:
    """Which of M keys each of N queries may attend to. The N queries belong to the last N of the keys.

    Args:
        allowed: Boolean, broadcastable to (B, H, N, M), True where a query may attend.
        causal: Whether a query attends to its own key and those before it only.
        window: With `causal`, the largest number of keys that a query attends to, its own included.
        documents: Whose the keys are. A query attends to those of its own document only.
        latent_blocks: The same for blocks of latents, which share prefix keys.
    """

    def __init__(
        self,
        allowed: Tensor | None = None,
        *,
        causal: bool = False,
        window: int | None = None,
        documents: Documents | None = None,
        latent_blocks: LatentBlocks | None = None,
    ):
        self.allowed = allowed
        self.causal = causal
        self.window = window
        self.documents = documents
        self.latent_blocks = latent_blocks
        self._dense: dict[tuple[int, int], Tensor] = {}
        self._blocks: dict[tuple[int, int], BlockMask] = {}

    @classmethod
    def of_padding(
        cls,
        padding: Tensor | None,
        *,
        causal: bool = False,
        window: int | None = None,
        latent_blocks: LatentBlocks | None = None,
    ) -> AttentionMask:
        """`padding`: boolean (B, M), True where a key is none."""
        allowed = None if padding is None else rearrange(~padding, "b m -> b 1 1 m")
        return cls(allowed, causal=causal, window=window, latent_blocks=latent_blocks)

    @property
    def groups(self) -> Documents | LatentBlocks | None:
        """What says which keys are read by which queries, besides causality."""
        return self.documents or self.latent_blocks

    def is_causal(self, num_queries: int) -> bool:
        """Whether causality matters. A single query is the last one, which may attend to all keys before it."""
        return self.causal and num_queries > 1

    def is_only_causal(self, num_queries: int, num_keys: int) -> bool:
        """Whether causality is all that there is to say."""
        in_window = self.window is None or num_keys <= self.window
        return self.allowed is None and self.groups is None and in_window and self.is_causal(num_queries)

    def dense(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """Boolean, broadcastable to (B, H, N, M), or None if every query may attend to every key."""
        if not self.is_causal(num_queries):
            return self.allowed
        return _kept(self._dense, (num_queries, num_keys), lambda: self._causal_mask(num_queries, num_keys, device))

    def _causal_mask(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        mask = causal_mask(num_queries, num_keys, self.window, device=device)
        if self.groups is not None:
            opens, closes = self.groups.readers(device)
            number = opens[-num_queries:, None]
            mask = mask & (opens <= number) & (number <= closes)
        return mask if self.allowed is None else mask & self.allowed

    def has_blocks(self, num_queries: int) -> bool:
        """Whether there is a `block_mask`: causality, maybe with a window, padding or documents, but no other mask."""
        return self.is_causal(num_queries) and (self.allowed is None or self.allowed.shape[1:3] == (1, 1))

    def block_mask(self, num_queries: int, num_keys: int, device: torch.device) -> BlockMask:
        """The same as `dense` for FlexAttention (arXiv 2412.05496), without a mask (N, M) in memory.

        What `create_block_mask` would make of `dense` follows here from the first and the last position of each block.
        A further condition adds its line to `mask_mod`, and what it says of whole blocks to `some` and `all_`.
        """
        return _kept(self._blocks, (num_queries, num_keys), lambda: self._block_mask(num_queries, num_keys, device))

    def _block_mask(self, num_queries: int, num_keys: int, device: torch.device) -> BlockMask:
        from torch.nn.attention.flex_attention import BlockMask  # here: it imports torch's compiler

        # The keys that a query attends to are those from its first to its last one.
        last = torch.arange(num_keys - num_queries, num_keys, device=device)
        first = None if self.window is None else last - self.window + 1
        allowed = None if self.allowed is None else self.allowed[:, 0, 0]  # B or 1, M
        opens, closes = (None, None) if self.groups is None else self.groups.readers(device)  # M each

        def mask_mod(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            result = key <= last[query]
            if opens is not None and closes is not None:
                number = opens[last[query]]
                result = result & (opens[key] <= number) & (number <= closes[key])
            if first is not None:
                result = result & (key >= first[query])
            if allowed is not None:
                result = result & allowed[b if allowed.shape[0] > 1 else torch.zeros_like(b), key]
            return result

        # Of each block of queries and block of keys: whether some pair is allowed, and whether all are. In the last
        # blocks there may be less, and what isn't there is not allowed.
        first_key = torch.arange(0, num_keys, _BLOCK_SIZE, device=device)
        lowest = torch.arange(num_keys - num_queries, num_keys, _BLOCK_SIZE, device=device)[:, None]
        last_key, highest = first_key + _BLOCK_SIZE - 1, lowest + _BLOCK_SIZE - 1
        some = first_key <= highest
        all_ = (last_key <= lowest) & (highest < num_keys)
        if self.window is not None:
            some = some & (last_key > lowest - self.window)
            all_ = all_ & (first_key > highest - self.window)
        if opens is not None and closes is not None:
            q_low, q_high = (numbers[:, None] for numbers in _range(opens[-num_queries:]))
            (open_some, open_all), (close_all, close_some) = _range(opens), _range(closes)
            some = some & (open_some <= q_high) & (q_low <= close_some)
            all_ = all_ & (open_all <= q_low) & (q_high <= close_all)
        some, all_ = some[None, None], all_[None, None]
        if allowed is not None:
            keys = rearrange(pad(allowed, (0, -num_keys % _BLOCK_SIZE)), "b (k size) -> b 1 1 k size", size=_BLOCK_SIZE)
            some, all_ = some & keys.any(dim=-1), all_ & keys.all(dim=-1)
        return BlockMask.from_kv_blocks(
            *_listed(some & ~all_),
            *_listed(all_),
            BLOCK_SIZE=_BLOCK_SIZE,
            mask_mod=mask_mod,
            seq_lengths=(num_queries, num_keys),
        )


def check_pad_mask(pad_mask: Tensor | None, shape: Sequence[int]) -> None:
    """Raises ValueError if padding is not told by booleans of the shape of what is padded."""
    if pad_mask is not None and (pad_mask.dtype != torch.bool or pad_mask.shape != tuple(shape)):
        raise ValueError(f"pad_mask is {pad_mask.dtype} {tuple(pad_mask.shape)}, expected torch.bool {tuple(shape)}")


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Boolean (B, H, blocks of queries, blocks of keys) -> number and indices, these first, of True in each row"""
    indices = blocks.byte().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1).int(), indices.int()


def _range(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest number of each block. What is missing in the last one counts as -1."""
    blocks = rearrange(pad(numbers, (0, -len(numbers) % _BLOCK_SIZE), value=-1), "(n size) -> n size", size=_BLOCK_SIZE)
    return blocks.amin(dim=1), blocks.amax(dim=1)


def causal_mask(
    num_queries: int, num_keys: int, window: int | None = None, *, device: torch.device | None = None
) -> Tensor:
    """Boolean (N, M), True where query i, the one of key M - N + i, may attend: to itself and keys before it.

    With a `window`, to at most so many keys, itself included.
    """
    distance = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    distance = distance - torch.arange(num_keys, device=device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)
