"""Synthetic clips: what they show and how they sound, measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceiver.data.multimodal.clips import INTERVAL, LONGEST_PERIOD, SHAPES, Clip, synthetic_clip

# Areas in units of radius squared.
AREAS = {
    "disc": np.pi,
    "ring": 0.75 * np.pi,
    "square": 1.6**2,
    "diamond": 2.0,
    "plus": 7 / 4,
    "cross": 7 / 4,
}


def clip_of(label: int, num_frames: int = 5, shape: tuple[int, int] = (80, 90), num_samples: int = 2048) -> Clip:
    for seed in range(100):
        clip = synthetic_clip(num_frames, shape, num_samples, np.random.default_rng(seed))
        if clip.label == label:
            return clip
    raise AssertionError(label)


def coverage(clip: Clip) -> np.ndarray:
    """Share of each pixel that is the shape, (T, H, W): corners are background, the brightest pixel is not."""
    video = clip.video.astype(float)
    background = np.median(video.reshape(-1, 3), axis=0)
    distance = np.abs(video - background).sum(axis=-1)
    return distance / distance.max()


def centres(clip: Clip) -> np.ndarray:
    """(T, 2), x (right) and y (down), in pixels."""
    inside = coverage(clip)
    y, x = np.mgrid[: inside.shape[1], : inside.shape[2]] + 0.5
    return np.stack([(inside * x).sum((1, 2)), (inside * y).sum((1, 2))], axis=-1) / inside.sum((1, 2))[:, None]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(9, 40), st.integers(9, 40), st.integers(1, 300))
@settings(max_examples=30)
def test_values_are_in_range(seed: int, num_frames: int, height: int, width: int, num_samples: int) -> None:
    clip = synthetic_clip(num_frames, (height, width), num_samples, np.random.default_rng(seed))
    assert clip.video.shape == (num_frames, height, width, 3) and clip.video.dtype == np.float32
    assert clip.audio.shape == (num_samples,) and clip.audio.dtype == np.float32
    assert clip.video.min() >= 0 and clip.video.max() <= 1 and np.abs(clip.audio).max() <= 1
    assert 0 <= clip.label < len(SHAPES)
    again = synthetic_clip(num_frames, (height, width), num_samples, np.random.default_rng(seed))
    assert np.array_equal(clip.video, again.video) and np.array_equal(clip.audio, again.audio)


def test_classes_are_equally_frequent() -> None:
    random = np.random.default_rng(0)
    labels = [synthetic_clip(1, (9, 9), 1, random).label for _ in range(1200)]
    assert (abs(np.bincount(labels, minlength=6) - 200) < 50).all()


@pytest.mark.parametrize("label", range(len(SHAPES)))
def test_shapes(label: int) -> None:
    """The area that is covered is that of the shape, for the radius that its extent says."""
    clip = clip_of(label)
    inside, name = coverage(clip)[0], list(SHAPES)[label]
    width = (inside.max(axis=0) > 0.5).sum()  # from left to right
    # the corners of a square and the arms of a cross
    half_widths = {"square": 0.8, "cross": (1 + 1 / 4) * np.sqrt(0.5)}
    radius = width / 2 / half_widths.get(name, 1.0)
    assert inside.sum() == pytest.approx(AREAS[name] * radius**2, rel=0.12)


@pytest.mark.parametrize("label", range(len(SHAPES)))
def test_shapes_move_evenly_on_a_straight_line(label: int) -> None:
    path = centres(clip_of(label))
    steps = np.diff(path, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(axis=0), steps.shape), atol=0.1)
    assert np.linalg.norm(path[-1] - path[0]) > 1


@pytest.mark.parametrize("label", range(len(SHAPES)))
def test_the_tone_belongs_to_the_shape(label: int) -> None:
    clip = clip_of(label)
    spectrum = np.abs(np.fft.rfft(clip.audio * np.hanning(2048), 2**16))
    assert 2**16 / spectrum.argmax() == pytest.approx(LONGEST_PERIOD / INTERVAL**label, rel=0.01)


def test_the_higher_the_louder() -> None:
    for label in range(len(SHAPES)):
        clip = clip_of(label)
        height = 1 - centres(clip)[[0, -1], 1] / 80
        loudness = [np.abs(part).max() for part in (clip.audio[:70], clip.audio[-70:])]
        np.testing.assert_allclose(loudness, 0.2 + 0.7 * height, atol=0.03)
