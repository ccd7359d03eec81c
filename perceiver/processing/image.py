"""Image processor of the image classifier: images -> pixel values, in the published format.

    center crop, resize (bicubic), rescale to [0, 1], normalize with mean and standard deviation

Each step can be switched off. They are those of transformers' processor of the official Perceiver, which runs them with
Pillow and numpy. Ours first brings all images to the same number of channels, puts channels last, where the model wants
them, and says what is wrong with an image that it can't take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from torch import Tensor
from transformers import BatchFeature, PerceiverImageProcessorPil
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from perceiver.processing.pillow import converted_image

CHANNELS = (1, 3)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as in Pillow


def check_std(image_std: float | Sequence[float] | None) -> None:
    """Raises ValueError if images, which are divided by it, would be infinite or inverted."""
    if image_std is not None and not np.all(np.greater(image_std, 0)):
        raise ValueError(f"image_std={image_std} must be positive: images are divided by it")


class PerceiverImageClassifierInputProcessorKwargs(ImagesKwargs, total=False):
    single_channel: bool | None
    channels_last: bool | None


class PerceiverImageClassifierInputProcessor(PerceiverImageProcessorPil):
    """Images -> `pixel_values` (B, H, W, C).

    Images are PIL images, numpy arrays or torch tensors, a single one or a list. Arrays are (H, W), (H, W, C) or
    (C, H, W) with C = 1 or 3, or batches (B, H, W, C) or (B, C, H, W), of 8-bit integers or floating point numbers. The
    latter are multiplied by `rescale_factor`, too, as in transformers: use `do_rescale=False` for values in [0, 1].

    Without arguments it is the preprocessing of the official ImageNet models. Calling it takes the same arguments, for
    one call, and `return_tensors` ("pt" or "np").

    Args:
        kwargs: The two attributes below, and those of `transformers.PerceiverImageProcessorPil`: `do_center_crop`,
            `crop_size`, `do_resize`, `size`, `resample`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`
            and `image_std`, each a number or a list of a number per channel. The crop is a square of
            size / crop_size of the shorter side.

    Attributes:
        single_channel: Convert images to grayscale, C = 1; otherwise to RGB, C = 3. Transparency is dropped.
        channels_last: Return (B, H, W, C); otherwise (B, C, H, W).

    Raises:
        ValueError: if `image_std` is not positive; when called, also if there is no image, if one has other channels,
            too many bits or no pixels, or if images that are not resized have different sizes.
    """

    valid_kwargs = PerceiverImageClassifierInputProcessorKwargs
    single_channel = False
    channels_last = True

    def __init__(self, **kwargs: Unpack[PerceiverImageClassifierInputProcessorKwargs]):
        super().__init__(**kwargs)  # type: ignore[misc]  # it knows two arguments less, and takes what `valid_kwargs` has
        check_std(self.image_std)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> Any:
        if getattr(images, "ndim", None) == 2:
            images = [images]
        if isinstance(images, list | tuple):
            if not images:
                raise ValueError("there are no images")
            images = [image[None] if getattr(image, "ndim", None) == 2 else image for image in images]
        return super()._prepare_images_structure(images, expected_ndims)

    def process_image(  # type: ignore[override]  # transformers calls these three with keywords
        self, image: Any, *, single_channel: bool, input_data_format: Any = None, **kwargs: Any
    ) -> npt.NDArray[Any]:
        """An image as uint8 or float32 (C, H, W)."""
        if not isinstance(image, PIL.Image.Image):
            array = image_array(image, input_data_format)
            if array.dtype != np.uint8:
                if single_channel and len(array) == 3:
                    return np.tensordot(LUMA, array, axes=1)[None]
                return array if single_channel or len(array) == 3 else np.repeat(array, 3, axis=0)
            image = PIL.Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))
        array = np.asarray(converted_image(image, single_channel=single_channel))
        return array[None] if single_channel else np.moveaxis(array, -1, 0)

    def center_crop(  # type: ignore[override]
        self, image: npt.NDArray[Any], size: SizeDict, crop_size: SizeDict, **kwargs: Any
    ) -> npt.NDArray[Any]:
        if 0 in (crop_size.height, crop_size.width):
            raise ValueError(f"crop_size={dict(crop_size)} must not be 0: the crop has size / crop_size of an image")
        cropped: npt.NDArray[Any] = super().center_crop(image, size, crop_size, **kwargs)
        if cropped.size == 0:
            _, height, width = image.shape
            raise ValueError(
                f"an image of {height} x {width} pixels is too small for a center crop of {size.height}/"
                f"{crop_size.height} of its height and {size.width}/{crop_size.width} of its width"
            )
        return cropped

    def _preprocess(  # type: ignore[override]
        self, images: list[npt.NDArray[Any]], *, channels_last: bool, return_tensors: Any, **kwargs: Any
    ) -> BatchFeature:
        check_std(kwargs.get("image_std"))  # of this call
        pixel_values = super()._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        sizes = {image.shape[1:] for image in pixel_values}
        if return_tensors is not None and len(sizes) > 1:
            raise ValueError(f"images of sizes {sorted(sizes)} can't be one batch: resize them, with do_resize=True")
        if channels_last:
            pixel_values = [np.moveaxis(image, 0, -1) for image in pixel_values]
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


class ImagePreprocessor:
    """Images -> tensors for a backend model.

    Args:
        image_processor: Says how.
    """

    def __init__(self, image_processor: PerceiverImageClassifierInputProcessor):
        self.image_processor = image_processor

    def preprocess(self, image: Any) -> Tensor:
        """An image, of any kind that the image processor takes -> (H, W, C)"""
        return self.preprocess_batch([image])[0]

    def preprocess_batch(self, images: Sequence[Any]) -> Tensor:
        """Images -> (B, H, W, C)"""
        pixel_values: Tensor = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return pixel_values


class ImageNetPreprocessor(ImagePreprocessor):
    """As the official ImageNet models want images: the center crop, resized to 224 x 224, normalized.

    Args:
        channels_last: Return (B, H, W, C), which the models take; otherwise (B, C, H, W).
    """

    def __init__(self, *, channels_last: bool = True):
        super().__init__(PerceiverImageClassifierInputProcessor(channels_last=channels_last))


class MNISTPreprocessor(ImagePreprocessor):
    """As `MNISTDataModule` prepares digits: in grayscale, of their own size.

    Args:
        normalize: Scale pixels to [-1, 1]; otherwise they are in [0, 1].
        channels_last: Return (B, H, W, C), which the model takes; otherwise (B, C, H, W).
    """

    def __init__(self, *, normalize: bool = True, channels_last: bool = True):
        super().__init__(
            PerceiverImageClassifierInputProcessor(
                single_channel=True,
                channels_last=channels_last,
                do_center_crop=False,
                do_resize=False,
                do_normalize=normalize,
                image_mean=0.5,
                image_std=0.5,
            )
        )


def image_array(image: npt.NDArray[Any] | Tensor, input_data_format: Any = None) -> npt.NDArray[Any]:
    """An array as uint8 or float32 (C, H, W).

    Args:
        image: (H, W, C) or (C, H, W).
        input_data_format: "channels_first" or "channels_last"; None finds out, and takes the first dimension where both
            could be channels.

    Raises:
        ValueError: if it has another shape or dtype, or no pixels.
    """
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"image has dtype {array.dtype}, it must be uint8 or a floating point type")
        array = array.astype(np.float32)
    if array.ndim == 3:
        first = array.shape[0] in CHANNELS if input_data_format is None else input_data_format == "channels_first"
        channels_first = array if first else np.moveaxis(array, -1, 0)
        if len(channels_first) in CHANNELS and array.size > 0:
            return channels_first
    raise ValueError(
        f"image has shape {array.shape}, it must be (H, W), (H, W, C) or (C, H, W) with C = 1 or 3 channels and at "
        "least 1 x 1 pixels"
    )
