"""Images of any kind that Pillow has, in grayscale or RGB."""

from pathlib import Path

import PIL.Image

# 16 or 32 bits per pixel: Pillow would clip them to 8, not scale.
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: str | Path, *, single_channel: bool) -> PIL.Image.Image:
    """The image of a file in grayscale (mode L) or RGB.

    Raises:
        OSError: if there is no such file, or it is no image.
        ValueError: as `converted_image`.
    """
    with PIL.Image.open(path) as image:
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
