"""Image files in a folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from perceiver.checks import check_size
from perceiver.data.module import former_argument
from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.images import Splits, image_dataset, stratified_splits
from perceiver.processing.image import PerceiverImageClassifierInputProcessor

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


@former_argument("data_dir", "source")
class ImageFolderDataModule(ImageDataModule):
    """Images of any size, in a folder per class, whose name is that of the class.

        source/<class>/*.png            split at random
        source/train/<class>/*.png      as they are, also "valid", "val" or "validation", and "test", where they exist

    Args:
        source: the folder. Files that are no images by their names are left out; so is what begins with a dot.
        image_shape: (H, W, C) of images in batches. C is 3, or 1 for grayscale.
        center_crop: of validation and test images, resize the center crop of 7/8 of the shorter side, as for the
            official models. Otherwise images are resized as a whole.
        image_mean: what is subtracted from pixels in [0, 1], a number or one per channel.
        image_std: what they are divided by afterwards.
        valid_fraction: share of the training images for validation, if there is no folder for it.
        test_fraction: share of the training images for test, if there is no folder for it.
        **kwargs: see `ImageDataModule`.

    Raises:
        ValueError: also later, when the folder is read: if `image_shape` has other channels, or the folder has no
            images, or classes other than those for training.
    """

    def __init__(
        self,
        source: str,
        *,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        center_crop: bool = False,
        image_mean: float | list[float] = 0.5,
        image_std: float | list[float] = 0.5,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.0,
        **kwargs: Any,
    ):
        if not isinstance(image_shape, Sequence) or len(image_shape) != 3 or image_shape[2] not in (1, 3):
            raise ValueError(f"image_shape={image_shape} must be height, width and 1 or 3 channels")
        height, width, channels = image_shape
        check_size(image_shape=(height, width))
        image_processor = PerceiverImageClassifierInputProcessor(
            single_channel=channels == 1,
            do_center_crop=center_crop,
            size={"height": height, "width": width},
            crop_size={"height": round(height * 8 / 7), "width": round(width * 8 / 7)},
            image_mean=image_mean,
            image_std=image_std,
        )
        super().__init__(image_processor, (height, width), **kwargs)
        self.folder = Path(source)
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction

    def load(self) -> Splits:
        folders = split_folders(self.folder)
        label_names = [folder.name for folder in class_folders(folders["train"])]
        splits = {split: read_folder(folder, label_names) for split, folder in folders.items()}
        rest = stratified_splits(
            splits["train"],
            valid_fraction=0.0 if "valid" in splits else self.valid_fraction,
            test_fraction=0.0 if "test" in splits else self.test_fraction,
        )
        return {**splits, **rest}


def split_folders(folder: Path) -> dict[str, Path]:
    """Folders of the splits, each with its class folders. `folder` is "train" itself if it has no such folder.

    A class may be called "train": its folder has images in it, and no folders.
    """
    found = {
        split: inner
        for split, names in SPLIT_FOLDERS.items()
        for inner in (folder / name for name in names)
        if class_folders(inner)
    }
    return found if "train" in found else {"train": folder}


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_folder(folder: Path, label_names: Sequence[str]) -> datasets.Dataset:
    """Finds the images in the class folders of a folder, and in what is below these.

    Raises:
        ValueError: if there is no class folder, or one that has no images or is none of `label_names`.
    """
    paths: list[str] = []
    labels: list[int] = []
    for class_folder in class_folders(folder):
        if class_folder.name not in label_names:
            raise ValueError(f"{class_folder} is no class to train, which are {', '.join(label_names)}")
        below = [file for file in class_folder.rglob("*") if file.suffix.lower() in SUFFIXES]
        files = [str(file) for file in below if "/." not in f"/{file.relative_to(class_folder).as_posix()}"]
        if not files:
            raise ValueError(f"{class_folder} has no images: no files with one of the suffixes {', '.join(SUFFIXES)}")
        paths += sorted(files)
        labels += [label_names.index(class_folder.name)] * len(files)
    if not paths:
        raise ValueError(f"{folder} has no folders with images in them, one per class")
    return image_dataset(paths, labels, label_names)
