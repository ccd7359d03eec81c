"""Clips that are made up: a shape moves across a plain background, and sounds.

What a clip shows and what it sounds like belong together: the kind of shape is the class and sets the pitch of a tone,
which is the louder the higher up the shape is. Colours, size and path are random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]


def _plus(x: Array, y: Array, r: float) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - r, y - r / 4), np.maximum(x - r / 4, y - r))


# Classes: distance in pixels of points (x, y) from the border of a shape with radius r around 0, negative inside.
SHAPES: dict[str, Callable[[Array, Array, float], Array]] = {
    "disc": lambda x, y, r: np.hypot(x, y) - r,
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - 0.8 * r,
    "diamond": lambda x, y, r: (np.abs(x) + np.abs(y) - r) * math.sqrt(0.5),
    "plus": _plus,
    "cross": lambda x, y, r: _plus((x + y) * math.sqrt(0.5), (x - y) * math.sqrt(0.5), r),
}
LONGEST_PERIOD = 64.0  # samples, of the first class
INTERVAL = 2 ** (1 / 3)  # between the pitches of neighbouring classes, a major third
LOUDNESS = (0.2, 0.9)  # at the bottom and at the top


@dataclass(frozen=True)
class Clip:
    """An example.

    Attributes:
        video: (T, H, W, 3), from 0 to 1.
        audio: (samples,), from -1 to 1.
        label: number of the shape in `SHAPES`.
    """

    video: Float32Array
    audio: Float32Array
    label: int


def synthetic_clip(
    num_frames: int, image_shape: tuple[int, int], num_audio_samples: int, random: np.random.Generator
) -> Clip:
    """Draws a clip.

    Args:
        num_frames: frames T.
        image_shape: height and width.
        num_audio_samples: samples.
        random: where it is drawn from.
    """
    height, width = image_shape
    label = int(random.integers(len(SHAPES)))
    radius = min(image_shape) * random.uniform(0.2, 0.35)
    start, end = random.uniform(radius, np.array([width, height]) - radius, (2, 2))  # x (right), y (down)
    background, color = random.uniform(0.0, 0.4, 3), random.uniform(0.6, 1.0, 3)

    path = np.linspace(start, end, num_frames)[:, None, None]  # T 1 1 2
    x = np.arange(width) + 0.5 - path[..., 0]  # T 1 W, the middle of pixels
    y = np.arange(height)[:, None] + 0.5 - path[..., 1]  # T H 1
    inside = np.clip(0.5 - list(SHAPES.values())[label](x, y, radius), 0, 1)[..., None]  # share of a pixel, T H W 1
    video = background + (color - background) * inside

    height_above_ground = 1 - np.linspace(start[1], end[1], num_audio_samples) / height
    period = LONGEST_PERIOD / INTERVAL**label
    tone = np.sin(2 * np.pi * np.arange(num_audio_samples) / period)
    audio = np.interp(height_above_ground, (0, 1), LOUDNESS) * tone
    return Clip(video.astype(np.float32), audio.astype(np.float32), label)
