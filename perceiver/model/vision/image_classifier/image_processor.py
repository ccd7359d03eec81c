"""The former path of `perceiver.processing.image`."""

from perceiver.processing.image import *  # noqa: F403
