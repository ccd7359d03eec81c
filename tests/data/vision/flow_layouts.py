"""Tiny data sets of optical flow in the layouts of FlyingChairs, Sintel and KITTI 2015."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from perceiver.data.vision.flow_io import write_flo, write_kitti_flow

H, W = 6, 9


def frame(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def truth(*seed: int) -> np.ndarray:
    """Flow in steps of 1/64 pixel."""
    steps = np.random.default_rng(seed).integers(-640, 640, (H, W, 2))
    return (steps / 64).astype(np.float32)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_flying_chairs(folder: Path, split: str) -> None:
    """An example for each digit: 1 to train, 2 to validate."""
    for i in range(1, len(split) + 1):
        for k in (1, 2):
            save(folder / "data" / f"{i:05}_img{k}.ppm", frame(i, k))
        write_flo(folder / "data" / f"{i:05}_flow.flo", truth(i))
    (folder / "FlyingChairs_train_val.txt").write_text("\n".join(split) + "\n")


def write_sintel(folder: Path, scenes: Mapping[str, int]) -> None:
    """Scenes of so many frames; in `clean` there are others than in `final`."""
    for scene, num_frames in scenes.items():
        (folder / "training" / "flow" / scene).mkdir(parents=True)
        for i in range(1, num_frames + 1):
            save(folder / "training" / "final" / scene / f"frame_{i:04}.png", frame(i))
            save(folder / "training" / "clean" / scene / f"frame_{i:04}.png", frame(i, 0))
            if i < num_frames:
                write_flo(folder / "training" / "flow" / scene / f"frame_{i:04}.flo", truth(i))


def write_kitti(folder: Path, size: int) -> None:
    """Flow is known at four pixels, two of which are seen in the second frame."""
    for i in range(size):
        for k in (10, 11):
            save(folder / "training" / "image_2" / f"{i:06}_{k}.png", frame(i, k))
        valid = np.zeros((H, W), bool)
        for name, last in (("flow_noc", 2), ("flow_occ", 4)):
            valid[3, :last] = True
            (folder / "training" / name).mkdir(parents=True, exist_ok=True)
            write_kitti_flow(folder / "training" / name / f"{i:06}_10.png", truth(i), valid)
