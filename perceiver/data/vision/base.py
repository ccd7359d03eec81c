"""The base of image data modules: batches `{"image": (B, H, W, C), "label": (B,)}` of a data set's splits.

A leaf says where images come from (`load`) and which image processor turns them into numbers. That one is for inference
as well: `data.image_processor` belongs to a model that was trained with the data.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

from perceiver.checks import check_least, check_size
from perceiver.data.labels import find_label_names
from perceiver.data.module import DataModule
from perceiver.data.vision.images import LABEL, ImageCollator, ImageExamples, Splits, check_images
from perceiver.data.vision.transforms import Augmentation, Mixing
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from perceiver.processing.pillow import MAX_PIXELS


class ImageDataModule(DataModule):
    """Serves labelled images.

    Args:
        image_processor: turns images into numbers.
        image_size: height and width of the images in batches. An image processor that does not resize takes no others.
        augmentation: random changes of training images.
        mixing: mixes the images of a training batch. Its `label` is then (B, classes), a probability per class.
        max_pixels: limit of height x width of a file: a small one may have very many. The default is 256 MiB in RGB.
        **kwargs: see `DataModule`.

    Raises:
        ValueError: if an argument is out of range.
    """

    dataset_dir: str  # for what a leaf downloads

    def __init__(
        self,
        image_processor: PerceiverImageClassifierInputProcessor,
        image_size: tuple[int, int],
        *,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_least(1, max_pixels=max_pixels)
        check_size(image_size=image_size)
        self.image_processor, self.image_size = image_processor, image_size
        self.augmentation, self.mixing, self.max_pixels = augmentation, mixing, max_pixels

    def load(self) -> Splits:
        """Reads which images there are, not the images. A leaf without `raw_data` says here how.

        Returns:
            Splits "train", "valid" and possibly "test", each with the columns `image` and `label`.
        """
        return self.raw_data.load(Path(self.dataset_dir))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image in a batch: (H, W, C), or (C, H, W) if the image processor has channels first."""
        channels = 1 if self.image_processor.single_channel else 3
        return (*self.image_size, channels) if self.image_processor.channels_last else (channels, *self.image_size)

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the classes 0, 1, ..., from the data set."""
        return find_label_names(self._splits, LABEL)

    @cached_property
    def _splits(self) -> Splits:
        return check_images(self.load())

    def prepare_data(self) -> None:
        self._splits  # noqa: B018  # downloads them

    def load_examples(self) -> dict[str, ImageExamples]:
        single_channel, fixed_size = self.image_processor.single_channel, not self.image_processor.do_resize
        examples = partial(ImageExamples, size=self.image_size, fixed_size=fixed_size, max_pixels=self.max_pixels)
        changes = {"train": self.augmentation}
        return {
            split: examples(
                rows,
                self.label_names,
                split=split,
                single_channel=single_channel,
                augmentation=changes.get(split),
                seed=self.seed,
            )
            for split, rows in self._splits.items()
        }

    def collate_function(self, *, training: bool) -> ImageCollator:
        cropped = training and self.augmentation is not None and self.augmentation.min_crop_area is not None
        options = {"do_center_crop": False, "do_resize": False} if cropped else {}
        mixing = self.mixing if training else None
        return ImageCollator(self.image_processor, self.num_classes, mixing=mixing, seed=self.seed, **options)
