"""Images of any kind that Pillow has, in grayscale or RGB."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import IO

import PIL.Image

# 16 or 32 bits per pixel: Pillow would clip them to 8, not scale.
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


MAX_PIXELS = 89_478_485  # 256 MiB in RGB; Pillow only warns there, and stops at twice as many
# What Pillow raises where it can't read on
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def open_image(file: str | Path | IO[bytes], max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Opens an image. Its pixels are read when they are needed: a small file may have very many.

    Args:
        file: a path, or an open file.
        max_pixels: limit of height x width. One that is above Pillow's replaces that for the whole process.

    Raises:
        OSError: if there is no such file, or it is no image.
        ValueError: if it has more pixels.
    """
    if PIL.Image.MAX_IMAGE_PIXELS is not None and max_pixels > PIL.Image.MAX_IMAGE_PIXELS:
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # what follows is the same as an error
        try:
            image = PIL.Image.open(file)
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"image has more than {max_pixels:,} pixels: {error}") from error
    if image.height * image.width > max_pixels:
        image.close()
        raise ValueError(f"image has {image.height} x {image.width} pixels, more than {max_pixels:,}")
    return image


def read_image(path: str | Path, *, single_channel: bool) -> PIL.Image.Image:
    """The image of a file in grayscale (mode L) or RGB.

    Raises:
        OSError: if there is no such file, or it is no image.
        ValueError: as `open_image` and `converted_image`.
    """
    with open_image(path) as image:
        return converted_image(image, single_channel=single_channel)


def converted_image(image: PIL.Image.Image, *, single_channel: bool) -> PIL.Image.Image:
    """The image in grayscale (mode L) or RGB. Transparency is dropped.

    Raises:
        ValueError: if it has more than 8 bits per channel, or no pixels.
    """
    if image.mode in DEEP_MODES:
        raise ValueError(
            f"image has mode {image.mode}, more than 8 bits per channel: scale it to a mode of 8 bits (L, RGB, ...)"
        )
    if 0 in image.size:
        raise ValueError(f"image has {image.height} x {image.width} pixels, it must have at least 1 x 1")
    if image.mode == "P":  # Pillow wants to be asked for the transparency of a palette
        image = image.convert("RGBA")
    return image.convert("L" if single_channel else "RGB")
