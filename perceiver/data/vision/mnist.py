"""MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun et al., 1998)."""

from typing import Any

from perceiver.data.hub import HubSplits
from perceiver.data.module import former_argument
from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.transforms import Augmentation
from perceiver.moved import moved_names
from perceiver.processing import image  # as a module: `MNISTPreprocessor` has moved from here

__getattr__ = moved_names(__name__)

SIZE = 28


@former_argument("dataset_id", "source")
class MNISTDataModule(ImageDataModule):
    """MNIST, or any data set with the splits train and test and images of its size.

    Validation and test images are both the split "test", as in the published recipe: choose no settings by it that you
    report a test result for.

    Args:
        dataset_dir: folder for what is downloaded.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with the columns `image` and
            `label`.
        revision: commit, tag or branch on the hub.
        normalize: scale pixels to [-1, 1]; otherwise they are in [0, 1].
        channels_last: batches are (B, 28, 28, 1); otherwise (B, 1, 28, 28).
        random_crop: pad training images by that many pixels and crop them to 28 x 28 at a random place.
        **kwargs: see `ImageDataModule`.

    Raises:
        ValueError: if `random_crop` is out of range.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/mnist",
        *,
        source: str = "ylecun/mnist",
        revision: str | None = None,
        normalize: bool = True,
        channels_last: bool = True,
        random_crop: int | None = None,
        **kwargs: Any,
    ):
        if random_crop is not None and not 0 < random_crop < SIZE // 2:
            raise ValueError(f"random_crop={random_crop}, the pixels that images are padded by, must be in [1, 14)")
        image_processor = image.MNISTPreprocessor(normalize=normalize, channels_last=channels_last).image_processor
        augmentation = None if random_crop is None else Augmentation(max_shift=random_crop)
        super().__init__(image_processor, (SIZE, SIZE), augmentation=augmentation, **kwargs)
        self.dataset_dir = dataset_dir
        self.raw_data = HubSplits(source, None, revision, {"train": "train", "valid": "test", "test": "test"})
