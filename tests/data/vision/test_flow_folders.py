"""Folder layouts: tiny ones, as the archives of the data sets have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceiver.data.vision.flow_folders import (
    FlowFiles,
    FlowFolder,
    flying_chairs_files,
    kitti_files,
    sintel_files,
    sintel_scenes,
)
from perceiver.data.vision.flow_io import write_flo
from tests.data.vision.flow_layouts import frame, truth, write_flying_chairs, write_kitti, write_sintel


def test_flying_chairs(tmp_path: Path) -> None:
    write_flying_chairs(tmp_path, "12211")
    train, valid = (flying_chairs_files(str(tmp_path), split) for split in ("train", "valid"))
    assert [files.flow.name for files in train] == [f"0000{i}_flow.flo" for i in (1, 4, 5)]
    assert [files.flow.name for files in valid] == [f"0000{i}_flow.flo" for i in (2, 3)]
    example = FlowFolder(valid)[1]
    assert np.array_equal(example.frames, np.stack([frame(3, 1), frame(3, 2)]))
    assert np.array_equal(example.flow, truth(3)) and example.valid.all()

    (tmp_path / "other.txt").write_text("2\n1\n1\n1\n1\n")
    assert [files.flow.name for files in flying_chairs_files(tmp_path, "valid", tmp_path / "other.txt")] == [
        "00001_flow.flo"
    ]
    for content in ("1\n2\n1\n", "1\n2\n1\n2\n3\n"):
        (tmp_path / "other.txt").write_text(content)
        with pytest.raises(ValueError, match=rf"other.txt has {len(content) // 2} entries for 5 examples"):
            flying_chairs_files(tmp_path, "train", tmp_path / "other.txt")


def test_sintel(tmp_path: Path) -> None:
    write_sintel(tmp_path, {"alley_1": 3, "bamboo_2": 2})
    assert sintel_scenes(tmp_path) == ["alley_1", "bamboo_2"]
    files = sintel_files(tmp_path, "clean", ["alley_1", "bamboo_2"])
    assert [[str(path.relative_to(tmp_path / "training")) for path in example] for example in files] == [
        ["clean/alley_1/frame_0001.png", "clean/alley_1/frame_0002.png", "flow/alley_1/frame_0001.flo"],
        ["clean/alley_1/frame_0002.png", "clean/alley_1/frame_0003.png", "flow/alley_1/frame_0002.flo"],
        ["clean/bamboo_2/frame_0001.png", "clean/bamboo_2/frame_0002.png", "flow/bamboo_2/frame_0001.flo"],
    ]
    (example,) = FlowFolder(sintel_files(tmp_path, "final", ["bamboo_2"]))
    assert np.array_equal(example.frames, np.stack([frame(1), frame(2)]))
    assert np.array_equal(example.flow, truth(1))
    with pytest.raises(FileNotFoundError, match=r"there is no .*cave_4"):
        sintel_files(tmp_path, "clean", ["cave_4"])


@pytest.mark.parametrize("kind", ["flow_occ", "flow_noc"])
def test_kitti(tmp_path: Path, kind: str) -> None:
    write_kitti(tmp_path, 3)
    files = kitti_files(tmp_path, kind)  # type: ignore[arg-type]
    assert [[str(path.relative_to(tmp_path / "training")) for path in example] for example in files] == [
        [f"image_2/00000{i}_10.png", f"image_2/00000{i}_11.png", f"{kind}/00000{i}_10.png"] for i in range(3)
    ]
    example = FlowFolder(files)[2]
    assert np.array_equal(example.frames, np.stack([frame(2, 10), frame(2, 11)]))
    assert example.valid.sum() == (4 if kind == "flow_occ" else 2)
    assert np.array_equal(example.flow, truth(2) * example.valid[..., None])


def test_missing_files(tmp_path: Path) -> None:
    for missing in (
        lambda: flying_chairs_files(tmp_path, "train"),
        lambda: sintel_scenes(tmp_path),
        lambda: kitti_files(tmp_path),
    ):
        with pytest.raises(FileNotFoundError, match=f"there is no {tmp_path}"):
            missing()


def test_files_that_differ_in_size(tmp_path: Path) -> None:
    Image.fromarray(frame(1)).save(tmp_path / "a.png")
    write_flo(tmp_path / "a.flo", truth(1)[:, 1:])
    with pytest.raises(ValueError, match=r"a.flo differ in size: \[\(6, 9\), \(6, 9\), \(6, 8\)\]"):
        FlowFolder([FlowFiles(tmp_path / "a.png", tmp_path / "a.png", tmp_path / "a.flo")])[0]
    Image.fromarray(frame(1)[..., 0]).save(tmp_path / "grey.png")
    write_flo(tmp_path / "a.flo", truth(1))
    example = FlowFolder([FlowFiles(tmp_path / "grey.png", tmp_path / "a.png", tmp_path / "a.flo")])[0]
    assert np.array_equal(example.frames[0], np.repeat(frame(1)[..., :1], 3, axis=-1))


def test_frames_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.ppm"
    file.write_bytes(b"P6 4 3 255 short")
    folder = FlowFolder([FlowFiles(file, file, tmp_path / "a.flo")])
    with pytest.raises(ValueError, match=r"cannot read .*a.ppm: "):
        folder[0]
