"""The former path of `perceiver.processing.text`."""

from perceiver.processing.text import *  # noqa: F403
