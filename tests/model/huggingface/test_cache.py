"""Key/value cache: against a list of all that ever entered, and how often it moves what it holds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from perceiver.model.huggingface import cache as generation
from perceiver.model.huggingface.cache import CacheLayer

H, K, V = 3, 2, 5
every_case = settings(max_examples=60)
windows = st.sampled_from([1, 2, 7, 31, 80])


class Reference:
    """A list of everything: each example's keys and values of all positions."""

    def __init__(self, window: int, batch_size: int):
        self.window = window
        self.keys, self.values = torch.empty(batch_size, H, 0, K), torch.empty(batch_size, H, 0, V)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        before = self.keys.shape[2]
        self.keys, self.values = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        first = max(before - (self.window - 1), 0)
        return self.keys[:, :, first:], self.values[:, :, first:]

    def select(self, indices: Tensor) -> None:
        self.keys, self.values = self.keys[indices], self.values[indices]


def new(batch_size: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch_size, H, length, K), torch.randn(batch_size, H, length, V)


def update_both(cache: CacheLayer, reference: Reference, length: int) -> None:
    k, v = new(len(reference.keys), length)
    keys, values = cache.update(k, v)
    expected_keys, expected_values = reference.update(k, v)
    assert torch.equal(keys, expected_keys) and torch.equal(values, expected_values)
    assert cache.get_seq_length() == cache.num_seen == reference.keys.shape[2]


def check_next(cache: CacheLayer, reference: Reference, length: int = 1) -> None:
    """The next update, without keeping it."""
    size, num_before = cache.get_mask_sizes(length)
    k, v = new(len(reference.keys), length)
    keys, _ = cache.update(k, v)
    expected = torch.cat([reference.keys, k], dim=2)[:, :, num_before:]
    assert torch.equal(keys, expected) and keys.shape[2] == size
    cache.crop(-length)


@every_case
@given(window=windows, sizes=st.lists(st.integers(1, 90), max_size=30), known=st.booleans())
def test_updates_in_pieces_of_any_size(window: int, sizes: list[int], known: bool) -> None:
    cache, reference = CacheLayer(window, sum(sizes) if known else None), Reference(window, 2)
    for size in sizes:
        update_both(cache, reference, size)


@every_case
@given(
    window=windows,
    steps=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["crop", "select", "repeat", "last"])), max_size=20),
    data=st.data(),
)
def test_all_operations(window: int, steps: list[tuple[int, str]], data: st.DataObject) -> None:
    cache, reference = CacheLayer(window), Reference(window, 3)
    for size, operation in steps:
        update_both(cache, reference, size)
        batch_size = len(reference.keys)
        match operation:
            case "crop":  # what has just entered can always leave
                num_removed = data.draw(st.integers(0, size))
                cache.crop(-num_removed)
                end = reference.keys.shape[2] - num_removed
                reference.keys, reference.values = reference.keys[:, :, :end], reference.values[:, :, :end]
                assert cache.num_seen == end
            case "select":
                indices = torch.tensor(data.draw(st.lists(st.integers(0, batch_size - 1), min_size=1, max_size=4)))
                cache.batch_select_indices(indices)
                reference.select(indices)
            case "repeat" if batch_size <= 4:
                cache.batch_repeat_interleave(2)
                reference.select(torch.arange(batch_size).repeat_interleave(2))
            case "last":
                indices = torch.tensor(
                    data.draw(st.lists(st.integers(0, batch_size - 1), min_size=batch_size, max_size=batch_size))
                )
                cache.select_last(indices)
                for x in (reference.keys, reference.values):
                    x[:, :, -1] = x[indices, :, -1]
            case _:
                pass
    if steps:
        check_next(cache, reference, 3)


def test_reordering_is_selecting() -> None:
    cache, other = CacheLayer(7), CacheLayer(7)
    for each in (cache, other):
        torch.manual_seed(0)
        each.update(*new(3, 5))
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    other.batch_select_indices(torch.tensor([2, 0, 0]))
    assert torch.equal(cache.update(*new(3, 1))[0][:, :, :5], other.update(*new(3, 1))[0][:, :, :5])


@pytest.mark.parametrize("window", [1, 5, 100])
def test_crop_after_a_move_within_the_margin(window: int) -> None:
    """64 positions and an eighth of a window can be taken back, also one step after old ones were dropped."""
    margin, num_moves = 64 + window // 8, 0
    cache, reference = CacheLayer(window), Reference(window, 1)
    for _ in range(4 * window + 500):
        buffer = cache.keys
        update_both(cache, reference, 1)
        if buffer is None or buffer is cache.keys or cache.num_seen < window + margin:
            continue
        num_moves += 1
        cache.crop(-margin)
        end = reference.keys.shape[2] - margin
        reference.keys, reference.values = reference.keys[:, :, :end], reference.values[:, :, :end]
        check_next(cache, reference)
        update_both(cache, reference, margin + 1)
    assert num_moves >= 2


def test_crop_beyond_the_margin_is_an_error_that_changes_nothing() -> None:
    cache, reference = CacheLayer(5), Reference(5, 1)
    for _ in range(300):
        update_both(cache, reference, 1)
    with pytest.raises(ValueError, match=r"290 positions can't be taken back: \d+ of 300 are cached"):
        cache.crop(-290)
    with pytest.raises(ValueError, match=r"-1 positions can't be taken back"):
        cache.crop(1)
    check_next(cache, reference)


def test_crop_of_all_and_of_more() -> None:
    cache, reference = CacheLayer(5), Reference(5, 1)
    update_both(cache, reference, 9)
    for num_removed in (10, 100):
        with pytest.raises(ValueError, match=rf"{num_removed} positions can't be taken back: 9 of 9 are cached"):
            cache.crop(-num_removed)
    check_next(cache, reference)
    cache.crop(-9)
    assert cache.num_seen == 0
    update_both(cache, Reference(5, 1), 3)


def test_reset_forgets_everything() -> None:
    cache = CacheLayer(5)
    states = [cache.is_initialized]
    assert cache.get_seq_length() == 0 and cache.get_max_length() == 5
    cache.update(*new(2, 9))
    states.append(cache.is_initialized)
    cache.reset()
    assert states == [False, True]
    assert (cache.is_initialized, cache.keys, cache.values) == (False, None, None)
    update_both(cache, Reference(5, 3), 2)  # another batch size


@pytest.mark.parametrize("window", [1, 5, 64, 400])
@pytest.mark.parametrize("max_length", [None, 10, 1000, 5000])
def test_buffers_are_replaced_seldom_and_stay_bounded(window: int, max_length: int | None) -> None:
    """At most once per quarter of a window: no growth by copying, also when more tokens come than were announced."""
    cache, num_tokens = CacheLayer(window, max_length), 1500
    buffers, sizes = [], []
    cache.update(*new(1, 3))
    for _ in range(num_tokens):
        cache.update(*new(1, 1))
        assert cache.keys is not None
        buffers.append(cache.keys.data_ptr())
        sizes.append(cache.keys.shape[2])
    num_replaced = sum(a != b for a, b in pairwise(buffers))
    assert num_replaced <= num_tokens / max(window // 4, 60) + 1
    assert max(sizes) <= 2 * window + 300


def test_announced_length_is_the_room_that_is_made() -> None:
    cache = CacheLayer(100, max_length=23)
    cache.update(*new(2, 3))
    assert cache.keys is not None and cache.keys.shape[2] == 23
    buffer = cache.keys.data_ptr()
    for _ in range(20):
        cache.update(*new(2, 1))
    assert cache.keys.data_ptr() == buffer and cache.num_seen == 23
    long = CacheLayer(5, max_length=100_000)
    long.update(*new(2, 3))
    assert long.keys is not None and long.keys.shape[2] < 200  # more than a window and margins is never needed


def test_selecting_as_many_examples_replaces_no_buffer() -> None:
    """Beam search does it at each step."""
    cache = CacheLayer(7)
    cache.update(*new(3, 4))
    assert cache.keys is not None
    buffer = cache.keys.data_ptr()
    cache.reorder_cache(torch.tensor([1, 1, 2]))
    assert cache.keys.data_ptr() == buffer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_buffers_have_the_dtype_of_what_enters(dtype: torch.dtype) -> None:
    cache = CacheLayer(7)
    k, v = (x.to(dtype) for x in new(2, 3))
    keys, values = cache.update(k, v)
    assert keys.dtype == values.dtype == dtype and torch.equal(keys, k)


def test_is_a_cache_layer_of_transformers() -> None:
    assert isinstance(CacheLayer(3), CacheLayerMixin) and generation.CacheLayerMixin is CacheLayerMixin
    assert CacheLayer.is_sliding and CacheLayer.is_croppable and not CacheLayer.is_compileable
