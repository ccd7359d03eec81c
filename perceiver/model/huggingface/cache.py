"""The key/value cache of Perceiver AR under transformers' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from perceiver.model.core.cache import KeyValueCache, StaticKeyValueCache


class _TransformersLayer:
    """The part of transformers' `CacheLayerMixin` that is the same for both forms of the cache."""

    is_sliding = True
    supports_early_init = False
    window: int
    num_seen: int
    keys: Tensor | None
    values: Tensor | None

    @property
    def is_initialized(self) -> bool:
        return self.keys is not None

    def get_seq_length(self) -> int:
        return self.num_seen

    def get_max_length(self) -> int:
        return self.window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that so many new positions will attend to, and positions before the first one."""
        num_before = min(self.num_seen, self.window - 1)
        return num_before + query_length, self.num_seen - num_before

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._replace(lambda x: x.index_select(0, indices.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._replace(lambda x: x.repeat_interleave(repeats, dim=0))

    def _replace(self, examples: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._replaced(self.keys, examples), self._replaced(self.values, examples)

    def _replaced(self, buffer: Tensor, examples: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError


class CacheLayer(_TransformersLayer, KeyValueCache):
    """Keys and values of one attention layer: transformers' `CacheLayerMixin`."""

    is_compileable = False
    is_croppable = True

    def reset(self) -> None:
        super().reset()
        self.records_past = False
        self.num_uncropped = 0  # positions since the last `crop`

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.records_past:
            self.num_spare = max(self.window // 8 + 64, self.num_uncropped)
        self.num_uncropped += k.shape[2]
        return super().update(k, v)

    def activate_past_recording(self) -> None:
        """From now on, any number of positions can be taken back that came in since the last `crop`."""
        self.records_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last -`tokens_to_remove` positions."""
        self.take_back(-tokens_to_remove)
        self.num_uncropped = 0

    def select_last(self, indices: Tensor) -> None:
        """Gives example i the last position of example `indices[i]`. All that is before stays."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[:, :, self.length - 1] = buffer[indices, :, self.length - 1]

    def _replaced(self, buffer: Tensor, examples: Callable[[Tensor], Tensor]) -> Tensor:
        used = examples(buffer[:, :, : self.length])
        if used.shape[0] != buffer.shape[0]:
            buffer = buffer.new_empty(used.shape[0], *buffer.shape[1:])
        buffer[:, :, : self.length] = used
        return buffer


class StaticCacheLayer(_TransformersLayer, StaticKeyValueCache):
    """The same, of a static cache."""

    is_compileable = True
    is_croppable = False

    def _replaced(self, buffer: Tensor, examples: Callable[[Tensor], Tensor]) -> Tensor:
        used = examples(buffer)
        return buffer.copy_(used) if used.shape == buffer.shape else used  # compiled code knows the buffer


CacheLayerMixin.register(CacheLayer)
CacheLayerMixin.register(StaticCacheLayer)


class PerceiverARCache(Cache):
    """Key/value cache of a Perceiver AR model for transformers.

    Args:
        layers: One for each attention layer, and one of tokens with token shift.
        num_skipped: Number of tokens at the start of the sequence that never enter the cache: those of a prompt longer
            than the model's window, or those before a reset.
        compile_options: Arguments of `torch.compile`, if the steps of a static cache are compiled.
    """

    layers: list[CacheLayer] | list[StaticCacheLayer]  # type: ignore[assignment]  # registered as CacheLayerMixin above

    def __init__(
        self,
        layers: list[CacheLayer] | list[StaticCacheLayer],
        num_skipped: int = 0,
        compile_options: dict[str, Any] | None = None,
    ):
        super().__init__(layers=layers)  # type: ignore[arg-type]
        self.num_skipped = num_skipped
        self.compile_options = compile_options
        self.is_of_beams = False

    @property
    def num_seen(self) -> int:
        """Number of tokens that entered, those that left the window since included."""
        return self.layers[0].num_seen

    @property
    def num_latents(self) -> int:
        """Number of latents that entered."""
        return self.layers[-1].num_seen

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the sequence so far, for the layer 0. Number of latents for others."""
        return self.layers[layer_idx].num_seen + (self.num_skipped if layer_idx == 0 else 0)

    def reset(self) -> None:
        super().reset()
        self.num_skipped = 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.is_of_beams = True
