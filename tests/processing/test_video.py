"""Videos: what is written is read again, upright, frame by frame; what fails leaves no file."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from perceiver.processing.video import (
    read_audio,
    read_video_frame_pairs,
    read_video_frames,
    read_video_rate,
    write_video,
)
from tests.clips import write_clip


def video(shape: tuple[int, int] = (32, 48), count: int = 5) -> list[np.ndarray]:
    """Smooth colours that change from left to right, from top to bottom and with time."""
    y, x = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]), indexing="ij")
    return [np.stack([255 * x, 255 * y, np.full(shape, 40.0 * i)], axis=-1).astype(np.uint8) for i in range(count)]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("suffix", ["mp4", "m4v", "mov", "mkv", "avi", "MP4"])
def test_a_video_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"a.{suffix}"
    write_video(path, iter(video()), fps=12.5)
    found = list(read_video_frames(path))
    assert len(found) == 5
    for frame, original in zip(found, video(), strict=True):
        assert difference(frame, original) < 3
    with av.open(path) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 12.5
    assert list(path.parent.iterdir()) == [path]


class Endless:
    """As what a pipeline returns for an iterator: it has a length, which nobody knows."""

    def __len__(self) -> int:
        raise TypeError("object of type 'generator' has no len()")

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(video())


def test_frames_need_no_length(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Endless())
    assert len(list(read_video_frames(tmp_path / "a.mp4"))) == 5


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video((31, 47)))
    frame = next(read_video_frames(str(tmp_path / "a.mp4")))
    assert frame.shape == (32, 48, 3)
    assert difference(frame[:31, :47], video((31, 47))[0]) < 3
    assert difference(frame[31], frame[30]) < 3 and difference(frame[:, 47], frame[:, 46]) < 3


def test_pairs_are_consecutive_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video())
    frames = list(read_video_frames(tmp_path / "a.mp4"))
    pairs = list(read_video_frame_pairs(tmp_path / "a.mp4"))
    assert len(pairs) == 4
    for i, (first, second) in enumerate(pairs):
        assert np.array_equal(first, frames[i]) and np.array_equal(second, frames[i + 1])


def test_frames_are_resized(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video())
    frame = next(read_video_frames(tmp_path / "a.mp4", (16, 18)))
    assert difference(frame, video((16, 18))[0]) < 6
    assert next(read_video_frame_pairs(tmp_path / "a.mp4", (16, 18)))[1].shape == (16, 18, 3)
    with pytest.raises(ValueError, match=r"frame_shape=\(0, 3\)"):
        read_video_frames(tmp_path / "a.mp4", (0, 3))


@pytest.mark.parametrize("matrix, quarters", [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_videos_of_a_rotated_camera_are_turned_upright(tmp_path: Path, matrix: Any, quarters: int) -> None:
    """Phones write the rotation into the head of a track."""
    write_video(tmp_path / "a.mp4", video())
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    assert struct.unpack_from(">9i", content, start) == (one, 0, 0, 0, one, 0, 0, 0, one << 14)
    a, b, c, d = (one * value for value in matrix)
    struct.pack_into(">9i", content, start, a, b, 0, c, d, 0, 0, 0, one << 14)
    (tmp_path / "b.mp4").write_bytes(content)

    stored, upright = next(read_video_frames(tmp_path / "a.mp4")), next(read_video_frames(tmp_path / "b.mp4"))
    assert np.array_equal(upright, np.rot90(stored, quarters))
    resized = next(read_video_frames(tmp_path / "b.mp4", (18, 16)))
    whole = video((16, 18) if quarters % 2 else (18, 16))[0]
    assert difference(resized, np.ascontiguousarray(np.rot90(whole, quarters))) < 6


def test_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", video(), progress=True)
    assert "a.mp4" in (text := capsys.readouterr().err) and "5/5" in text
    list(read_video_frame_pairs(tmp_path / "a.mp4", progress=True))
    assert "5/5" in capsys.readouterr().err
    write_video(tmp_path / "a.mp4", video())
    assert capsys.readouterr().err == ""


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    tone = 0.7 * np.sin(2 * np.pi * 40 * np.arange(4000) / 8000).astype(np.float32)  # half a second
    write_clip(tmp_path / "a.mkv", video(), 10, tone, 8000)
    assert read_video_rate(tmp_path / "a.mkv") == 10
    same = read_audio(tmp_path / "a.mkv", 8000, 300)
    assert same is not None and same.dtype == np.float32
    np.testing.assert_allclose(same, tone[:300], atol=1e-4)
    half = read_audio(tmp_path / "a.mkv", 4000, 2500)
    assert half is not None and half.shape == (2500,) and not half[2000:].any()  # silence after its end
    np.testing.assert_allclose(half[100:1900], tone[200:3800:2], atol=0.01)  # the filter needs a start and an end
    write_video(tmp_path / "b.mp4", video(), fps=12.5)
    assert read_audio(tmp_path / "b.mp4", 8000, 300) is None and read_video_rate(tmp_path / "b.mp4") == 12.5


def test_reading_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no video .*a.mp4"):
        read_video_frames(tmp_path / "a.mp4")  # at once, not when the first frame is taken
    with pytest.raises(FileNotFoundError, match=r"there is no video .*a.mp4"):
        read_audio(tmp_path / "a.mp4", 8000, 10)
    with pytest.raises(ValueError, match="rate=0 must be at least 1"):
        read_audio(tmp_path / "a.mp4", 0, 10)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"a.mp4 is no video, or it is damaged"):
        next(read_video_frames(tmp_path / "a.mp4"))
    write_video(tmp_path / "b.mkv", video())
    content = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"b.mkv is no video, or it is damaged"):
        next(read_video_frames(tmp_path / "b.mkv"))
    with av.open(tmp_path / "c.mkv", "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    with pytest.raises(ValueError, match=r"c.mkv has no video in it"):
        next(read_video_frames(tmp_path / "c.mkv"))


WRONG_FRAMES = {
    r"frame 2 has shape \(30, 48, 3\), and the frames before it have \(32, 48, 3\)": [*video()[:2], video((30, 48))[0]],
    r"frame 1 has shape \(32, 48\) and dtype uint8": [video()[0], video()[1][..., 0]],
    "dtype float64, and must have": [video()[0] / 255],
    r"frame 0 has shape \(0, 48, 3\)": [video()[0][:0]],
    "there is no frame to write": [],
}


@pytest.mark.parametrize("message", WRONG_FRAMES)
def test_a_failed_write_leaves_nothing(tmp_path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", WRONG_FRAMES[message])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video())
    before = (tmp_path / "a.mp4").read_bytes()

    def interrupted() -> Iterator[np.ndarray]:
        yield from video()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", interrupted())
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_wrong_arguments_of_write_video(tmp_path: Path) -> None:
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"fps={fps} must be positive and finite"):
            write_video(tmp_path / "a.mp4", video(), fps=fps)
    for name in ("a.webm", "a"):
        with pytest.raises(ValueError, match=rf"the suffix of .*{name} must be one of \.mp4"):
            write_video(tmp_path / name, video())


def test_without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"need av: pip install perceiver-io\[vision\]"):
        next(read_video_frames(tmp_path / "a.mp4"))
