"""Data module of clips that are made up (`clips.py`).

Batches are dicts:

    video  (B, T, H, W, 3) float32, from 0 to 1
    audio  (B, samples) float32, from -1 to 1
    label  (B,) int64, the class; -100 in an example that another process has, too

A clip is a function of `seed`, the epoch and its index. Validation and test clips are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.checks import check_least, check_size
from perceiver.data.examples import IGNORE, Examples
from perceiver.data.module import DataModule
from perceiver.data.multimodal.clips import SHAPES, Clip, synthetic_clip
from perceiver.data.streams import SPLITS, stream


@dataclass(eq=False)
class SyntheticClips(Examples[Clip]):
    """Clips of a split.

    Args:
        split: "train", "valid" or "test".
        size: number of clips.
        seed: of what is random in them.
        num_frames: frames of a clip.
        image_shape: height and width.
        num_audio_samples: samples.
    """

    split: str
    size: int
    seed: int
    num_frames: int
    image_shape: tuple[int, int]
    num_audio_samples: int

    def __len__(self) -> int:
        return self.size

    def example(self, epoch: int, index: int) -> Clip:
        random = stream(SPLITS[self.split], self.seed, epoch, index)
        return synthetic_clip(self.num_frames, self.image_shape, self.num_audio_samples, random)

    def repeated(self, example: Clip) -> Clip:
        return replace(example, label=IGNORE)


def collate(clips: Sequence[Clip]) -> dict[str, Tensor]:
    """Makes a batch of clips of one size."""
    videos, audio, labels = zip(*((clip.video, clip.audio, clip.label) for clip in clips), strict=True)
    arrays = {"video": videos, "audio": audio, "label": labels}
    return {name: torch.from_numpy(np.stack(array)) for name, array in arrays.items()}


class SyntheticClipDataModule(DataModule):
    """Serves clips, new ones in each training epoch.

    Args:
        num_frames: frames of a clip.
        image_shape: height and width.
        num_audio_samples: samples.
        num_train_clips: per epoch.
        num_valid_clips: number of validation clips.
        num_test_clips: number of test clips.
        batch_size: training clips per batch.
        **kwargs: see `DataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    label_names = list(SHAPES)

    def __init__(
        self,
        num_frames: int = 8,
        image_shape: tuple[int, int] = (32, 32),
        num_audio_samples: int = 1024,
        num_train_clips: int = 4096,
        num_valid_clips: int = 256,
        num_test_clips: int = 256,
        batch_size: int = 16,
        **kwargs: Any,
    ):
        super().__init__(batch_size=batch_size, **kwargs)
        check_size(image_shape=image_shape)
        check_least(1, num_frames=num_frames, num_audio_samples=num_audio_samples)
        check_least(1, num_train_clips=num_train_clips, num_valid_clips=num_valid_clips, num_test_clips=num_test_clips)
        self.num_frames, self.num_audio_samples = num_frames, num_audio_samples
        self.image_shape = (image_shape[0], image_shape[1])
        self.sizes = {"train": num_train_clips, "valid": num_valid_clips, "test": num_test_clips}
        self.examples = self.load_examples()

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width and channels of a clip."""
        return self.num_frames, *self.image_shape, 3

    def load_examples(self) -> dict[str, SyntheticClips]:
        shape = self.num_frames, self.image_shape, self.num_audio_samples
        return {split: SyntheticClips(split, size, self.seed, *shape) for split, size in self.sizes.items()}

    def clips(self, split: str) -> SyntheticClips:
        """The clips of "train", "valid" or "test"."""
        return self.named_split(split)

    def collate_function(self, *, training: bool) -> Any:
        return collate
