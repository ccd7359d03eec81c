"""Data sets with ground truth, in the folders that their archives unpack to, as map-style data sets.

FlyingChairs (arXiv 1504.06852), Sintel (Butler et al., ECCV 2012), KITTI 2015 (Menze and Geiger, CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from perceiver.data.vision.flow_examples import FlowExample
from perceiver.data.vision.flow_io import read_flo, read_kitti_flow
from perceiver.processing.pillow import UNREADABLE, read_image


class FlowFiles(NamedTuple):
    """The files of an example."""

    frame_1: Path
    frame_2: Path
    flow: Path


class FlowFolder(torch.utils.data.Dataset[FlowExample]):
    """Examples from files, which are read when an example is asked for.

    Args:
        files: see `flying_chairs_files`, `sintel_files`, `kitti_files`. Flow in a `.png` is KITTI's, otherwise `.flo`.

    Raises:
        ValueError: where an example is asked for whose files are damaged or differ in size.
    """

    def __init__(self, files: Sequence[FlowFiles]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> FlowExample:
        files = self.files[index]
        frame_1, frame_2 = _read_frame(files.frame_1), _read_frame(files.frame_2)
        flow, valid = read_kitti_flow(files.flow) if files.flow.suffix == ".png" else read_flo(files.flow)
        sizes = [frame_1.shape[:2], frame_2.shape[:2], valid.shape]
        if len(set(sizes)) > 1:
            raise ValueError(f"{', '.join(map(str, files))} differ in size: {sizes}")
        return FlowExample(np.stack([frame_1, frame_2]), flow, valid)

    def example(self, index: int, random: np.random.Generator) -> FlowExample:
        """The same, with nothing random in it."""
        return self[index]


def _read_frame(file: Path) -> npt.NDArray[np.uint8]:
    try:
        return np.asarray(read_image(file, single_channel=False))
    except UNREADABLE as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"cannot read {file}: {error}") from error


def flying_chairs_files(
    folder: str | PathLike[str], split: Literal["train", "valid"], split_file: str | PathLike[str] | None = None
) -> list[FlowFiles]:
    """Files of FlyingChairs, `data/00001_{img1.ppm,img2.ppm,flow.flo}`.

    Args:
        folder: the one with `data` in it.
        split: which examples.
        split_file: a line per example, 1 to train and 2 to validate; `FlyingChairs_train_val.txt` in `folder` by
            default.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: if there are not as many examples as lines, or a line is neither 1 nor 2.
    """
    folder = Path(folder)
    split_file = folder / "FlyingChairs_train_val.txt" if split_file is None else Path(split_file)
    flows = _some(folder, "data/*_flow.flo")
    lines = split_file.read_text(encoding="utf-8-sig").split()
    if len(lines) != len(flows) or set(lines) - {"1", "2"}:
        raise ValueError(f"{split_file} has {len(lines)} entries for {len(flows)} examples; each must be 1 or 2")
    number = {"train": "1", "valid": "2"}[split]
    chosen = [flow for flow, line in zip(flows, lines, strict=True) if line == number]
    ends = ("_img1.ppm", "_img2.ppm", "_flow.flo")
    return [FlowFiles(*(flow.with_name(flow.name.replace(ends[2], end)) for end in ends)) for flow in chosen]


def sintel_scenes(folder: str | PathLike[str]) -> list[str]:
    """Names of Sintel's scenes.

    Args:
        folder: the one with `training` in it.

    Raises:
        FileNotFoundError: if there is none.
    """
    return [path.name for path in _some(Path(folder) / "training" / "flow", "*")]


def sintel_files(
    folder: str | PathLike[str], rendering: Literal["clean", "final"], scenes: Sequence[str]
) -> list[FlowFiles]:
    """Files of Sintel, `training/<rendering>/<scene>/frame_0001.png` and `training/flow/<scene>/frame_0001.flo`.

    Args:
        folder: the one with `training` in it.
        rendering: "clean", or "final" with blur and atmosphere.
        scenes: names of scenes, see `sintel_scenes`.

    Raises:
        FileNotFoundError: if a scene is missing.
    """
    training = Path(folder) / "training"
    return [
        FlowFiles(*frames, training / "flow" / scene / f"{frames[0].stem}.flo")
        for scene in scenes
        for frames in pairwise(_some(training / rendering / scene, "frame_*.png"))
    ]


def kitti_files(folder: str | PathLike[str], flow: Literal["flow_occ", "flow_noc"] = "flow_occ") -> list[FlowFiles]:
    """Files of KITTI 2015, `training/image_2/000000_{10,11}.png` and `training/flow_occ/000000_10.png`.

    Args:
        folder: the one with `training` in it.
        flow: "flow_occ", of all pixels, or "flow_noc", without those that are not seen in the second frame.

    Raises:
        FileNotFoundError: if there are no such files.
    """
    images = Path(folder) / "training" / "image_2"
    return [
        FlowFiles(images / path.name, images / path.name.replace("_10", "_11"), path)
        for path in _some(Path(folder) / "training" / flow, "*_10.png")
    ]


def _some(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder in order."""
    if not (found := sorted(folder.glob(pattern))):
        raise FileNotFoundError(f"there is no {folder / pattern}")
    return found
