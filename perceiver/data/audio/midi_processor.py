"""The former path of `perceiver.processing.midi`."""

from perceiver.processing.midi import *  # noqa: F403
