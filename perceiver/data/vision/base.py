"""The base of image data modules: batches `{"image": (B, H, W, C), "label": (B,)}` of a data set's splits.

A leaf says where images come from (`load`) and which image processor turns them into numbers. That one is for inference
as well: `data.image_processor` belongs to a model that was trained with the data.

Order, random changes and mixtures depend on `seed` and the epoch, not on the number of workers, and a run resumes in
the middle of an epoch (`perceiver/data/loader.py`).
"""

from abc import abstractmethod
from functools import cached_property

import pytorch_lightning as pl

from perceiver.data.module import SplitLoaders
from perceiver.data.text.encoders import find_label_names
from perceiver.data.vision.images import LABEL, ImageCollator, ImageExamples, Splits, check_images
from perceiver.data.vision.transforms import Augmentation, Mixing
from perceiver.processing.image import PerceiverImageClassifierInputProcessor


class ImageDataModule(SplitLoaders, pl.LightningDataModule):
    """Serves labelled images.

    Args:
        image_processor: turns images into numbers.
        image_size: height and width of the images in batches. An image processor that does not resize takes no others.
        augmentation: random changes of training images.
        mixing: mixes the images of a training batch. Its `label` is then (B, classes), a probability per class.
        batch_size: training images per batch.
        valid_batch_size: validation and test images per batch, `batch_size` by default.
        num_workers: processes that read images.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        examples: examples by split, after `setup`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        image_processor: PerceiverImageClassifierInputProcessor,
        image_size: tuple[int, int],
        *,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        if min(image_size) < 1:
            raise ValueError(f"images of {image_size[0]} x {image_size[1]} pixels must have at least 1 x 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.image_processor = image_processor
        self.image_size = image_size
        self.augmentation = augmentation
        self.mixing = mixing
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.examples: dict[str, ImageExamples] = {}

    @abstractmethod
    def load(self) -> Splits:
        """Reads which images there are, not the images.

        Returns:
            Splits "train", "valid" and possibly "test", each with the columns `image` and `label`.
        """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image in a batch: (H, W, C), or (C, H, W) if the image processor has channels first."""
        channels = 1 if self.image_processor.single_channel else 3
        return (*self.image_size, channels) if self.image_processor.channels_last else (channels, *self.image_size)

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the classes 0, 1, ..., from the data set."""
        return find_label_names(self._splits, LABEL)

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @cached_property
    def _splits(self) -> Splits:
        splits = self.load()
        check_images(splits)
        return splits

    def prepare_data(self) -> None:
        self._splits  # noqa: B018  # downloads them

    def setup(self, stage: str | None = None) -> None:
        self.examples = {
            split: ImageExamples(
                rows,
                self.label_names,
                split=split,
                size=self.image_size,
                fixed_size=not self.image_processor.do_resize,
                single_channel=self.image_processor.single_channel,
                augmentation=self.augmentation if split == "train" else None,
                seed=self.seed,
            )
            for split, rows in self._splits.items()
        }

    def split_examples(self, split: str, *, training: bool) -> ImageExamples:
        return self.named_split(self.examples, split)

    def collate_function(self, *, training: bool) -> ImageCollator:
        if not training:
            return ImageCollator(self.image_processor, self.num_classes)
        cropped = self.augmentation is not None and self.augmentation.min_crop_area is not None
        return ImageCollator(
            self.image_processor,
            self.num_classes,
            mixing=self.mixing,
            seed=self.seed,
            **({"do_center_crop": False, "do_resize": False} if cropped else {}),
        )
