"""Caches without transformers: what can be taken back, and the slots of the static one.

The rest of the dynamic cache is tested through `CacheLayer`.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from perceiver.model.core.cache import KeyValueCache, Ring, StaticKeyValueCache

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


# --- static ---


def attended(keys: Tensor, allowed: Tensor | None, example: int) -> list[list[float]]:
    """The keys of an example that a single query attends to, in any order: slots have none."""
    used = keys[example, 0] if allowed is None else keys[example, 0, allowed.expand(B, 1, 1, -1)[example, 0, 0]]
    return sorted(used.tolist())


@settings(max_examples=60)
@given(
    window=st.sampled_from([1, 2, 7, 80, 200]),
    sizes=st.lists(st.one_of(st.just(1), st.integers(1, 90)), min_size=1, max_size=30),
    num_pads=st.integers(0, 5),
)
def test_slots_hold_the_window(window: int, sizes: list[int], num_pads: int) -> None:
    """A step attends to the last positions that are no padding, other calls get them in their order."""
    ring = Ring(window)
    layers, seen = [StaticKeyValueCache(ring), StaticKeyValueCache(ring)], [new(0), new(0)]
    for size in sizes:
        before = ring.num_seen
        pad_mask = torch.zeros(B, before + size, dtype=torch.bool)
        pad_mask[1, :num_pads] = True
        mask = layers[0].expect(torch.empty(B, size), pad_mask)
        for i, layer in enumerate(layers):
            k, v = new(size)
            seen[i] = (torch.cat([seen[i][0], k], dim=2), torch.cat([seen[i][1], v], dim=2))
            results = layer.update(k, v)
            for result, everything in zip(results, seen[i], strict=True):
                if ring.is_step:
                    assert result.shape[2] == ring.num_slots <= window
                    first = max(before + size - window, 0)
                    for b in range(B):
                        expected = everything[b, 0, first:][~pad_mask[b, first:]]
                        assert attended(result, mask.allowed, b) == sorted(expected.tolist())
                else:
                    assert torch.equal(result, everything[:, :, max(before - window + 1, 0) :])
        assert layers[1].num_seen == before + size


def test_slots_grow_with_the_sequence_up_to_the_window() -> None:
    """An eighth of the window at a time: what attention reads follows what there is."""
    ring = Ring(window=1000)
    layer, sizes = StaticKeyValueCache(ring), []
    for size in [3, *[1] * 1100]:
        layer.expect(torch.empty(B, size), None)
        layer.update(*new(size))
        assert layer.keys is not None and layer.values is not None
        assert layer.keys.shape[2] == layer.values.shape[2] == ring.num_slots
        sizes.append(ring.num_slots)
    assert sorted(set(sizes)) == [125, 250, 375, 500, 625, 750, 875, 1000]
    assert sizes[122] == 125 and sizes[123] == 250  # after 125 and 126 positions


def test_a_step_writes_to_the_same_memory() -> None:
    """Compiled code and CUDA graphs know where the buffers are."""
    ring = Ring(window=7)
    layer, addresses = StaticKeyValueCache(ring), set()
    for size in [3, *[1] * 20]:
        layer.expect(torch.empty(B, size), None)
        addresses.add(tuple(x.data_ptr() for x in layer.update(*new(size))) if size == 1 else None)
    assert len(addresses) == 2


def test_a_static_cache_can_be_used_again() -> None:
    ring = Ring(window=7)
    layer, (k, v) = StaticKeyValueCache(ring), new(4)
    layer.expect(k[:, 0], None)
    layer.update(k, v)
    layer.reset()
    assert layer.keys is None and layer.num_seen == 0
    k, v = torch.randn(3, H, 5, K), torch.randn(3, H, 5, V)  # of another batch size
    layer.expect(k[:, 0], None)
    assert torch.equal(layer.update(k, v)[0], k)
    with pytest.raises(ValueError, match="batch size 2 differs from that of the cache, 3"):
        layer.expect(torch.empty(B, 1), None)
    assert layer.num_seen == 5
