"""The former path of `perceiver.processing.video`."""

from perceiver.processing.video import *  # noqa: F403
