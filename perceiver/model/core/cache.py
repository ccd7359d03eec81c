"""Key/value caches of Perceiver AR: what a new token needs of the tokens before it (arXiv 2202.07765, section 3).

Keys enter rotated and values as they are, and both stay as they entered. A layer's cache has one of two forms. With
either, a token costs the same at any length.

KeyValueCache        A buffer with room for more than a window. Only when it is full, the part that is still needed
                     moves to its start. Attention sees the keys that there are, in their order.
StaticKeyValueCache  A ring: position i lies in slot i modulo the window, and a mask says which slots hold keys. A step
                     is the same operations on the same tensors whatever came before, so it can be compiled once.
                     Buffers grow with the sequence, an eighth of the window at a time.

`expect` comes first, once for all layers with equal windows. Then each of them calls `update`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from perceiver.model.core.mask import AttentionMask


class LayerCache(Protocol):
    """The cache of an attention layer."""

    @property
    def window(self) -> int:
        """Largest number of keys that a query attends to, its own included."""

    @property
    def num_seen(self) -> int:
        """Number of positions that have been cached, those included that have left the window."""

    @property
    def last_keys(self) -> Tensor | None:
        """Keys of the last position (B, H, 1, K). None: there is none yet."""

    def expect(self, x: Tensor, pad_mask: Tensor | None) -> AttentionMask:
        """What new positions may attend to, among the keys that `update` will return.

        Args:
            x: New positions (B, M, ...).
            pad_mask: Boolean (B, all positions, the new ones included), True where there is padding.
        """

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys (B, H, M, K) and values (B, H, M, V) -> keys and values to attend to"""


class SharedKeysValues:
    """Keys and values of an input that a cross-attention layer reads more than once: they are made the first time.

    Attributes:
        keys: (B, H, M, K). None: there are none yet.
        values: (B, H, M, V)
    """

    window = None

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the first time -> the same"""
        self.keys, self.values = k, v
        return k, v


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

    @property
    def last_keys(self) -> Tensor | None:
        """As in `LayerCache`."""
        return self.keys[:, :, self.length - 1 : self.length] if self.keys is not None and self.length else None

    def expect(self, x: Tensor, pad_mask: Tensor | None) -> AttentionMask:
        """As in `LayerCache`."""
        num_keys = min(self.num_seen, self.window - 1) + x.shape[1]
        padding = None if pad_mask is None else pad_mask[:, -num_keys:]
        return AttentionMask.of_padding(padding, causal=True, window=self.window)

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
        check_batch_size(self.keys, k)
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


class Ring:
    """Where the last positions of a sequence lie, in the buffers of layers with equal windows.

    Args:
        window: Largest number of keys that a query attends to, its own included. So many slots are there at most.

    Attributes:
        layers: The caches of the layers.
        num_slots: Number of slots of the buffers.
        num_seen: Number of positions that have been cached, those included that have left the window.
        num_before: Number of positions before the new ones that can be attended to.
        is_step: Whether there is one new position, after others.
        new_slots: Slots of the new positions, of the last ones of them where not all fit into the window.
    """

    def __init__(self, window: int):
        self.window = window
        self.layers: list[StaticKeyValueCache] = []
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.num_seen = self.num_before = self.num_slots = 0
        self.is_step = False
        self.new_slots = torch.empty(0, dtype=torch.int64)
        for layer in self.layers:
            layer.keys = layer.values = None

    def expect(self, x: Tensor, pad_mask: Tensor | None) -> AttentionMask:
        """Finds slots for new positions, makes room in all layers, and says what they may attend to.

        Args:
            x: New positions (B, M, ...).
            pad_mask: Boolean (B, all positions, the new ones included), True where there is padding.
        """
        num_new = x.shape[1]
        check_batch_size(self.layers[0].keys, x)
        self.is_step = num_new == 1 and self.num_seen > 0
        self.num_before = min(self.num_seen, self.window - 1)
        self.num_seen += num_new
        if self.num_slots < min(self.num_seen, self.window):
            step = max(self.window // 8, 64)  # some slots are free, so that buffers grow seldom
            self.num_slots = min(-(-self.num_seen // step) * step, self.window)
            for layer in self.layers:
                layer.grow(self.num_slots)
        self.new_slots = self.slots(self.num_seen - min(num_new, self.window), self.num_seen, x.device)
        if not self.is_step:
            padding = None if pad_mask is None else pad_mask[:, -self.num_before - num_new :]
            return AttentionMask.of_padding(padding, causal=True, window=self.window)
        # Slot s holds the last position that is s modulo the window. One before the first is yet to come.
        last = self.num_seen - 1
        positions = last - (last - torch.arange(self.num_slots, device=x.device)) % self.window
        allowed = (positions >= 0)[None]  # 1 slots
        if pad_mask is not None:
            allowed = allowed & ~pad_mask[:, -self.num_seen :][:, positions.clamp(min=0)]  # B slots
        return AttentionMask(rearrange(allowed, "b m -> b 1 1 m"))

    def slots(self, start: int, end: int, device: torch.device) -> Tensor:
        """Slots of the positions `start` to `end` - 1."""
        return torch.arange(start, end, device=device) % self.window


class StaticKeyValueCache:
    """Keys and values of one attention layer, in slots.

    Args:
        ring: Knows what the slots hold. Layers with equal windows share it.
    """

    def __init__(self, ring: Ring):
        self.ring = ring
        ring.layers.append(self)
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def window(self) -> int:
        return self.ring.window

    @property
    def num_seen(self) -> int:
        return self.ring.num_seen

    @property
    def last_keys(self) -> Tensor | None:
        """As in `LayerCache`, before `expect`."""
        if self.keys is None:
            return None
        return self.keys[:, :, self.ring.slots(self.num_seen - 1, self.num_seen, self.keys.device)]

    def reset(self) -> None:
        """Forgets everything, in all layers of the ring."""
        self.ring.reset()

    def expect(self, x: Tensor, pad_mask: Tensor | None) -> AttentionMask:
        """As in `LayerCache`, for all layers of the ring."""
        return self.ring.expect(x, pad_mask)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes up new keys and values, which `expect` was told of.

        Args:
            k: Keys (B, H, M, K).
            v: Values (B, H, M, V).

        Returns:
            In a step the buffers, (B, H, slots, K) and (B, H, slots, V). Otherwise keys (B, H, P + M, K) and values
            (B, H, P + M, V), for P up to `window` - 1 positions before the new ones.
        """
        ring = self.ring
        if self.keys is None or self.values is None:
            self.keys, self.values = (x.new_zeros(*x.shape[:2], ring.num_slots, x.shape[3]) for x in (k, v))
        if ring.is_step:
            self.keys.index_copy_(2, ring.new_slots, k)
            self.values.index_copy_(2, ring.new_slots, v)
            return self.keys, self.values
        first_new = ring.num_seen - k.shape[2]
        before = ring.slots(first_new - ring.num_before, first_new, k.device)
        results = []
        for buffer, new in ((self.keys, k), (self.values, v)):
            results.append(torch.cat([buffer[:, :, before], new], dim=2))
            buffer.index_copy_(2, ring.new_slots, new[:, :, -len(ring.new_slots) :])
        return results[0], results[1]

    def grow(self, num_slots: int) -> None:
        """Makes more room. Only before the ring is full: its positions are in their order."""
        if self.keys is not None and self.values is not None:
            more = (0, 0, 0, num_slots - self.keys.shape[2])
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)


def check_batch_size(buffer: Tensor | None, x: Tensor) -> None:
    """Raises ValueError if a buffer of a cache has another batch size than what follows."""
    if buffer is not None and buffer.shape[0] != x.shape[0]:
        raise ValueError(f"batch size {x.shape[0]} differs from that of the cache, {buffer.shape[0]}")
