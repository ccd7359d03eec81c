"""ImageNet: 1.28 million photographs of 1,000 classes (ILSVRC 2012, arXiv 1409.0575)."""

from typing import Any

from perceiver.data.hub import HubSplits
from perceiver.data.module import former_argument
from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.transforms import IMAGENET_AUGMENTATION, IMAGENET_MIXING, Augmentation, Mixing
from perceiver.moved import moved_names
from perceiver.processing.image import PerceiverImageClassifierInputProcessor

__getattr__ = moved_names(__name__)


@former_argument("dataset_id", "source")
class ImageNetDataModule(ImageDataModule):
    """ImageNet, or any data set with the splits train and validation.

    By default, training images are changed and mixed as in the Perceiver IO paper (arXiv 2107.14795), and validation
    images processed as for its official models: the center crop of 7/8 of the shorter side, resized. Test images are
    the split "validation", too, because those of "test" have no labels.

    Args:
        dataset_dir: folder for what is downloaded, about 150 GB.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with the columns `image` and
            `label`. The hub lets in who has accepted the terms of ImageNet and is logged in.
        revision: commit, tag or branch on the hub.
        image_size: height and width of the images in batches.
        augmentation: random changes of training images.
        mixing: MixUp and CutMix. Labels of training batches are then (B, classes), a probability per class.
        **kwargs: see `ImageDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/imagenet",
        *,
        source: str = "ILSVRC/imagenet-1k",
        revision: str | None = None,
        image_size: int = 224,
        augmentation: Augmentation | None = IMAGENET_AUGMENTATION,
        mixing: Mixing | None = IMAGENET_MIXING,
        **kwargs: Any,
    ):
        image_processor = PerceiverImageClassifierInputProcessor(size=image_size, crop_size=round(image_size * 8 / 7))
        super().__init__(image_processor, (image_size, image_size), augmentation=augmentation, mixing=mixing, **kwargs)
        self.dataset_dir = dataset_dir
        names = {"train": "train", "valid": "validation", "test": "validation"}
        self.raw_data = HubSplits(source, None, revision, names)
