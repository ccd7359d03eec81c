"""The former path of `perceiver.processing.tokenization`."""

from perceiver.processing.tokenization import *  # noqa: F403
