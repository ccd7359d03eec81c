"""Pairs of frames with a motion that is known exactly: a random texture under a random smooth deformation.

The texture T is a function of the plane, not an image, so it is known between pixels. With the motion f, the first
frame is T(x) and the second one shows T(x) at x + f(x). To draw a pixel y of the second frame, solve x + f(x) = y: f
changes slower than x (by `MAX_STRETCH` pixels per pixel at most), so x <- y - f(x) converges, from anywhere.

Points are (..., 2), x (right) first, y (down) second, in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perceiver.data.vision.flow_examples import FlowExample

Array = npt.NDArray[np.float64]

SHORTEST_WAVES = (6, 12, 24, 48)  # pixels; each octave has waves of up to twice that
WAVES_PER_OCTAVE = 10
MAX_TURN = 0.1  # radians; zoom by up to the same share
NUM_BENDS, MAX_BEND = 4, 0.1  # waves of the motion, and pixels per pixel of each
MAX_STRETCH = math.sqrt(2) * MAX_TURN + NUM_BENDS * MAX_BEND
TOLERANCE = 1e-4  # pixels


@dataclass(frozen=True)
class SyntheticFlow:
    """That many examples, see `synthetic_example`."""

    size: int
    image_shape: tuple[int, int]
    max_displacement: float

    def __len__(self) -> int:
        return self.size

    def example(self, index: int, random: np.random.Generator) -> FlowExample:
        return synthetic_example(self.image_shape, self.max_displacement, random)


def synthetic_example(
    image_shape: tuple[int, int], max_displacement: float, random: np.random.Generator
) -> FlowExample:
    """Draws a texture and a motion: translation, rotation, zoom and a few long waves.

    Flow points out of the second frame at some of its border. It is known there, too.

    Args:
        image_shape: height and width.
        max_displacement: length of the flow vectors in pixels, at most.
        random: where texture and motion are drawn from.
    """
    height, width = image_shape
    points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)  # H W 2
    texture, motion = Texture(random), Motion(points, max_displacement, random)
    frames = np.stack([texture(points), texture(motion.origins(points))])
    return FlowExample(frames, motion(points).astype(np.float32), np.ones(image_shape, np.bool_))


class Texture:
    """A random colour at each point: waves of several octaves, the longer the stronger."""

    def __init__(self, random: np.random.Generator):
        shortest = np.repeat(SHORTEST_WAVES, WAVES_PER_OCTAVE)
        wavelengths = shortest * 2 ** random.uniform(size=len(shortest))
        self.wave_vectors = _vectors(2 * math.pi / wavelengths, random).astype(np.float32)
        self.phases = random.uniform(0, 2 * math.pi, len(shortest)).astype(np.float32)
        colors = random.normal(size=(len(shortest), 3)) * wavelengths[:, None]
        self.colors = (colors / np.linalg.norm(colors, axis=0)).astype(np.float32)

    def __call__(self, points: Array) -> npt.NDArray[np.uint8]:
        """(..., 2) -> RGB (..., 3)."""
        waves = np.sin(points.astype(np.float32) @ self.wave_vectors.T + self.phases)
        return np.rint(127.5 + 127.5 * np.tanh(waves @ self.colors)).astype(np.uint8)


class Motion:
    """A random displacement at each point.

    Args:
        points: (H, W, 2), where displacements are not longer than `max_displacement`.
        max_displacement: in pixels.
        random: where the motion is drawn from.
    """

    def __init__(self, points: Array, max_displacement: float, random: np.random.Generator):
        height, width, _ = points.shape
        self.centre = points.mean(axis=(0, 1))
        turn, zoom = random.uniform(-MAX_TURN, MAX_TURN, 2)
        self.matrix = np.array([[zoom, turn], [-turn, zoom]])  # multiplied from the right
        wavelengths = min(height, width) * random.uniform(1, 2, NUM_BENDS)
        self.wave_vectors = _vectors(2 * math.pi / wavelengths, random)
        self.phases = random.uniform(0, 2 * math.pi, NUM_BENDS)
        self.bends = _vectors(MAX_BEND * random.uniform(size=NUM_BENDS) * wavelengths / (2 * math.pi), random)
        self.translation = np.zeros(2)

        longest = np.linalg.norm(self(points), axis=-1).max()
        limit = max_displacement * (1 - random.uniform())  # of all but the translation
        scale = limit / max(limit, longest)
        self.matrix, self.bends = scale * self.matrix, scale * self.bends
        self.translation = _vectors(np.array([random.uniform(0, max_displacement - scale * longest)]), random)[0]

    def __call__(self, points: Array) -> Array:
        """Displacement (..., 2) of points (..., 2)."""
        waves = np.sin(points @ self.wave_vectors.T + self.phases)
        displacement: Array = self.translation + (points - self.centre) @ self.matrix + waves @ self.bends
        return displacement

    def origins(self, points: Array) -> Array:
        """Where from points (..., 2) come: `origins(x + motion(x)) == x`."""
        origins = points
        while True:
            previous, origins = origins, points - self(origins)
            if np.abs(origins - previous).max() < TOLERANCE:
                return origins


def _vectors(lengths: Array, random: np.random.Generator) -> Array:
    """(n,) -> (n, 2) in random directions."""
    angles = random.uniform(0, 2 * math.pi, len(lengths))
    return lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
