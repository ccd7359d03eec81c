"""Optical flow around a model: frames -> features of tiles, flow of tiles -> flow of the frame, flow -> colours.

A model sees `patch_size` pixels. A bigger frame is cut into tiles of that size, which overlap; the last one of each row
and column is flush with the border. Their flows are blended with weights that fall towards the border of a tile.

The features of a pixel are the 3x3 pixels around it, of each of the two frames: arXiv 2107.14795, section 4.2. Beyond
the border of a tile there are zeros, as in the official model: a tile knows nothing of what is around it.

Names: patch = tile here (`patch_size` and `patch_min_overlap` are arguments of the published format).
Shapes: B pairs of frames, N tiles, (H, W) frame, (h, w) tile. Flow is in pixels, x (right) first, y (down) second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.checks import check_least, check_range, check_size

Image = npt.NDArray[np.uint8]  # H W 3


def pixel_features(frames: Tensor) -> Tensor:
    """Features of each pixel: the pixels around it, rows first, then columns, then colours; zeros beyond the border.

    Args:
        frames: (..., H, W, 3) uint8.

    Returns:
        (..., 27, H, W) float32 in [-1, 1].
    """
    pixels = rearrange(frames, "... h w c -> ... c h w").float() / 255 * 2 - 1
    padded = nn.functional.pad(pixels, (1, 1, 1, 1))
    windows = padded.unfold(-2, 3, 1).unfold(-2, 3, 1)  # ... C H W 3 3, a view
    return rearrange(windows, "... c h w i j -> ... (i j c) h w")


class OpticalFlowProcessor:
    """Makes features of pairs of frames, and flow of what a model predicts for them.

    Args:
        patch_size: height and width that the model was built for.
        patch_min_overlap: pixels that neighbouring tiles have in common, at least.
        flow_scale_factor: pixels of flow per unit of a prediction.

    Raises:
        ValueError: if `patch_size` has no pixels or `patch_min_overlap` is not in [0, smaller side of a tile).
    """

    def __init__(
        self, patch_size: tuple[int, int] = (368, 496), patch_min_overlap: int = 20, flow_scale_factor: float = 20
    ):
        check_size(patch_size=patch_size)
        check_range(0, min(patch_size) - 1, patch_min_overlap=patch_min_overlap)
        self.patch_size = height, width = tuple(patch_size)
        self.patch_min_overlap = patch_min_overlap
        self.flow_scale_factor = flow_scale_factor
        y, x = torch.arange(height), torch.arange(width)
        from_border = torch.minimum(torch.minimum(y + 1, height - y)[:, None], torch.minimum(x + 1, width - x)[None, :])
        self._weights = from_border[..., None].float()  # h w 1

    def grid(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """Upper left corners (y, x) of the tiles of a frame, row by row.

        Args:
            image_shape: (H, W) or (H, W, 3).

        Raises:
            ValueError: if it is no such shape, or the frame is smaller than a tile.
        """
        sizes = image_shape[:2]
        check_size(image_shape=sizes)
        if any(size < patch for size, patch in zip(sizes, self.patch_size, strict=True)):
            frame, patch = ("x".join(map(str, shape)) for shape in (sizes, self.patch_size))
            raise ValueError(f"frames of {frame} pixels are smaller than patch_size, {patch}: enlarge them")
        ys, xs = (
            [*range(0, size - patch, patch - self.patch_min_overlap), size - patch]
            for size, patch in zip(sizes, self.patch_size, strict=True)
        )
        return [(y, x) for y in ys for x in xs]

    def preprocess(self, image_pair: Sequence[Any]) -> Tensor:
        """Makes the features of all tiles of a pair, 39 MB for each of 368x496 pixels. `process` needs less memory.

        Args:
            image_pair: two frames: paths or Pillow images of any kind, or arrays or tensors on CPU, uint8, (H, W, 3) in
                RGB or (H, W, 4) in RGBA. Transparency is dropped.

        Returns:
            (N, 2, 27, h, w) float32, tiles row by row.

        Raises:
            ValueError: if it is no such pair, or the frames differ in size or are smaller than a tile.
            OSError: if a path is not that of an image.
        """
        frames = frame_pair(image_pair)
        return pixel_features(torch.from_numpy(np.stack([self._cut(frames, *at) for at in self.grid(frames[0].shape)])))

    def preprocess_batch(self, image_pairs: Sequence[Sequence[Any]]) -> Tensor:
        """Makes the features of all tiles of pairs of one size, (B, N, 2, 27, h, w) float32.

        Raises:
            ValueError: as `preprocess`, or if there is no pair, or pairs differ in size.
        """
        pairs = [frame_pair(pair) for pair in image_pairs]
        if not pairs:
            raise ValueError("there is no image pair")
        shapes = sorted({pair[0].shape[:2] for pair in pairs})
        if len(shapes) > 1:
            raise ValueError(f"image pairs of one batch differ in size: {shapes}")
        return torch.stack([self.preprocess(pair) for pair in pairs])

    def postprocess(self, predictions: Tensor, image_shape: Sequence[int]) -> Tensor:
        """Puts the predictions for tiles together.

        Args:
            predictions: (N, h, w, 2), or (B, N, h, w, 2) for several frames, tiles in the order of `grid`.
            image_shape: (H, W) or (H, W, 3) of the frames.

        Returns:
            Flow (1, H, W, 2) or (B, H, W, 2) float32 in pixels, on the device of `predictions`.

        Raises:
            ValueError: if the predictions are not those of the tiles of such a frame.
        """
        grid = self.grid(image_shape)
        batch = predictions if predictions.ndim == 5 else predictions[None]
        if batch.shape[1:] != (len(grid), *self.patch_size, 2):
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)}, and a frame of shape {tuple(image_shape)} needs "
                f"(N, h, w, 2) or (B, N, h, w, 2) with (N, h, w) = {(len(grid), *self.patch_size)}"
            )
        blend = _Blend(self._weights.to(batch.device), image_shape, batch_size=len(batch))
        for (y, x), prediction in zip(grid, batch.unbind(1), strict=True):
            blend.add(prediction.float() * self.flow_scale_factor, y, x)
        return blend.result()

    def process(self, model: nn.Module, image_pairs: Iterable[Sequence[Any]], batch_size: int = 1) -> Iterator[Tensor]:
        """Yields the flow (H, W, 2) of each pair, float32 in pixels on CPU, in order.

        Pairs are taken as they are needed, so they may be the frames of a long video, and their sizes may differ.
        Features exist for `batch_size` tiles at a time, whatever the size of a frame. A batch goes on with the tiles of
        the next pair: flow is yielded when its last tile is done.

        Args:
            model: takes features (b, 2, 27, h, w), on its device and in its dtype, and returns predictions
                (b, h, w, 2) or an object that has them as `logits`. It is used in the mode (training or not) it is in.
            image_pairs: pairs as `preprocess` takes them.
            batch_size: tiles that the model gets at once.

        Raises:
            ValueError: as `preprocess`, or if there is no pair or `batch_size` is less than 1.
        """
        check_least(1, batch_size=batch_size)
        tiles = self._tiles(image_pairs)
        empty = True
        while batch := list(islice(tiles, batch_size)):
            empty = False
            predictions = self._predict(model, torch.from_numpy(np.stack([tile.frames for tile in batch])))
            for tile, prediction in zip(batch, predictions, strict=True):
                tile.blend.add(prediction[None], tile.y, tile.x)
                if tile.last:
                    yield tile.blend.result()[0]
        if empty:
            raise ValueError("there is no image pair")

    def _tiles(self, image_pairs: Iterable[Sequence[Any]]) -> Iterator[_Tile]:
        for image_pair in image_pairs:
            frames = frame_pair(image_pair)
            grid = self.grid(frames[0].shape)
            blend = _Blend(self._weights, frames[0].shape, batch_size=1)
            for i, (y, x) in enumerate(grid):
                yield _Tile(self._cut(frames, y, x), y, x, blend, last=i == len(grid) - 1)

    def _cut(self, frames: Sequence[Image], y: int, x: int) -> Image:
        """The tile at (y, x) of both frames, (2, h, w, 3)."""
        height, width = self.patch_size
        return np.stack([frame[y : y + height, x : x + width] for frame in frames])

    @torch.no_grad()
    def _predict(self, model: nn.Module, frames: Tensor) -> Tensor:
        """(b, 2, h, w, 3) uint8 -> flow (b, h, w, 2) in pixels, on CPU."""
        parameter = next(model.parameters())
        features = pixel_features(frames.to(parameter.device)).to(parameter.dtype)
        output = model(features)
        return getattr(output, "logits", output).float().cpu() * self.flow_scale_factor


class _Blend:
    """The flow of frames in the making: a weighted mean of what tiles say."""

    def __init__(self, weights: Tensor, image_shape: Sequence[int], *, batch_size: int):
        self.weights = weights  # h w 1
        self.sum = weights.new_zeros(batch_size, *image_shape[:2], 2)  # B H W 2
        self.weight = weights.new_zeros(*image_shape[:2], 1)  # H W 1

    def add(self, flow: Tensor, y: int, x: int) -> None:
        """Takes the flow (B, h, w, 2) of the tile at (y, x)."""
        height, width, _ = self.weights.shape
        rows, columns = slice(y, y + height), slice(x, x + width)
        self.sum[:, rows, columns] += self.weights * flow
        self.weight[rows, columns] += self.weights

    def result(self) -> Tensor:
        return self.sum.div_(self.weight)  # B H W 2


class _Tile(NamedTuple):
    frames: Image  # 2 h w 3
    y: int
    x: int
    blend: _Blend  # of its pair
    last: bool  # of its pair


def frame_pair(image_pair: Any) -> list[Image]:
    """The two frames (H, W, 3) of a pair, see `OpticalFlowProcessor.preprocess`.

    Raises:
        ValueError: if it is no pair of frames, or they differ in size.
        OSError: if a path is not that of an image.
    """
    if isinstance(image_pair, str | PathLike) or not hasattr(image_pair, "__len__"):
        raise ValueError(f"an image pair has two frames, and is not a {type(image_pair).__name__}: {image_pair!r:.200}")
    if len(image_pair) != 2:
        raise ValueError(f"an image pair has two frames, not {len(image_pair)}")
    first, second = (_frame(frame) for frame in image_pair)
    if first.shape != second.shape:
        raise ValueError(f"the frames of a pair differ in size: {first.shape[:2]} and {second.shape[:2]}")
    return [first, second]


def is_frame(frame: Any) -> bool:
    """Whether this could be one frame; a pair could not."""
    return isinstance(frame, str | PathLike) or hasattr(frame, "getbands") or getattr(frame, "ndim", None) == 3


def _frame(frame: Any) -> Image:
    if isinstance(frame, str | PathLike):
        from perceiver.processing.pillow import read_image

        frame = np.asarray(read_image(Path(frame), single_channel=False))
    elif hasattr(frame, "getbands"):  # Pillow's, which is not imported where there are only arrays
        from perceiver.processing.pillow import converted_image

        frame = np.asarray(converted_image(frame, single_channel=False))
    if not hasattr(frame, "__array__"):
        raise ValueError(f"a frame is a {type(frame).__name__}, and must be a path, an array or a Pillow image")
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"a frame has shape {array.shape}, and must have (H, W, 3) or (H, W, 4): RGB or RGBA")
    if array.dtype != np.uint8:
        # A float could be in [0, 1], [-1, 1] or [0, 255].
        raise ValueError(f"a frame has dtype {array.dtype}, and must have uint8, with values from 0 to 255")
    return array[..., :3]


def render_optical_flow(flow: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Colours of flow: hue is its direction, saturation its length, full at 24 pixels. No motion is white.

    Right is red, down is yellowish green, left is cyan, up is violet. Where flow is not finite (unknown), it is black.

    Args:
        flow: (..., H, W, 2) in pixels.

    Returns:
        RGB (..., H, W, 3) uint8.

    Raises:
        ValueError: if `flow` has another shape.
    """
    flow = np.asarray(flow)
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow has shape {flow.shape}, and must have (..., H, W, 2)")
    known = np.isfinite(flow).all(axis=-1)
    x, y = np.moveaxis(np.where(known[..., None], flow, 0), -1, 0)
    hue = (np.arctan2(y, x) % (2 * math.pi) * (90 / math.pi)).astype(np.uint8) % 180  # steps of two degrees
    saturation = np.minimum(np.hypot(x, y) * (255 / 24), 255).astype(np.uint8)
    return np.where(known[..., None], _colors()[hue, saturation], np.uint8(0))


@cache
def _colors() -> npt.NDArray[np.uint8]:
    """RGB (180, 256, 3) by hue, in steps of two degrees, and saturation, at full value."""
    sixth = np.arange(180)[:, None, None] / 30  # of the colour circle
    distance = (np.array([5, 3, 1]) + sixth) % 6  # of red, green, blue from where each is weakest
    depth = np.clip(np.minimum(distance, 4 - distance), 0, 1) * np.arange(256)[:, None] / 255
    return np.rint(255 * (1 - depth)).astype(np.uint8)
