"""Data module of clips that are made up (`clips.py`).

Batches are dicts:

    video  (B, T, H, W, 3) float32, from 0 to 1
    audio  (B, samples) float32, from -1 to 1
    label  (B,) int64, the class; -100 in an example that another process has, too

A clip is a function of `seed`, the epoch and its index: the number of workers changes nothing, and a run resumes in the
middle of an epoch (`perceiver/data/loader.py`). Validation and test clips are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.data.module import SplitLoaders
from perceiver.data.multimodal.clips import SHAPES, Clip, synthetic_clip
from perceiver.data.streams import stream
from perceiver.data.text.collator import IGNORE

PURPOSES = {"train": 0, "valid": 1, "test": 2}  # of random numbers: splits have different ones


class SyntheticClips(Dataset[Clip]):
    """Clips of a split.

    An item is asked for with `(epoch, index)`, or with `index` alone, which is epoch 0. With `(epoch, index, True)` it
    is repeated, and has the label -100.

    Args:
        split: "train", "valid" or "test".
        size: number of clips.
        seed: of what is random in them.
        num_frames: frames of a clip.
        image_shape: height and width.
        num_audio_samples: samples.
    """

    def __init__(
        self, split: str, size: int, *, seed: int, num_frames: int, image_shape: tuple[int, int], num_audio_samples: int
    ):
        self.split, self.size, self.seed = split, size, seed
        self.num_frames, self.image_shape, self.num_audio_samples = num_frames, image_shape, num_audio_samples

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, int, bool]) -> Clip:
        epoch, index, *repeated = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.size:
            raise IndexError(f"clip {index} is not in [0, {self.size})")
        random = stream(PURPOSES[self.split], self.seed, epoch, index)
        clip = synthetic_clip(self.num_frames, self.image_shape, self.num_audio_samples, random)
        return replace(clip, label=IGNORE) if any(repeated) else clip


def collate(clips: Sequence[Clip]) -> dict[str, Tensor]:
    """Makes a batch of clips of one size."""
    return {
        "video": torch.from_numpy(np.stack([clip.video for clip in clips])),
        "audio": torch.from_numpy(np.stack([clip.audio for clip in clips])),
        "label": torch.tensor([clip.label for clip in clips]),
    }


class SyntheticClipDataModule(SplitLoaders, pl.LightningDataModule):
    """Serves clips, new ones in each training epoch.

    Args:
        num_frames: frames of a clip.
        image_shape: height and width.
        num_audio_samples: samples.
        num_train_clips: per epoch.
        num_valid_clips: number of validation clips.
        num_test_clips: number of test clips.
        batch_size: training clips per batch.
        valid_batch_size: validation and test clips per batch, `batch_size` by default.
        num_workers: processes that make batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        label_names: names of the classes 0, 1, ...
        num_classes: number of classes.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_frames: int = 8,
        image_shape: tuple[int, int] = (32, 32),
        num_audio_samples: int = 1024,
        num_train_clips: int = 4096,
        num_valid_clips: int = 256,
        num_test_clips: int = 256,
        batch_size: int = 16,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        if len(image_shape) != 2 or min(*image_shape, num_frames, num_audio_samples) < 1:
            raise ValueError(
                f"{num_frames=}, {num_audio_samples=} and image_shape={image_shape}, height and width, must be at "
                "least 1"
            )
        self.sizes = {"train": num_train_clips, "valid": num_valid_clips, "test": num_test_clips}
        if min(self.sizes.values()) < 1:
            raise ValueError(f"{num_train_clips=}, {num_valid_clips=} and {num_test_clips=} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.num_frames = num_frames
        self.image_shape = (image_shape[0], image_shape[1])
        self.num_audio_samples = num_audio_samples
        self.label_names = list(SHAPES)
        self.num_classes = len(SHAPES)
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width and channels of a clip."""
        return self.num_frames, *self.image_shape, 3

    def clips(self, split: str) -> SyntheticClips:
        """The clips of "train", "valid" or "test"."""
        return SyntheticClips(
            split,
            self.named_split(self.sizes, split),
            seed=self.seed,
            num_frames=self.num_frames,
            image_shape=self.image_shape,
            num_audio_samples=self.num_audio_samples,
        )

    def split_examples(self, split: str, *, training: bool) -> SyntheticClips:
        return self.clips(split)

    def collate_function(self, *, training: bool) -> Any:
        return collate
