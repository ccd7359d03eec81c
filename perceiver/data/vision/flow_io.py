"""Files of ground truth: `.flo` (Middlebury, FlyingChairs, Sintel) and KITTI's PNG.

Flow is (H, W, 2) float32 in pixels, x (right) first, y (down) second. `valid` (H, W) says where it is known.
"""

from __future__ import annotations

from fractions import Fraction
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perceiver.processing.pillow import MAX_PIXELS
from perceiver.processing.video import import_av

Flow = npt.NDArray[np.float32]  # H W 2
Mask = npt.NDArray[np.bool_]  # H W

FLO_MAGIC = b"PIEH"  # 202021.25 as float32
FLO_UNKNOWN, FLO_LIMIT = 1e10, 1e9  # what is written for unknown flow; what is beyond the limit is unknown
KITTI_UNIT, KITTI_ZERO = 64, 2**15  # steps per pixel; the number that means 0
KITTI_RANGE = (-KITTI_ZERO / KITTI_UNIT, (2**16 - 1 - KITTI_ZERO) / KITTI_UNIT)  # -512 to 511.98 pixels


def read_flo(path: str | PathLike[str]) -> tuple[Flow, Mask]:
    """Reads flow (H, W, 2), 0 where it is unknown, and where it is known (H, W).

    Raises:
        ValueError: if the file is not in the format or is incomplete.
    """
    content = Path(path).read_bytes()
    if len(content) < 12 or content[:4] != FLO_MAGIC:
        raise ValueError(f"{path} is no .flo file: it does not begin with {FLO_MAGIC!r} and a size")
    width, height = np.frombuffer(content, "<i4", 2, offset=4).tolist()
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise ValueError(f"{path} is damaged: {len(content)} bytes, and {width} x {height} pixels in its head")
    flow = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    valid = (np.abs(flow) < FLO_LIMIT).all(axis=-1)  # not true of NaN
    return np.where(valid[..., None], flow, np.float32(0)), valid


def write_flo(path: str | PathLike[str], flow: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> None:
    """Writes flow (H, W, 2), and that it is unknown where `valid` (H, W) is false.

    Raises:
        ValueError: if a shape is another, or known flow is not finite.
    """
    flow, valid = _checked(flow, valid)
    values = np.where(valid[..., None], flow, np.float32(FLO_UNKNOWN)).astype("<f4")
    height, width = valid.shape
    Path(path).write_bytes(FLO_MAGIC + np.array([width, height], "<i4").tobytes() + values.tobytes())


def read_kitti_flow(path: str | PathLike[str]) -> tuple[Flow, Mask]:
    """Reads KITTI's flow (H, W, 2), 0 where it is unknown, and where it is known (H, W).

    Raises:
        ValueError: if the file is no PNG of three colours with 16 bits each, or has more than `pillow.MAX_PIXELS`.
    """
    image = _read_rgb48(Path(path))
    valid = image[..., 2] > 0
    flow = (image[..., :2].astype(np.float32) - KITTI_ZERO) / KITTI_UNIT
    return np.where(valid[..., None], flow, np.float32(0)), valid


def write_kitti_flow(path: str | PathLike[str], flow: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> None:
    """Writes flow (H, W, 2), rounded to 1/64 pixel, and that it is unknown where `valid` (H, W) is false.

    Raises:
        ValueError: if a shape is another, or known flow is not in [-512, 512).
    """
    flow, valid = _checked(flow, valid)
    low, high = KITTI_RANGE
    known = flow[valid]
    if known.size and (known.min() < low or known.max() > high):
        raise ValueError(f"flow from {known.min()} to {known.max()} must be in [{low}, {high}]")
    steps = np.rint(np.where(valid[..., None], flow, 0) * KITTI_UNIT) + KITTI_ZERO
    image = np.concatenate([np.where(valid[..., None], steps, 0), valid[..., None]], axis=-1)
    _write_rgb48(Path(path), image.astype(np.uint16))


def _checked(flow: npt.ArrayLike, valid: npt.ArrayLike | None) -> tuple[Flow, Mask]:
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow has shape {flow.shape}, and must have (H, W, 2)")
    valid = np.ones(flow.shape[:2], np.bool_) if valid is None else np.asarray(valid, np.bool_)
    if valid.shape != flow.shape[:2]:
        raise ValueError(f"valid has shape {valid.shape}, and flow {flow.shape}")
    if not np.isfinite(flow[valid]).all():
        raise ValueError("flow is not finite where it is valid")
    return flow, valid


# Pillow reads such a PNG with 8 bits and cannot write it. FFmpeg's codec does both.


def _read_rgb48(path: Path) -> npt.NDArray[np.uint16]:
    av = import_av()
    try:
        decoder = av.CodecContext.create("png", "r")
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        frames = decoder.decode(av.Packet(path.read_bytes()))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is no PNG, or it is damaged: {error}") from error
    if len(frames) != 1 or frames[0].format.name != "rgb48be":
        found = frames[0].format.name if frames else "nothing"
        raise ValueError(f"{path} has {found}, and flow has three colours with 16 bits each (rgb48be)")
    image: npt.NDArray[np.uint16] = frames[0].to_ndarray()
    return image


def _write_rgb48(path: Path, image: npt.NDArray[np.uint16]) -> None:
    av = import_av()
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb48be", Fraction(1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(image, format="rgb48be")) + encoder.encode(None)
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
