"""The flow of synthetic examples is exact: against formulas, and against the frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings, strategies as st
from scipy.ndimage import map_coordinates

from perceiver.data.vision.flow_examples import FlowExample
from perceiver.data.vision.flow_synthetic import MAX_STRETCH, Motion, Texture, synthetic_example

SHAPES = st.tuples(st.integers(16, 40), st.integers(16, 40))
SEEDS = st.integers(0, 2**32)
DISPLACEMENTS = st.floats(0.1, 20)


def grid(shape: tuple[int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1).astype(float)


def warped_back(example: FlowExample) -> tuple[np.ndarray, np.ndarray]:
    """The second frame at x + flow(x), and where that is well inside of it."""
    height, width = example.valid.shape
    x, y = np.moveaxis(grid((height, width)) + example.flow, -1, 0)
    inside = (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
    second = example.frames[1].astype(float)
    warped = [map_coordinates(second[..., color], [y, x], order=3, mode="mirror") for color in range(3)]
    return np.stack(warped, axis=-1), inside


@given(SHAPES, DISPLACEMENTS, SEEDS)
@settings(max_examples=30)
def test_warping_the_second_frame_back_gives_the_first(
    shape: tuple[int, int], max_displacement: float, seed: int
) -> None:
    """What is left is rounding to whole numbers and interpolation."""
    example = synthetic_example(shape, max_displacement, np.random.default_rng(seed))
    assert example.frames.dtype == np.uint8 and example.flow.dtype == np.float32 and example.valid.all()
    assert np.linalg.norm(example.flow, axis=-1).max() <= max_displacement + 1e-5
    warped, inside = warped_back(example)
    if inside.sum() >= 50:
        difference = np.abs(warped - example.frames[0])[inside]
        assert difference.mean() < 0.6 and np.quantile(difference, 0.99) < 4


def test_wrong_flow_is_noticed() -> None:
    """So the test above says something. Motions are no mere translations, and not all alike."""
    random = np.random.default_rng(0)
    examples = [synthetic_example((48, 64), 8, random) for _ in range(20)]
    lengths = [np.linalg.norm(example.flow, axis=-1).mean() for example in examples]
    assert 1.5 < np.mean(lengths) < 6 and np.std(lengths) > 0.5
    assert np.mean([example.flow.std(axis=(0, 1)).mean() for example in examples]) > 0.7
    for share, differs in ((1, (0, 0.6)), (0.9, (1, 5)), (0, (10, 50))):
        differences = []
        for example in examples:
            warped, inside = warped_back(replace(example, flow=share * example.flow))
            differences.append(np.abs(warped - example.frames[0])[inside].mean())
        low, high = differs
        assert low < np.mean(differences) < high


@given(SHAPES, DISPLACEMENTS, SEEDS)
@settings(max_examples=50)
def test_motion_is_smooth_and_inverted(shape: tuple[int, int], max_displacement: float, seed: int) -> None:
    points, random = grid(shape), np.random.default_rng(seed)
    motion = Motion(points, max_displacement, random)
    elsewhere = points + random.uniform(-30, 30, 2)  # beyond the frame, too
    origins = motion.origins(elsewhere)
    assert np.abs(origins + motion(origins) - elsewhere).max() < 2e-4
    assert np.abs(motion.origins(points + motion(points)) - points).max() < 2e-4
    others = points + random.normal(size=points.shape)
    change = np.linalg.norm(motion(others) - motion(points), axis=-1)
    assert (change <= MAX_STRETCH * np.linalg.norm(others - points, axis=-1) + 1e-9).all()


def test_textures_are_colorful() -> None:
    texture = Texture(np.random.default_rng(0))
    image = texture(grid((100, 100)))
    assert image.shape == (100, 100, 3) and image.dtype == np.uint8
    assert (image.std(axis=(0, 1)) > 60).all()
    assert np.abs(np.corrcoef(image.reshape(-1, 3).T) - np.eye(3)).max() < 0.9  # not grey
    shifted = texture(grid((100, 100)) + np.array([3, 5]))
    assert np.abs(shifted[:95, :97] - image[5:, 3:].astype(int)).max() <= 1


def test_a_seed_gives_one_example() -> None:
    first, again, other = (synthetic_example((16, 20), 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.flow, again.flow)
    assert not np.array_equal(first.frames, other.frames) and not np.array_equal(first.flow, other.flow)
