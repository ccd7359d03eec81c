"""The former path of `perceiver.processing.optical_flow`."""

from perceiver.processing.optical_flow import *  # noqa: F403
