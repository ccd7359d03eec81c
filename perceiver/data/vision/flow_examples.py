"""Examples of optical flow, two frames and what is known about the motion between them, and their augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perceiver.data.vision.flow_io import Flow, Mask


@dataclass(frozen=True)
class FlowExample:
    """The pixel at (x, y) of the first frame is at (x, y) + flow[y, x] of the second one, where `valid[y, x]`."""

    frames: npt.NDArray[np.uint8]  # 2 H W 3
    flow: Flow  # H W 2, pixels
    valid: Mask  # H W

    def __post_init__(self) -> None:
        size = self.frames.shape[1:3]
        expected = {"frames": (2, *size, 3), "flow": (*size, 2), "valid": size}
        found = {name: getattr(self, name).shape for name in expected}
        if found != expected:
            raise ValueError(f"shapes of an example do not go together: {found}")


def crop(example: FlowExample, shape: tuple[int, int], place: Callable[[int], int]) -> FlowExample:
    """Cuts the same part out of all.

    Args:
        example: of any size from `shape`.
        shape: height and width of the result.
        place: chooses a start in [0, n), given n.

    Raises:
        ValueError: if the example is smaller.
    """
    sizes = example.valid.shape
    if any(size < wanted for size, wanted in zip(sizes, shape, strict=True)):
        raise ValueError(f"frames of {sizes[0]}x{sizes[1]} pixels are smaller than image_shape={shape}")
    starts = [place(size - wanted + 1) for size, wanted in zip(sizes, shape, strict=True)]
    rows, columns = (slice(start, start + wanted) for start, wanted in zip(starts, shape, strict=True))
    return FlowExample(example.frames[:, rows, columns], example.flow[rows, columns], example.valid[rows, columns])


def mirror(example: FlowExample, *, horizontally: bool, vertically: bool) -> FlowExample:
    """Swaps left and right, and up and down; flow changes its sign in that direction."""
    rows, columns = (slice(None, None, -1 if swap else 1) for swap in (vertically, horizontally))
    sign = np.array([-1 if swap else 1 for swap in (horizontally, vertically)], np.float32)
    return FlowExample(
        example.frames[:, rows, columns], example.flow[rows, columns] * sign, example.valid[rows, columns]
    )


def jitter_colors(example: FlowExample, strength: float, random: np.random.Generator) -> FlowExample:
    """Changes contrast, brightness and the balance of colours, of both frames alike.

    Args:
        example: the example.
        strength: contrast and each colour are multiplied by up to 1 ± `strength`, and up to ± `strength` of the range
            is added.
        random: where the changes are drawn from.
    """
    contrast, brightness = 1 + strength * random.uniform(-1, 1), strength * random.uniform(-1, 1)
    colours = 1 + strength * random.uniform(-1, 1, 3)
    levels = (np.arange(256)[:, None] / 255 - 0.5) * contrast * colours + 0.5 + brightness  # by value and colour
    table = np.rint(255 * levels.clip(0, 1)).astype(np.uint8)
    return replace(example, frames=table[example.frames, np.arange(3)])
