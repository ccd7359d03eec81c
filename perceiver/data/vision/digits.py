"""Digits: 1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn, so there is nothing to download."""

from typing import Any

import numpy as np

from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.images import Splits, image_dataset, stratified_splits
from perceiver.processing.image import PerceiverImageClassifierInputProcessor

SIZE, MAX_VALUE = 8, 16


class DigitsDataModule(ImageDataModule):
    """scikit-learn's digits, in batches of (B, 8, 8, 1) with values from -1 to 1.

    Args:
        valid_fraction: share of the images for validation. They are always the same, and so are those for test.
        test_fraction: share of the images for test; with 0 there is no test split.
        **kwargs: see `ImageDataModule`.
    """

    def __init__(self, *, valid_fraction: float = 0.2, test_fraction: float = 0.0, **kwargs: Any):
        image_processor = PerceiverImageClassifierInputProcessor(
            single_channel=True, do_center_crop=False, do_resize=False, image_mean=0.5, image_std=0.5
        )
        super().__init__(image_processor, (SIZE, SIZE), **kwargs)
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction

    def load(self) -> Splits:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("DigitsDataModule needs scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        images = np.rint(digits.images * (255 / MAX_VALUE)).astype(np.uint8)
        rows = image_dataset(images, digits.target, [str(name) for name in digits.target_names])
        return stratified_splits(rows, valid_fraction=self.valid_fraction, test_fraction=self.test_fraction)
