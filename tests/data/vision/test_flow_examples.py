"""Augmentation changes frames, flow and what is valid together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceiver.data.vision.flow_examples import FlowExample, crop, jitter_colors, mirror

H, W = 7, 11


@pytest.fixture
def example() -> FlowExample:
    random = np.random.default_rng(0)
    return FlowExample(
        random.integers(0, 256, (2, H, W, 3), dtype=np.uint8),
        random.normal(size=(H, W, 2)).astype(np.float32),
        random.uniform(size=(H, W)) < 0.5,
    )


def moved(shift: tuple[int, int]) -> FlowExample:
    """A texture moved by whole pixels, (right, down), and back in on the other side."""
    first = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    second = np.roll(first, shift, axis=(1, 0))
    return FlowExample(np.stack([first, second]), np.full((H, W, 2), shift, np.float32), np.ones((H, W), bool))


def assert_flow_is_right(example: FlowExample) -> None:
    """Each pixel whose flow ends in the second frame is found there."""
    height, width = example.valid.shape
    for y in range(height):
        for x in range(width):
            to_x, to_y = np.array([x, y]) + example.flow[y, x].astype(int)
            if 0 <= to_x < width and 0 <= to_y < height:
                assert np.array_equal(example.frames[1, to_y, to_x], example.frames[0, y, x])


@given(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), st.booleans(), st.booleans(), st.data())
@settings(max_examples=50)
def test_flow_stays_right(shift: tuple[int, int], horizontally: bool, vertically: bool, data: Any) -> None:
    part = crop(moved(shift), (H - 3, W - 4), lambda n: data.draw(st.integers(0, n - 1)))
    assert part.valid.shape == (H - 3, W - 4)
    assert_flow_is_right(part)
    assert_flow_is_right(mirror(part, horizontally=horizontally, vertically=vertically))


def test_crop(example: FlowExample) -> None:
    sizes = []
    part = crop(example, (3, 4), lambda n: sizes.append(n) or n - 1)  # type: ignore[func-returns-value]
    assert sizes == [H - 3 + 1, W - 4 + 1]
    assert np.array_equal(part.frames, example.frames[:, -3:, -4:])
    assert np.array_equal(part.flow, example.flow[-3:, -4:]) and np.array_equal(part.valid, example.valid[-3:, -4:])
    with pytest.raises(ValueError, match=r"frames of 7x11 pixels are smaller than image_shape=\(8, 3\)"):
        crop(example, (8, 3), lambda n: 0)


def test_mirror(example: FlowExample) -> None:
    turned = mirror(example, horizontally=True, vertically=True)
    assert np.array_equal(turned.frames, np.rot90(example.frames, 2, axes=(1, 2)))
    assert np.array_equal(turned.flow, -example.flow[::-1, ::-1])
    assert np.array_equal(turned.valid, example.valid[::-1, ::-1])
    same = mirror(example, horizontally=False, vertically=False)
    assert np.array_equal(same.frames, example.frames) and np.array_equal(same.flow, example.flow)


class Fixed:
    """In place of random numbers: the same share of every range."""

    def __init__(self, *values: Any):
        self.values = list(values)

    def uniform(self, low: float, high: float, size: int | None = None) -> Any:
        return np.float64(self.values.pop(0)) if size is None else np.array(self.values.pop(0))


def test_jitter_colors(example: FlowExample) -> None:
    contrast, brightness, colors = 0.5, -0.25, [0, 1, -1]
    changed = jitter_colors(example, 0.2, Fixed(contrast, brightness, colors))  # type: ignore[arg-type]
    factors = 1.1 * np.array([1, 1.2, 0.8])
    expected = ((example.frames / 255 - 0.5) * factors + 0.5 - 0.05).clip(0, 1) * 255
    assert np.abs(changed.frames - expected).max() <= 0.5 + 1e-9
    assert changed.flow is example.flow and changed.valid is example.valid
    unchanged = jitter_colors(example, 0, np.random.default_rng(0))
    assert np.array_equal(unchanged.frames, example.frames)


def test_shapes_must_go_together() -> None:
    with pytest.raises(ValueError, match=r"shapes of an example do not go together: .*'flow': \(7, 10, 2\)"):
        FlowExample(np.zeros((2, 7, 11, 3), np.uint8), np.zeros((7, 10, 2), np.float32), np.ones((7, 11), bool))
