"""Random changes of training images, with Pillow and numpy; what is drawn comes from the generator that is passed.

    random_resized_crop   a part of the image, resized (arXiv 1409.4842, section 6)
    random_shift          the image moved by some pixels: zero padding and a random crop
    random_flip           the image or its mirror image
    RandAugment           a number of random operations, all with the same magnitude (arXiv 1909.13719)
    Augmentation          these four, in this order
    Mixing                batches whose images are mixtures of two (MixUp, arXiv 1710.09412; CutMix, arXiv 1905.04899)

`IMAGENET_AUGMENTATION` and `IMAGENET_MIXING` are those of the Perceiver IO paper (arXiv 2107.14795, appendix), with its
authors' training code for what the paper leaves out. That code runs RandAugment on the crop before it is resized, and
lets bicubic interpolation exceed 0 and 255. Here the crop is resized first, and Pillow clips.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageEnhance, ImageOps
from PIL.Image import Image, Resampling, Transform, Transpose

from perceiver.checks import check_least

Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of random crops, width to height
CROP_ATTEMPTS = 10
MAX_MAGNITUDE = 10.0
GREY = 128  # where RandAugment moves in what was not in the image


def random_crop_box(width: int, height: int, min_area: float, random: Random) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of an image.

    Its share of the area is uniform in [min_area, 1], the logarithm of its aspect ratio uniform between those of 3/4
    and 4/3. Where ten draws don't fit into the image, it is the largest centered box with an aspect ratio in that
    range.
    """
    low, high = ASPECT_RATIOS
    for _ in range(CROP_ATTEMPTS):
        area = random.uniform(min_area, 1) * width * height
        aspect_ratio = math.exp(random.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect_ratio)), round(math.sqrt(area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_resized_crop(image: Image, size: tuple[int, int], min_area: float, random: Random) -> Image:
    """A part of the image (`random_crop_box`), resized to `size` (H, W)."""
    height, width = size
    return image.crop(random_crop_box(*image.size, min_area, random)).resize((width, height), Resampling.BICUBIC)


def random_shift(image: Image, max_pixels: int, random: Random) -> Image:
    """The image moved by at most `max_pixels` horizontally and vertically. What moves in is zero."""
    left, top = (int(n) for n in random.integers(-max_pixels, max_pixels + 1, size=2))
    return image.crop((left, top, left + image.width, top + image.height))


def random_flip(image: Image, random: Random) -> Image:
    """The image or, as often, its mirror image."""
    return image.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def _affine(image: Image, matrix: tuple[float, float, float, float, float, float]) -> Image:
    """Output (x, y) is input (a x + b y + c, d x + e y + f)."""
    fill = (GREY,) * len(image.getbands())
    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR, fillcolor=fill)


# The operations of the paper with the ranges of AutoAugment (arXiv 1805.09501, table 6). Strength s is in [-1, 1]: 0
# changes nothing, its sign is a direction. Two operations have no strength.
OPERATIONS: dict[str, Callable[[Image, float], Image]] = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "rotate": lambda image, s: image.rotate(30 * s, Resampling.BILINEAR, fillcolor=(GREY,) * len(image.getbands())),
    "solarize": lambda image, s: ImageOps.solarize(image, round(256 * (1 - abs(s)))),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    "shear_x": lambda image, s: _affine(image, (1, 0.3 * s, 0, 0, 1, 0)),
    "shear_y": lambda image, s: _affine(image, (1, 0, 0, 0.3 * s, 1, 0)),
    "translate_x": lambda image, s: _affine(image, (1, 0, 0.45 * s * image.width, 0, 1, 0)),
    "translate_y": lambda image, s: _affine(image, (1, 0, 0, 0, 1, 0.45 * s * image.height)),
}


@dataclass(frozen=True)
class RandAugment:
    """Applies operations drawn from `OPERATIONS`, each to the result of the one before.

    Args:
        num_ops: how many; the paper's N.
        magnitude: of all of them, in [0, 10]; the paper's M. Directions are random.
    """

    num_ops: int
    magnitude: float

    def __call__(self, image: Image, random: Random) -> Image:
        names = list(OPERATIONS)
        for number in random.integers(len(names), size=self.num_ops):
            direction = 1 if random.random() < 0.5 else -1
            image = OPERATIONS[names[number]](image, direction * self.magnitude / MAX_MAGNITUDE)
        return image


@dataclass(frozen=True)
class Augmentation:
    """What changes training images, in this order. By default nothing does.

    Args:
        min_crop_area: random resized crops have at least this share of the image; None crops nothing.
        max_shift: pixels by which images are moved.
        flip: take the mirror image of half of them.
        num_ops: operations of RandAugment.
        magnitude: of these operations, in [0, 10].

    Raises:
        ValueError: if an argument is out of range.
    """

    min_crop_area: float | None = None
    max_shift: int = 0
    flip: bool = False
    num_ops: int = 0
    magnitude: float = 5.0

    def __post_init__(self) -> None:
        if self.min_crop_area is not None and not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area={self.min_crop_area} must be in (0, 1]")
        check_least(0, max_shift=self.max_shift, num_ops=self.num_ops)
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude={self.magnitude} must be in [0, {MAX_MAGNITUDE:g}]")

    def __call__(self, image: Image, size: tuple[int, int], random: Random) -> Image:
        """A changed image, of `size` (H, W) if it was cropped, otherwise of the size it had."""
        if self.min_crop_area is not None:
            image = random_resized_crop(image, size, self.min_crop_area, random)
        if self.max_shift:
            image = random_shift(image, self.max_shift, random)
        if self.flip:
            image = random_flip(image, random)
        return RandAugment(self.num_ops, self.magnitude)(image, random)


@dataclass(frozen=True)
class Mixing:
    """Mixes each image of a batch with another one of it, and their labels in the same proportion.

    Args:
        mixup_alpha: MixUp is a weighted sum of both images, with a weight from Beta(alpha, alpha). 0 is no MixUp.
        cutmix_alpha: CutMix replaces a box by that of the other image, whose share of the area is from
            Beta(alpha, alpha), less what is beyond the border. 0 is no CutMix. With both, an image gets one of them,
            as often as the other.

    Raises:
        ValueError: if an argument is negative or not finite, or both are 0.
    """

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0

    def __post_init__(self) -> None:
        mixup_alpha, cutmix_alpha = self.mixup_alpha, self.cutmix_alpha
        if not all(0 <= alpha < math.inf for alpha in (mixup_alpha, cutmix_alpha)) or mixup_alpha == cutmix_alpha == 0:
            raise ValueError(f"{mixup_alpha=} and {cutmix_alpha=} must be finite and at least 0, not both 0")

    def __call__(self, images: Floats, labels: Floats, random: Random) -> tuple[Floats, Floats]:
        """Images (B, H, W, C) and probabilities (B, classes) -> the same, mixed."""
        weights = self._weights(images.shape[:3], random)
        others = random.permutation(len(images))
        shares = weights.mean(axis=(1, 2))[:, None]
        weights = weights[..., None]
        return weights * images + (1 - weights) * images[others], shares * labels + (1 - shares) * labels[others]

    def _weights(self, shape: tuple[int, ...], random: Random) -> Floats:
        if self.cutmix_alpha == 0:
            return mixup_weights(shape, self.mixup_alpha, random)
        if self.mixup_alpha == 0:
            return cutmix_weights(shape, self.cutmix_alpha, random)
        cut = random.random(shape[0]) < 0.5
        mixup, cutmix = mixup_weights(shape, self.mixup_alpha, random), cutmix_weights(shape, self.cutmix_alpha, random)
        return np.where(cut[:, None, None], cutmix, mixup)


def mixup_weights(shape: tuple[int, ...], alpha: float, random: Random) -> Floats:
    """How much of each pixel stays in MixUp: (B, H, W), the same number for all pixels of an image."""
    weights = random.beta(alpha, alpha, size=(shape[0], 1, 1)).astype(np.float32)
    return np.broadcast_to(weights, shape)


def cutmix_weights(shape: tuple[int, ...], alpha: float, random: Random) -> Floats:
    """Which pixels stay in CutMix, 1, and which are in the box, 0: (B, H, W)."""
    batch_size, *size = shape
    half_side = np.sqrt(random.beta(alpha, alpha, size=(batch_size, 1))) / 2  # relative to the image's side
    rows, columns = (
        np.abs((np.arange(length) + 0.5) / length - random.random((batch_size, 1))) < half_side for length in size
    )
    return (~(rows[:, :, None] & columns[:, None, :])).astype(np.float32)


IMAGENET_AUGMENTATION = Augmentation(min_crop_area=0.08, flip=True, num_ops=4, magnitude=5.0)
IMAGENET_MIXING = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0)
