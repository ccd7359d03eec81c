"""Labelled images: data sets -> examples -> batches `{"image": (B, H, W, C), "label": (B,)}`.

A split is a `datasets.Dataset` with a column `image`, of files or of what is in them, and a column `label`. An image is
read when its example is asked for, in a worker process, and changed at random if it is for training. The image
processor, which inference uses as well, turns a batch of images into numbers.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from PIL import ImageOps
from torch import Tensor

from perceiver.data.examples import IGNORE, Examples
from perceiver.data.labels import column_feature, label_numbers
from perceiver.data.streams import stream
from perceiver.data.vision.transforms import Augmentation, Mixing
from perceiver.processing.image import PerceiverImageClassifierInputProcessor as Processor, converted_image
from perceiver.processing.pillow import MAX_PIXELS, UNREADABLE, open_image

IMAGE, LABEL = "image", "label"  # columns
AUGMENT, MIX = range(2)  # purposes of random numbers
SPLIT_SEED = 0

Splits = Mapping[str, datasets.Dataset]


def check_images(splits: Splits) -> Splits:
    """The splits, all of which have images.

    Raises:
        ValueError: if a split is empty, or has no column of images.
    """
    for split, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"split {split!r} is empty: it must have at least 1 image")
        if not isinstance(feature := column_feature(split, rows, IMAGE), datasets.Image):
            raise ValueError(f"column {IMAGE!r} of split {split!r} must hold images, not {feature}")
    return splits


def image_dataset(
    images: Sequence[str] | npt.NDArray[np.uint8], labels: Sequence[int] | npt.NDArray[Any], label_names: Sequence[str]
) -> datasets.Dataset:
    """Makes a data set of arrays or files.

    Args:
        images: (N, H, W) or (N, H, W, 3), or N paths. Arrays are stored as PNG files in memory.
        labels: N numbers.
        label_names: names of the labels 0, 1, ...

    Raises:
        ValueError: if the images are arrays of another shape or dtype, there are more or fewer than labels, or a label
            is out of range.
    """
    if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or (images.ndim != 3 and images.shape[3:] != (3,))):
        kind = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"images are {kind}, they must be uint8 of (N, H, W) or (N, H, W, 3)")
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images and {len(labels)} labels")
    features = datasets.Features({IMAGE: datasets.Image(), LABEL: datasets.ClassLabel(names=list(label_names))})
    return datasets.Dataset.from_dict({IMAGE: list(images), LABEL: labels}, features=features)


def stratified_splits(rows: datasets.Dataset, *, valid_fraction: float, test_fraction: float) -> Splits:
    """Splits rows at random, the same way each time, so that each class has its share of each split.

    Args:
        rows: images, and numbers as labels.
        valid_fraction: share of the rows for "valid"; with 0 there is none.
        test_fraction: share of the rows for "test"; with 0 there is none.

    Raises:
        ValueError: if a fraction is out of range.
    """
    if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
        raise ValueError(f"{valid_fraction=} and {test_fraction=} must be at least 0, and their sum less than 1")
    labels = np.array(rows[LABEL][:])
    places = np.empty(len(labels))  # in a random order of the class, in (0, 1)
    random = np.random.default_rng(SPLIT_SEED)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        places[members] = (random.permutation(len(members)) + 0.5) / len(members)
    first, last = valid_fraction, valid_fraction + test_fraction
    parts = {"train": places >= last, "valid": places < first, "test": (first <= places) & (places < last)}
    fractions = {"train": 1, "valid": valid_fraction, "test": test_fraction}
    return {split: rows.select(np.flatnonzero(part)) for split, part in parts.items() if fractions[split] > 0}


@dataclass(eq=False)
class ImageExamples(Examples[dict[str, Any]]):
    """One split: dicts of `image`, a PIL image in grayscale or RGB, `label`, `index` and `epoch`.

    Args:
        rows: images and labels.
        label_names: names of the labels 0, 1, ...
        split: for messages.
        size: height and width of examples.
        fixed_size: take no images of another size. Otherwise an image has the size of its file, or `size` if it was
            cropped at random.
        single_channel: grayscale, not RGB.
        augmentation: random changes.
        seed: of these changes, not negative.
        max_pixels: limit of height x width of a file.

    Raises:
        ValueError: if a label is none of `label_names`; when an item is asked for, if its image can't be read, has too
            many bits or pixels or the wrong size.
    """

    rows: InitVar[datasets.Dataset]
    label_names: InitVar[Sequence[str]]
    _: KW_ONLY
    split: str
    size: tuple[int, int]
    fixed_size: bool
    single_channel: bool
    augmentation: Augmentation | None = None
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self, rows: datasets.Dataset, label_names: Sequence[str]) -> None:
        labels = rows.select_columns([LABEL]).with_format("arrow")[:].column(LABEL).combine_chunks()
        self.labels = label_numbers(labels, LABEL, label_names)
        self.files = rows.select_columns([IMAGE]).cast_column(IMAGE, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.labels)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        image = self.image(index)
        if self.augmentation is not None:
            image = self.augmentation(image, self.size, stream(AUGMENT, self.seed, epoch, index))
        return {"image": image, "label": int(self.labels[index]), "index": index, "epoch": epoch}

    def repeated(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "label": IGNORE}

    def image(self, index: int) -> PIL.Image.Image:
        """The image as it is in its file, turned upright, in grayscale or RGB."""
        file = self.files[index][IMAGE]
        try:
            image = read_image(file, single_channel=self.single_channel, max_pixels=self.max_pixels)
        except ValueError as error:
            path = f", {file['path']}" if file and file["path"] else ""
            raise ValueError(f"cannot read image {index} of split {self.split!r}{path}: {error}") from error
        found, expected = (f"{height} x {width}" for height, width in [(image.height, image.width), self.size])
        if self.fixed_size and found != expected:
            raise ValueError(f"image {index} of split {self.split!r} has {found} pixels, expected {expected}")
        return image


def read_image(
    file: Mapping[str, Any] | None, *, single_channel: bool, max_pixels: int = MAX_PIXELS
) -> PIL.Image.Image:
    """Reads an image, in grayscale or RGB.

    Args:
        file: its `path`, and what is in it, `bytes`, if that is not None. None is an image that is missing.
        single_channel: grayscale, not RGB.
        max_pixels: limit of height x width.

    Raises:
        ValueError: if it can't be read, or has more than 8 bits per channel or too many pixels.
    """
    if file is None:
        raise ValueError("it is missing")
    try:
        with open_image(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"]), max_pixels) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return converted_image(image, single_channel=single_channel)
    except UNREADABLE as error:
        raise ValueError(str(error) or repr(error)) from error


class ImageCollator:
    """Makes a batch of examples: `image` (B, H, W, C) float32 and `label` (B,) int64.

    Args:
        image_processor: turns images into numbers.
        num_classes: number of classes.
        mixing: mixes the images of a batch. `label` is then (B, classes) float32, the probability of each class; all 0
            for examples that don't count.
        seed: of `mixing`, not negative.
        options: arguments of the image processor.
    """

    def __init__(
        self, image_processor: Processor, num_classes: int, mixing: Mixing | None = None, seed: int = 0, **options: Any
    ):
        self.image_processor, self.num_classes, self.mixing, self.seed = image_processor, num_classes, mixing, seed
        self.options: dict[str, Any] = {"channels_last": True, "return_tensors": "np", **options}

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        images = [example["image"] for example in examples]
        pixels = self.image_processor(images, **self.options)["pixel_values"]
        labels: npt.NDArray[Any] = np.array([example["label"] for example in examples], np.int64)
        if self.mixing is not None:
            one_hot = (labels[:, None] == np.arange(self.num_classes)).astype(np.float32)
            random = stream(MIX, self.seed, examples[0]["epoch"], examples[0]["index"])
            pixels, labels = self.mixing(pixels, one_hot, random)
        if not self.image_processor.channels_last:
            pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
        return {"image": torch.from_numpy(pixels), "label": torch.from_numpy(labels)}
