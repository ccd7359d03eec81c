"""What the tests of images share: pictures, data sets and local folders in the layout of the hub."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.images import image_dataset
from perceiver.processing.image import PerceiverImageClassifierInputProcessor

datasets.disable_progress_bars()


def arrays(number: int, height: int = 6, width: int = 9, channels: int = 1) -> np.ndarray:
    """Image i is random, but for its first pixel, which is i."""
    shape = (number, height, width, channels) if channels > 1 else (number, height, width)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images[:, 0, 0] = np.arange(number).reshape(number, *(1,) * (channels > 1))
    return images


def pictures(folder: Path, names: list[str], size: tuple[int, int] = (12, 16)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, arrays(len(names), *size, 3), strict=True):
        Image.fromarray(array).save(folder / name)


def hub_folder(folder: Path, sizes: dict[str, int], rows: dict[str, Any] | None = None) -> str:
    """Parquet files of splits of MNIST-like images. `rows` replaces columns, where it has them."""
    (folder / "mnist").mkdir(parents=True)
    for split, size in sizes.items():
        split_rows = image_dataset(arrays(size, 28, 28), [i % 10 for i in range(size)], [str(i) for i in range(10)])
        split_rows.to_parquet(folder / "mnist" / f"{split}-00000-of-00001.parquet")
    return str(folder)


class ArraysDataModule(ImageDataModule):
    """Grayscale images of 6 x 9 pixels, whose first pixel is their number; two classes, which take turns.

    Pixels are as they are: neither scaled nor normalised.
    """

    def __init__(self, num_train: int = 13, num_valid: int = 5, channels_last: bool = True, **kwargs: Any):
        image_processor = PerceiverImageClassifierInputProcessor(
            single_channel=True,
            channels_last=channels_last,
            do_center_crop=False,
            do_resize=False,
            do_rescale=False,
            do_normalize=False,
        )
        super().__init__(image_processor, (6, 9), **{"num_workers": 0, "batch_size": 4, **kwargs})
        self.sizes = {"train": num_train, "valid": num_valid}

    def load(self) -> dict[str, datasets.Dataset]:
        return {
            split: image_dataset(arrays(size), [i % 2 for i in range(size)], ["even", "odd"])
            for split, size in self.sizes.items()
        }


def prepared(data: ImageDataModule) -> Any:
    data.prepare_data()
    data.setup()
    return data
