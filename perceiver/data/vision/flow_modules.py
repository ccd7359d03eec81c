"""Data modules of optical flow: made up on the fly, or from the folders of FlyingChairs, Sintel and KITTI 2015.

Batches are dicts, x (right) first and y (down) second in flow:

    x      (B, 2, 27, H, W) float32, features of both frames as `OpticalFlowProcessor` makes them
    flow   (B, H, W, 2) float32, pixels
    valid  (B, H, W) bool, where flow is known; nowhere in an example that another process has, too

Synthetic examples, crops and augmentation are functions of `seed`, the epoch and the index of an example. Those of
validation and test are the same in every epoch.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from perceiver.checks import check_least, check_size
from perceiver.data.examples import Examples
from perceiver.data.module import DataModule, former_argument
from perceiver.data.streams import SPLITS, stream
from perceiver.data.vision.flow_examples import FlowExample, crop, jitter_colors, mirror
from perceiver.data.vision.flow_folders import FlowFolder, flying_chairs_files, kitti_files, sintel_files, sintel_scenes
from perceiver.data.vision.flow_synthetic import SyntheticFlow
from perceiver.processing.optical_flow import pixel_features

MIRROR_PROBS = (0.5, 0.1)  # left and right, up and down: scenes upside down are rare
WholeExamples = FlowFolder | SyntheticFlow  # as they are in their files, or drawn


@dataclass(eq=False)
class FlowExamples(Examples[FlowExample]):
    """Random parts of examples to train, the middle of each otherwise.

    Args:
        split: "train", "valid" or "test".
        whole: the examples.
        seed: of what is random in them and in what follows.
        image_shape: height and width of the parts.
        random_mirror: see `OpticalFlowDataModule`.
        color_jitter: see `OpticalFlowDataModule`.
    """

    split: str
    whole: WholeExamples
    seed: int
    image_shape: tuple[int, int]
    random_mirror: bool
    color_jitter: float

    def __len__(self) -> int:
        return len(self.whole)

    def example(self, epoch: int, index: int) -> FlowExample:
        random = stream(SPLITS[self.split], self.seed, epoch, index)
        example = self.whole.example(index, random)
        if self.split != "train":
            return crop(example, self.image_shape, lambda n: (n - 1) // 2)
        example = crop(example, self.image_shape, lambda n: int(random.integers(n)))
        if self.random_mirror:
            horizontally, vertically = random.uniform(size=2) < MIRROR_PROBS
            example = mirror(example, horizontally=horizontally, vertically=vertically)
        return jitter_colors(example, self.color_jitter, random) if self.color_jitter else example

    def repeated(self, example: FlowExample) -> FlowExample:
        return replace(example, valid=np.zeros_like(example.valid))


def collate(examples: Sequence[FlowExample]) -> dict[str, Tensor]:
    """Makes a batch of examples of one size."""
    arrays = zip(*((example.frames, example.flow, example.valid) for example in examples), strict=True)
    frames, flow, valid = (torch.from_numpy(np.stack(array)) for array in arrays)
    return {"x": pixel_features(frames), "flow": flow, "valid": valid}


class OpticalFlowDataModule(DataModule):
    """Serves examples of optical flow; a leaf says where they come from.

    Training takes a random part of each example, validation and test the one in the middle. For the flow of whole
    frames see `FlowFolder` and `OpticalFlowProcessor`.

    Args:
        image_shape: height and width of the parts.
        batch_size: training examples per batch.
        random_mirror: in training, swap left and right in one of two examples, up and down in one of ten.
        color_jitter: in training, change contrast, brightness and colours of both frames by up to this share.
        **kwargs: see `DataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int] = (368, 496),
        batch_size: int = 8,
        *,
        random_mirror: bool = True,
        color_jitter: float = 0.2,
        **kwargs: Any,
    ):
        super().__init__(batch_size=batch_size, **kwargs)
        check_size(image_shape=image_shape)
        if not 0 <= color_jitter < 1:
            raise ValueError(f"color_jitter={color_jitter} must be in [0, 1)")
        self.image_shape = (image_shape[0], image_shape[1])
        self.random_mirror, self.color_jitter = random_mirror, color_jitter

    @abstractmethod
    def load(self) -> Mapping[str, WholeExamples]:
        """Examples by split, "train", "valid" and possibly "test"."""

    def load_examples(self) -> dict[str, FlowExamples]:
        settings = self.seed, self.image_shape, self.random_mirror, self.color_jitter
        return {split: FlowExamples(split, whole, *settings) for split, whole in self.load().items()}

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
        super().__init__(image_shape, random_mirror=False, color_jitter=0.0, **kwargs)
        if not 0 < max_displacement < math.inf:
            raise ValueError(f"max_displacement={max_displacement} must be positive and finite")
        self.max_displacement = max_displacement
        self.num_examples = {"train": num_train_examples, "valid": num_valid_examples, "test": num_test_examples}
        check_least(1, **{f"num_{split}_examples": number for split, number in self.num_examples.items()})

    def load(self) -> dict[str, SyntheticFlow]:
        settings = self.image_shape, self.max_displacement
        return {split: SyntheticFlow(number, *settings) for split, number in self.num_examples.items()}


@former_argument("dataset_dir", "source")
class FlyingChairsDataModule(OpticalFlowDataModule):
    """FlyingChairs, 22,872 examples of 384x512 pixels, 640 of which validate: see `flying_chairs_files`.

    Args:
        source: the folder with `data` in it.
        split_file: which examples validate, `FlyingChairs_train_val.txt` in `source` by default.
        **kwargs: see `OpticalFlowDataModule`.
    """

    def __init__(self, source: str, split_file: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.folder, self.split_file = source, split_file

    def load(self) -> dict[str, FlowFolder]:
        train = flying_chairs_files(self.folder, "train", self.split_file)
        valid = flying_chairs_files(self.folder, "valid", self.split_file)
        return {"train": FlowFolder(train), "valid": FlowFolder(valid)}


@former_argument("dataset_dir", "source")
class SintelFlowDataModule(OpticalFlowDataModule):
    """Sintel, 1,041 examples of 436x1024 pixels in 23 scenes: see `sintel_files`.

    Args:
        source: the folder with `training` in it.
        rendering: "clean", or "final" with blur and atmosphere.
        valid_scenes: scenes that validate, and don't train.
        **kwargs: see `OpticalFlowDataModule`.

    Raises:
        ValueError: if an argument is out of range; in `setup`, if there is no such scene or none is left to train.
    """

    def __init__(
        self,
        source: str,
        rendering: Literal["clean", "final"] = "final",
        valid_scenes: Sequence[str] = ("ambush_2", "ambush_6", "bamboo_2", "cave_4", "market_6", "temple_2"),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.folder, self.rendering, self.valid_scenes = source, rendering, tuple(valid_scenes)

    def load(self) -> dict[str, FlowFolder]:
        scenes = sintel_scenes(self.folder)
        train_scenes = [scene for scene in scenes if scene not in self.valid_scenes]
        if not set(self.valid_scenes) <= set(scenes) or not train_scenes or not self.valid_scenes:
            raise ValueError(f"valid_scenes={self.valid_scenes} must be some of {scenes}, and not all")
        parts = {"train": train_scenes, "valid": self.valid_scenes}
        return {split: FlowFolder(sintel_files(self.folder, self.rendering, s)) for split, s in parts.items()}


@former_argument("dataset_dir", "source")
class KittiFlowDataModule(OpticalFlowDataModule):
    """KITTI 2015, 200 examples of about 375x1242 pixels with sparse flow: see `kitti_files`.

    Args:
        source: the folder with `training` in it.
        flow: "flow_occ", of all pixels, or "flow_noc", without those that are not seen in the second frame.
        valid_every: every so many examples one validates, and doesn't train.
        **kwargs: see `OpticalFlowDataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, source: str, flow: Literal["flow_occ", "flow_noc"] = "flow_occ", valid_every: int = 5, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_least(2, valid_every=valid_every)
        self.folder, self.flow, self.valid_every = source, flow, valid_every

    def load(self) -> dict[str, FlowFolder]:
        files = kitti_files(self.folder, self.flow)
        train = [example for i, example in enumerate(files) if i % self.valid_every]
        return {"train": FlowFolder(train), "valid": FlowFolder(files[:: self.valid_every])}
