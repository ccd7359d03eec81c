"""The cache without transformers: what can be taken back. The rest is tested through `CacheLayer`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perceiver.model.core.cache import KeyValueCache

B, H, K, V = 2, 3, 5, 7


def new(length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(B, H, length, K), torch.randn(B, H, length, V)


def test_what_is_taken_back_leaves_no_trace() -> None:
    cache, first, wrong, right = KeyValueCache(window=11), new(4), new(3), new(1)
    cache.update(*first)
    cache.update(*wrong)
    cache.take_back(3)
    keys, values = cache.update(*right)
    assert torch.equal(keys, torch.cat([first[0], right[0]], dim=2)) and cache.num_seen == 5
    assert torch.equal(values, torch.cat([first[1], right[1]], dim=2))


def test_no_more_can_be_taken_back_than_is_there() -> None:
    cache = KeyValueCache(window=2)
    cache.update(*new(3))
    with pytest.raises(ValueError, match="4 positions can't be taken back: 3 of 3 are cached"):
        cache.take_back(4)
    for _ in range(300):  # the first ones leave the buffers
        cache.update(*new(1))
    assert cache.length < cache.num_seen == 303
    with pytest.raises(ValueError, match="300 positions can't be taken back"):
        cache.take_back(300)
    assert cache.num_seen == 303


def test_another_batch_size() -> None:
    cache = KeyValueCache(window=3)
    cache.update(*new(1))
    with pytest.raises(ValueError, match="batch size 4 differs from that of the cache, 2"):
        cache.update(torch.zeros(4, H, 1, K), torch.zeros(4, H, 1, V))
