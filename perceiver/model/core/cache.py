"""Key/value cache of Perceiver AR: what a new token needs of the tokens before it (arXiv 2202.07765, section 3).

Keys enter rotated, values as they are, and both stay where they are: a buffer has room for more than a window, and only
when it is full the part that is still needed moves to its start. So a token costs the same at any length.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of one attention layer.

    Args:
        window: Largest number of keys that a query attends to, its own included.
        max_length: Number of positions that will be cached in all, if that is known: no more room is made.

    Attributes:
        num_seen: Number of positions that have been cached, those included that have left the window.
        num_spare: Number of positions before the window that stay, so that `take_back` can make them part of it again.
    """

    def __init__(self, window: int, max_length: int | None = None):
        self.window = window
        self.max_length = max_length
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.length = 0  # positions in use, the first ones of the buffers
        self.num_seen = 0
        self.num_spare = self.window // 8 + 64

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes up new keys and values.

        Args:
            k: Keys (B, H, M, K).
            v: Values (B, H, M, V).

        Returns:
            Keys (B, H, P + M, K) and values (B, H, P + M, V), for P up to `window` - 1 positions before the new ones.
            They share the memory of the cache.
        """
        num_new = k.shape[2]
        if self.keys is not None and self.keys.shape[0] != k.shape[0]:
            raise ValueError(f"batch size {k.shape[0]} differs from that of the cache, {self.keys.shape[0]}")
        if self.keys is None or self.length + num_new > self.keys.shape[2]:
            self._make_room(k, v)
        assert self.keys is not None and self.values is not None
        start, self.length = self.length, self.length + num_new
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        self.num_seen += num_new
        first = max(start - self.window + 1, 0)
        return self.keys[:, :, first : self.length], self.values[:, :, first : self.length]

    def take_back(self, num_positions: int) -> None:
        """Removes the last positions.

        Raises:
            ValueError: if positions would be needed that have left the cache.
        """
        length, num_seen = self.length - num_positions, self.num_seen - num_positions
        if not 0 <= num_positions <= self.num_seen or length < min(num_seen, self.window - 1):
            raise ValueError(
                f"{num_positions} positions can't be taken back: {self.length} of {self.num_seen} are cached"
            )
        self.length, self.num_seen = length, num_seen

    def _make_room(self, k: Tensor, v: Tensor) -> None:
        kept = min(self.length, self.window - 1 + self.num_spare)
        size = kept + k.shape[2] + self.window // 4 + 2 * self.num_spare
        if self.max_length is not None and self.num_seen + k.shape[2] <= self.max_length:
            size = min(size, kept + self.max_length - self.num_seen)
        old = (self.keys, self.values)
        self.keys, self.values = (
            torch.empty(*x.shape[:2], size, x.shape[3], dtype=x.dtype, device=x.device) for x in (k, v)
        )
        for buffer, old_buffer in zip((self.keys, self.values), old, strict=True):
            if old_buffer is not None:
                buffer[:, :, :kept] = old_buffer[:, :, self.length - kept : self.length]
        self.length = kept
