"""A cache whose folder has a name of its own."""

from collections.abc import Callable
from pathlib import Path

from perceiver.data.cache import Cache


class NamedCache(Cache):
    """The folder is `directory`, and there is nothing to tell it from others by."""

    def __init__(self, directory: Path, fill: Callable[[Path, Path], None]):
        super().__init__(directory.parent, lambda: {"made": "here"}, fill)
        self.directory = directory
