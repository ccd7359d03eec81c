"""Frames of a video, one at a time: reading, pairs of consecutive frames, writing. Needs PyAV (extra `vision`)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, pairwise
from operator import length_hint
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from perceiver.checks import check_least, check_size

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")  # of what `write_video` writes

Frame = npt.NDArray[np.uint8]  # H W 3


def read_video_frames(
    path: str | PathLike[str], frame_shape: tuple[int, int] | None = None, *, progress: bool = False
) -> Generator[Frame, None, None]:
    """Yields the frames of a video, as they are to be looked at: a video of a rotated camera is turned upright.

    Args:
        path: a file.
        frame_shape: height and width that frames are resized to; None keeps their size.
        progress: show a progress bar.

    Returns:
        RGB frames (H, W, 3) uint8. The file is open until the last one is taken or the iterator is closed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, it is damaged, or `frame_shape` is no height and width.
    """
    if frame_shape is not None:
        check_size(frame_shape=frame_shape)
    return _read_frames(_existing(path), frame_shape, progress)


def _existing(path: str | PathLike[str]) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no video {path}")
    return Path(path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The container of a file that has a video. What can't be read while it is open is a `ValueError`."""
    av = import_av()
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video in it")
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is no video, or it is damaged: {error}") from error


def _read_frames(path: Path, frame_shape: tuple[int, int] | None, progress: bool) -> Generator[Frame, None, None]:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in _bar(container.decode(stream), path, stream.frames or None, progress):
            yield _upright(frame, frame_shape)


def _upright(frame: av.VideoFrame, shape: tuple[int, int] | None) -> Frame:
    quarters = round(frame.rotation / 90)  # counterclockwise
    height, width = shape or (None, None)
    if quarters % 2 == 1:
        height, width = width, height  # of the frame as it is stored
    image = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, quarters))


def read_video_frame_pairs(
    path: str | PathLike[str], frame_shape: tuple[int, int] | None = None, *, progress: bool = False
) -> Iterator[tuple[Frame, Frame]]:
    """Yields consecutive frames (0, 1), (1, 2), ... of a video, arguments and errors as `read_video_frames`."""
    return pairwise(read_video_frames(path, frame_shape, progress=progress))


def read_video_rate(path: str | PathLike[str]) -> float:
    """Frames per second of a video, errors as `read_video_frames`."""
    with _opened(_existing(path)) as container:
        return float(container.streams.video[0].average_rate or 25)


def read_audio(path: str | PathLike[str], rate: int, num_samples: int) -> npt.NDArray[np.float32] | None:
    """The beginning of a video's sound, its channels mixed.

    Args:
        path: a file.
        rate: samples per second that it is resampled to.
        num_samples: how many are read.

    Returns:
        Samples (n,) from -1 to 1, silence after the end; None if the video has no sound. Errors as `read_video_frames`,
        and ValueError if a number is less than 1.
    """
    check_least(1, rate=rate, num_samples=num_samples)
    av = import_av()
    samples = np.zeros(num_samples, np.float32)
    with _opened(_existing(path)) as container:
        if not container.streams.audio:
            return None
        resampler, num_read = av.AudioResampler(format="flt", layout="mono", rate=rate), 0
        for frame in chain(container.decode(audio=0), [None]):  # None: what the resampler still holds
            for resampled in resampler.resample(frame):
                part = resampled.to_ndarray()[0, : num_samples - num_read]
                samples[num_read : num_read + len(part)] = part
                num_read += len(part)
            if num_read == num_samples:
                break
    return samples.clip(-1, 1)


def write_video(
    path: str | PathLike[str], frames: Iterable[npt.ArrayLike], fps: float = 30, *, progress: bool = False
) -> None:
    """Writes frames to a video, in H.264 with 4:2:0 colours: what all players understand.

    It needs even sizes: odd ones are made even by repeating the last row or column. The file appears when it is
    complete; what failed leaves nothing, and an old file stays as it was.

    Args:
        path: a file; its suffix is .mp4, .m4v, .mov, .mkv or .avi. Its folder is made.
        frames: RGB frames (H, W, 3) uint8 of one size. They are taken one at a time.
        fps: frames per second.
        progress: show a progress bar.

    Raises:
        ValueError: if there is no frame, frames are not as described, `fps` is not positive, or the suffix is another.
    """
    path, av = Path(path), import_av()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the suffix of {path} must be one of {', '.join(SUFFIXES)}")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps={fps} must be positive and finite")
    total = length_hint(frames) or None  # `len` of a pipeline's results fails where it has no end
    even_frames = _even(frames)
    first = next(even_frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete-", dir=path.parent) as folder:
        incomplete = Path(folder) / path.name
        try:
            with av.open(incomplete, mode="w") as container:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = first.shape[:2]
                for frame in _bar(chain([first], even_frames), path, total, progress):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode(None))
        except av.error.FFmpegError as error:
            raise ValueError(f"{path} cannot be written as a video: {error}") from error
        incomplete.replace(path)


def _even(frames: Iterable[npt.ArrayLike]) -> Iterator[Frame]:
    """Checks frames and makes their sizes even."""
    shape = None
    for i, item in enumerate(frames):
        frame = np.asarray(item)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0 or frame.dtype != np.uint8:
            raise ValueError(
                f"frame {i} has shape {frame.shape} and dtype {frame.dtype}, and must have (H, W, 3), uint8"
            )
        if shape is None:
            shape = frame.shape
        elif frame.shape != shape:
            raise ValueError(f"frame {i} has shape {frame.shape}, and the frames before it have {shape}")
        yield np.pad(frame, [(0, shape[0] % 2), (0, shape[1] % 2), (0, 0)], mode="edge")
    if shape is None:
        raise ValueError("there is no frame to write")


def _bar(frames: Iterable[Any], path: Path, total: int | None, progress: bool) -> Iterator[Any]:
    return iter(tqdm(frames, desc=path.name, total=total, unit=" frames", disable=not progress))


def import_av() -> Any:
    """PyAV, or an ImportError that says what to install."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ImportError("video and KITTI's flow files need av: pip install perceiver-io[vision]") from error
    return av
