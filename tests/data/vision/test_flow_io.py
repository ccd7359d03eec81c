"""Files of ground truth: against their definitions written out here, and by round trips."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from perceiver.data.vision.flow_io import read_flo, read_kitti_flow, write_flo, write_kitti_flow

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 9))
FLOWS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, (*shape, 2), elements=st.floats(-500, 500, width=32)), hnp.arrays(np.bool_, shape)
    )
)


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint16 -> PNG, row by row with each of its filters (specification, section 9)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = image.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    filtered = b""
    for i, row in enumerate(rows):
        left = np.pad(row, (6, 0))[:-6]  # six bytes per pixel
        above = rows[i - 1] if i else np.zeros_like(row)
        corner = np.pad(above, (6, 0))[:-6]
        guess = left + above - corner
        distances = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        prediction = [0 * row, left, above, (left + above) // 2, paeth][i % 5]
        filtered += bytes([i % 5]) + ((row - prediction) % 256).astype(np.uint8).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(filtered)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_flo_by_its_definition(tmp_path: Path) -> None:
    values = [1.5, -2.0, 1e10, 0.0, 3.25, 4.0, 5.0, 6.0, 7.0, float("nan"), 0.0, 0.0]
    (tmp_path / "a.flo").write_bytes(struct.pack("<fii12f", 202021.25, 3, 2, *values))
    flow, valid = read_flo(tmp_path / "a.flo")
    assert valid.tolist() == [[True, False, True], [True, False, True]]
    assert flow.tolist() == [[[1.5, -2], [0, 0], [3.25, 4]], [[5, 6], [0, 0], [0, 0]]]
    assert flow.dtype == np.float32

    write_flo(tmp_path / "b.flo", flow, valid)
    values[2:4] = values[8:10] = [1e10, 1e10]
    assert (tmp_path / "b.flo").read_bytes() == struct.pack("<fii12f", 202021.25, 3, 2, *values)


def test_kitti_by_its_definition(tmp_path: Path) -> None:
    """A file that no library made, with all filters of the format."""
    random = np.random.default_rng(0)
    image = np.concatenate([random.integers(0, 2**16, (11, 13, 2)), random.integers(0, 2, (11, 13, 1))], axis=-1)
    image[0, 0] = [2**15 + 64, 2**15 - 32, 1]
    image[0, 1] = [0, 2**16 - 1, 1]
    (tmp_path / "a.png").write_bytes(png(image))
    flow, valid = read_kitti_flow(tmp_path / "a.png")
    assert flow[0, 0].tolist() == [1, -0.5] and flow[0, 1].tolist() == [-512, 511.984375]
    assert np.array_equal(valid, image[..., 2] == 1)
    assert np.array_equal(flow, (image[..., :2] - 2.0**15) / 64 * valid[..., None])

    write_kitti_flow(tmp_path / "b.png", flow, valid)
    with Image.open(tmp_path / "b.png") as written:  # the upper eight bits of each number
        assert np.array_equal(np.asarray(written), (image * valid[..., None]) >> 8)


@given(FLOWS)
@settings(max_examples=50)
def test_round_trips(example: tuple[np.ndarray, np.ndarray]) -> None:
    flow, valid = example
    with tempfile.TemporaryDirectory() as folder:
        write_flo(Path(folder) / "a.flo", flow, valid)
        write_kitti_flow(Path(folder) / "a.png", flow, valid)
        flo, flo_valid = read_flo(Path(folder) / "a.flo")
        kitti, kitti_valid = read_kitti_flow(f"{folder}/a.png")
    assert np.array_equal(flo_valid, valid) and np.array_equal(kitti_valid, valid)
    assert np.array_equal(flo, flow * valid[..., None])
    assert np.array_equal(kitti, np.rint(flow * 64) / 64 * valid[..., None])


def test_unknown_flow_may_be_anything(tmp_path: Path) -> None:
    flow = np.array([[[np.nan, 1e6], [1, 2]]])
    for write, read, name in ((write_flo, read_flo, "a.flo"), (write_kitti_flow, read_kitti_flow, "a.png")):
        write(tmp_path / name, flow, [[False, True]])
        found, valid = read(tmp_path / name)
        assert found.tolist() == [[[0, 0], [1, 2]]] and valid.tolist() == [[False, True]]
        with pytest.raises(ValueError, match="flow is not finite where it is valid"):
            write(tmp_path / name, flow)
        with pytest.raises(ValueError, match=r"flow has shape \(1, 2\)"):
            write(tmp_path / name, flow[..., 0])
        with pytest.raises(ValueError, match=r"valid has shape \(2,\), and flow \(1, 2, 2\)"):
            write(tmp_path / name, flow, [False, True])
    with pytest.raises(ValueError, match=r"flow from 2.0 to 512.0 must be in \[-512.0, 511.984375\]"):
        write_kitti_flow(tmp_path / "a.png", [[[512, 2]]])


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"PIEH")
    with pytest.raises(ValueError, match=r"a is no \.flo file"):
        read_flo(file)
    file.write_bytes(struct.pack("<fii3f", 202021.25, 2, 1, 0, 0, 0))
    with pytest.raises(ValueError, match="24 bytes, and 2 x 1 pixels in its head"):
        read_flo(file)
    file.write_bytes(struct.pack("<fii", 202021.25, 0, 1))
    with pytest.raises(ValueError, match="is damaged"):
        read_flo(file)
    with pytest.raises(ValueError, match="a is no PNG, or it is damaged"):
        read_kitti_flow(file)
    file.write_bytes(png(np.zeros((2, 2, 3), np.uint16))[:50])
    with pytest.raises(ValueError, match="a is no PNG, or it is damaged"):
        read_kitti_flow(file)
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b.png has rgb24, and flow has three colours with 16 bits each"):
        read_kitti_flow(tmp_path / "b.png")


def test_pixels_of_kitti_flow_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kitti_flow(tmp_path / "a.png", np.zeros((20, 30, 2)))
    assert read_kitti_flow(tmp_path / "a.png")[1].shape == (20, 30)
    monkeypatch.setattr("perceiver.data.vision.flow_io.MAX_PIXELS", 200)
    with pytest.raises(ValueError, match=r"a.png is no PNG, or it is damaged"):
        read_kitti_flow(tmp_path / "a.png")
