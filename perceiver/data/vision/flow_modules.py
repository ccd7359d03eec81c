"""Data modules of optical flow: made up on the fly, or from the folders of FlyingChairs, Sintel and KITTI 2015.

Batches are dicts, x (right) first and y (down) second in flow:

    x      (B, 2, 27, H, W) float32, features of both frames as `OpticalFlowProcessor` makes them
    flow   (B, H, W, 2) float32, pixels
    valid  (B, H, W) bool, where flow is known; nowhere in an example that another process has, too

Order, synthetic examples, crops and augmentation are functions of `seed`, the epoch and the index of an example: the
number of workers changes nothing, and a run resumes in the middle of an epoch (`perceiver/data/loader.py`).
Validation and test examples are the same in every epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.data.module import SplitLoaders
from perceiver.data.streams import stream
from perceiver.data.vision.flow_examples import FlowExample, crop, jitter_colors, mirror
from perceiver.data.vision.flow_folders import (
    FlowFiles,
    FlowFolder,
    flying_chairs_files,
    kitti_files,
    sintel_files,
    sintel_scenes,
)
from perceiver.data.vision.flow_synthetic import synthetic_example
from perceiver.processing.optical_flow import pixel_features

PURPOSES = {"train": 0, "valid": 1, "test": 2}  # of random numbers: splits have different ones
MIRROR_PROBS = (0.5, 0.1)  # left and right, up and down: scenes upside down are rare


class FlowExamples(Dataset[FlowExample], ABC):
    """Examples of a split.

    An item is asked for with `(epoch, index)`, or with `index` alone, which is epoch 0. With `(epoch, index, True)` it
    is repeated, and valid nowhere.

    Args:
        split: "train", "valid" or "test".
        size: number of examples.
        seed: of what is random in them.
    """

    def __init__(self, split: str, size: int, seed: int):
        self.split, self.size, self.seed = split, size, seed

    @abstractmethod
    def example(self, index: int, random: np.random.Generator) -> FlowExample:
        """Makes an example; `random` belongs to it and to the epoch."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, int, bool]) -> FlowExample:
        epoch, index, *repeated = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} is not in [0, {self.size})")
        example = self.example(index, stream(PURPOSES[self.split], self.seed, epoch, index))
        return replace(example, valid=np.zeros_like(example.valid)) if any(repeated) else example


class SyntheticExamples(FlowExamples):
    """See `synthetic_example`."""

    def __init__(self, split: str, size: int, seed: int, image_shape: tuple[int, int], max_displacement: float):
        super().__init__(split, size, seed)
        self.image_shape, self.max_displacement = image_shape, max_displacement

    def example(self, index: int, random: np.random.Generator) -> FlowExample:
        return synthetic_example(self.image_shape, self.max_displacement, random)


class FolderExamples(FlowExamples):
    """Random parts of the examples of a folder to train, the middle of each otherwise.

    Args:
        split: "train", "valid" or "test".
        folder: the examples.
        seed: of what is random in them.
        image_shape: height and width of the parts.
        random_mirror: in training, swap left and right in one of two examples, up and down in one of ten.
        color_jitter: in training, change contrast, brightness and colours by up to this share.
    """

    def __init__(
        self,
        split: str,
        folder: FlowFolder,
        seed: int,
        image_shape: tuple[int, int],
        random_mirror: bool,
        color_jitter: float,
    ):
        super().__init__(split, len(folder), seed)
        self.folder, self.image_shape = folder, image_shape
        self.random_mirror, self.color_jitter = random_mirror, color_jitter

    def example(self, index: int, random: np.random.Generator) -> FlowExample:
        whole = self.folder[index]
        if self.split != "train":
            return crop(whole, self.image_shape, lambda n: (n - 1) // 2)
        example = crop(whole, self.image_shape, lambda n: int(random.integers(n)))
        if self.random_mirror:
            horizontally, vertically = random.uniform(size=2) < MIRROR_PROBS
            example = mirror(example, horizontally=horizontally, vertically=vertically)
        return jitter_colors(example, self.color_jitter, random) if self.color_jitter else example


def collate(examples: Sequence[FlowExample]) -> dict[str, Tensor]:
    """Makes a batch of examples of one size."""
    frames = torch.from_numpy(np.stack([example.frames for example in examples]))
    return {
        "x": pixel_features(frames),
        "flow": torch.from_numpy(np.stack([example.flow for example in examples])),
        "valid": torch.from_numpy(np.stack([example.valid for example in examples])),
    }


class OpticalFlowDataModule(SplitLoaders, pl.LightningDataModule):
    """Serves examples of optical flow; a leaf says where they come from.

    Args:
        image_shape: height and width of examples.
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        examples: examples by split, after `setup`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        batch_size: int = 8,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        if len(image_shape) != 2 or min(image_shape) < 1:
            raise ValueError(f"image_shape={image_shape} must be a height and a width, both at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.image_shape = (image_shape[0], image_shape[1])
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.examples: dict[str, FlowExamples] = {}

    @abstractmethod
    def load(self) -> dict[str, FlowExamples]:
        """Examples by split, "train", "valid" and possibly "test"."""

    def setup(self, stage: str | None = None) -> None:
        self.examples = self.load()

    def split_examples(self, split: str, *, training: bool) -> FlowExamples:
        return self.named_split(self.examples, split)

    def collate_function(self, *, training: bool) -> Any:
        return collate


class SyntheticFlowDataModule(OpticalFlowDataModule):
    """Random textures in random smooth motion (`flow_synthetic.py`), new ones in each training epoch.

    Args:
        image_shape: height and width of examples.
        max_displacement: length of flow vectors in pixels, at most.
        num_train_examples: per epoch.
        num_valid_examples: number of validation examples.
        num_test_examples: number of test examples.
        **kwargs: see `OpticalFlowDataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int] = (48, 64),
        max_displacement: float = 8.0,
        num_train_examples: int = 10000,
        num_valid_examples: int = 500,
        num_test_examples: int = 500,
        **kwargs: Any,
    ):
        super().__init__(image_shape, **kwargs)
        if not max_displacement > 0:
            raise ValueError(f"max_displacement={max_displacement} must be positive")
        self.max_displacement = max_displacement
        self.num_examples = {"train": num_train_examples, "valid": num_valid_examples, "test": num_test_examples}
        for split, number in self.num_examples.items():
            if number < 1:
                raise ValueError(f"num_{split}_examples={number} must be at least 1")

    def load(self) -> dict[str, FlowExamples]:
        return {
            split: SyntheticExamples(split, number, self.seed, self.image_shape, self.max_displacement)
            for split, number in self.num_examples.items()
        }


class FlowFolderDataModule(OpticalFlowDataModule):
    """Serves parts of the examples in a folder; a leaf says which files validate. There is no test split.

    Training takes a random part of each example, validation the one in the middle. For the flow of whole frames see
    `FlowFolder` and `OpticalFlowProcessor`.

    Args:
        dataset_dir: the folder.
        image_shape: height and width of the parts.
        random_mirror: in training, swap left and right in one of two examples, up and down in one of ten.
        color_jitter: in training, change contrast, brightness and colours of both frames by up to this share.
        **kwargs: see `OpticalFlowDataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        dataset_dir: str,
        image_shape: tuple[int, int] = (368, 496),
        random_mirror: bool = True,
        color_jitter: float = 0.2,
        **kwargs: Any,
    ):
        super().__init__(image_shape, **kwargs)
        if not 0 <= color_jitter < 1:
            raise ValueError(f"color_jitter={color_jitter} must be in [0, 1)")
        self.dataset_dir = dataset_dir
        self.random_mirror = random_mirror
        self.color_jitter = color_jitter

    @abstractmethod
    def files(self) -> dict[str, list[FlowFiles]]:
        """Files of the examples "train" and "valid"."""

    def load(self) -> dict[str, FlowExamples]:
        return {
            split: FolderExamples(
                split, FlowFolder(files), self.seed, self.image_shape, self.random_mirror, self.color_jitter
            )
            for split, files in self.files().items()
        }


class FlyingChairsDataModule(FlowFolderDataModule):
    """FlyingChairs, 22,872 examples of 384x512 pixels, 640 of which validate: see `flying_chairs_files`.

    Args:
        dataset_dir: the folder with `data` in it.
        split_file: which examples validate, `FlyingChairs_train_val.txt` in `dataset_dir` by default.
        **kwargs: see `FlowFolderDataModule`.
    """

    def __init__(self, dataset_dir: str, split_file: str | None = None, **kwargs: Any):
        super().__init__(dataset_dir, **kwargs)
        self.split_file = split_file

    def files(self) -> dict[str, list[FlowFiles]]:
        return {
            "train": flying_chairs_files(self.dataset_dir, "train", self.split_file),
            "valid": flying_chairs_files(self.dataset_dir, "valid", self.split_file),
        }


class SintelFlowDataModule(FlowFolderDataModule):
    """Sintel, 1,041 examples of 436x1024 pixels in 23 scenes: see `sintel_files`.

    Args:
        dataset_dir: the folder with `training` in it.
        rendering: "clean", or "final" with blur and atmosphere.
        valid_scenes: scenes that validate, and don't train.
        **kwargs: see `FlowFolderDataModule`.

    Raises:
        ValueError: if an argument is out of range; in `setup`, if there is no such scene or none is left to train.
    """

    def __init__(
        self,
        dataset_dir: str,
        rendering: Literal["clean", "final"] = "final",
        valid_scenes: Sequence[str] = ("ambush_2", "ambush_6", "bamboo_2", "cave_4", "market_6", "temple_2"),
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        self.rendering = rendering
        self.valid_scenes = tuple(valid_scenes)

    def files(self) -> dict[str, list[FlowFiles]]:
        scenes = sintel_scenes(self.dataset_dir)
        train_scenes = [scene for scene in scenes if scene not in self.valid_scenes]
        if not set(self.valid_scenes) <= set(scenes) or not train_scenes or not self.valid_scenes:
            raise ValueError(f"valid_scenes={self.valid_scenes} must be some of {scenes}, and not all")
        return {
            "train": sintel_files(self.dataset_dir, self.rendering, train_scenes),
            "valid": sintel_files(self.dataset_dir, self.rendering, self.valid_scenes),
        }


class KittiFlowDataModule(FlowFolderDataModule):
    """KITTI 2015, 200 examples of about 375x1242 pixels with sparse flow: see `kitti_files`.

    Args:
        dataset_dir: the folder with `training` in it.
        flow: "flow_occ", of all pixels, or "flow_noc", without those that are not seen in the second frame.
        valid_every: every so many examples one validates, and doesn't train.
        **kwargs: see `FlowFolderDataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, dataset_dir: str, flow: Literal["flow_occ", "flow_noc"] = "flow_occ", valid_every: int = 5, **kwargs: Any
    ):
        super().__init__(dataset_dir, **kwargs)
        if valid_every < 2:
            raise ValueError(f"valid_every={valid_every} must be at least 2")
        self.flow = flow
        self.valid_every = valid_every

    def files(self) -> dict[str, list[FlowFiles]]:
        files = kitti_files(self.dataset_dir, self.flow)
        return {
            "train": [example for i, example in enumerate(files) if i % self.valid_every],
            "valid": files[:: self.valid_every],
        }
