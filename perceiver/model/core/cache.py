"""Key/value cache of Perceiver AR: what a new token needs of the tokens before it (arXiv 2202.07765, section 3).

Keys enter rotated, values as they are, and both stay where they are: a buffer has room for more than a window, and only
when it is full the part that is still needed moves to its start. So a token costs the same at any length. Method names
are those of transformers' cache layers, which use it as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of one attention layer.

    Args:
        window: Largest number of keys that a query attends to, its own included.
        max_length: Number of positions that will be cached in all, if that is known: no more room is made.
    """

    is_sliding = True
    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, window: int, max_length: int | None = None):
        self.window = window
        self.max_length = max_length
        self.records_past = False
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.length = 0  # positions in use, the first ones of the buffers
        self.num_seen = 0  # positions that have been cached, dropped ones included
        self.num_uncropped = 0  # positions since the last `crop`

    def activate_past_recording(self) -> None:
        """From now on, any number of positions can be taken back that came in since the last `crop`."""
        self.records_past = True

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes up new keys and values.

        Args:
            k: Keys (B, H, M, K).
            v: Values (B, H, M, V).

        Returns:
            Keys (B, H, P + M, K) and values (B, H, P + M, V), for P up to `window` - 1 positions before the new ones.
            They share the memory of the cache.

        Raises:
            ValueError: if the batch size is not that of what is cached.
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
        self.num_uncropped += num_new
        first = max(start - self.window + 1, 0)
        return self.keys[:, :, first : self.length], self.values[:, :, first : self.length]

    def _make_room(self, k: Tensor, v: Tensor) -> None:
        # What can still be attended to, and a margin, so that `crop` can take back tokens.
        margin = self.window // 8 + 64
        if self.records_past:
            margin = max(margin, self.num_uncropped)
        kept = min(self.length, self.window - 1 + margin)
        size = kept + k.shape[2] + self.window // 4 + 2 * margin
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

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last -`tokens_to_remove` positions.

        Raises:
            ValueError: if the number is positive, or if positions would be needed that have left the cache.
        """
        num_removed = -tokens_to_remove
        length = self.length - num_removed
        if not 0 <= num_removed <= self.num_seen or length < min(self.num_seen - num_removed, self.window - 1):
            raise ValueError(
                f"crop({tokens_to_remove}) is not possible: it must be negative or 0, and {self.length} of "
                f"{self.num_seen} positions are cached"
            )
        self.length, self.num_seen, self.num_uncropped = length, self.num_seen - num_removed, 0

    @property
    def is_initialized(self) -> bool:
        return self.keys is not None

    def get_seq_length(self) -> int:
        return self.num_seen

    def get_max_length(self) -> int:
        return self.window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that `update` will return for so many new positions, and positions before the first one."""
        num_before = min(self.num_seen, self.window - 1)
        return num_before + query_length, self.num_seen - num_before

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Selects examples."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Selects examples."""
        self._replace(lambda x: x.index_select(0, indices.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every example."""
        self._replace(lambda x: x.repeat_interleave(repeats, dim=0))

    def select_last(self, indices: Tensor) -> None:
        """Gives example i the last position of example `indices[i]`. All that is before stays."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[:, :, self.length - 1] = buffer[indices, :, self.length - 1]

    def _replace(self, examples: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._replaced(self.keys, examples), self._replaced(self.values, examples)

    def _replaced(self, buffer: Tensor, examples: Callable[[Tensor], Tensor]) -> Tensor:
        used = examples(buffer[:, :, : self.length])
        if used.shape[0] != buffer.shape[0]:
            buffer = buffer.new_empty(used.shape[0], *buffer.shape[1:])
        buffer[:, :, : self.length] = used
        return buffer
