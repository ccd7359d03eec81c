"""Generic parts that every model is built from. Nothing here knows a task."""

from perceiver.moved import moved_names

__getattr__ = moved_names(__name__)
