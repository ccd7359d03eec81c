"""Pickles of others, read without running code that they bring along.

`torch.load(weights_only=True)` reads them. The configuration classes inside published files become plain dictionaries,
and what the index of a sharded checkpoint is made of stand-ins.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

# What unpicklers raise, beside `pickle.UnpicklingError`, where a file is damaged.
UNPICKLING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _Record(dict[str, Any]):
    """Stands in for a pickled configuration object: a dictionary of its fields."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


def _enum_value(value: Any) -> Any:
    """Stands in for a pickled enum: called with the member's value."""
    return value


# All classes in published checkpoints, by the names they had in perceiver-io 0.9 - 0.11 and in 0.8.
_PICKLED_CLASSES: dict[str, Callable[..., Any]] = {
    "perceiver.model.text.common.backend.TextEncoderConfig": _Record,
    "perceiver.model.text.common.TextEncoderConfig": _Record,
    "perceiver.model.text.mlm.backend.TextDecoderConfig": _Record,
    "perceiver.model.text.mlm.TextDecoderConfig": _Record,
    "perceiver.model.core.config.ClassificationDecoderConfig": _Record,
    "perceiver.model.core.classifier.ClassificationDecoderConfig": _Record,
    "perceiver.model.vision.image_classifier.backend.ImageEncoderConfig": _Record,
    "perceiver.model.vision.image_classifier.ImageEncoderConfig": _Record,
    "perceiver.data.text.common.Task": _enum_value,
}


def published_classes() -> torch.serialization.safe_globals:
    """A context in which `torch.load(weights_only=True)` reads the configurations in checkpoints of 0.8 to 0.11, as
    dictionaries."""
    classes = [(target, name) for name, target in _PICKLED_CLASSES.items()]
    known = torch.serialization.get_safe_globals()  # torch's context forgets, at its end, what was known before it
    return torch.serialization.safe_globals([item for item in classes if item not in known])


def read_pickle(file: Path | BinaryIO, source: str) -> Any:
    """Reads a pickle of plain values, tensors and the configurations of published checkpoints, and nothing else."""
    try:
        with published_classes():
            # memory mapping leaves optimizer states on disk; files older than the zip format can't be mapped
            mmap = isinstance(file, Path) and zipfile.is_zipfile(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error)).strip()
            raise ValueError(f"{source} contains something else than parameters, refused: {reason}") from error
        raise ValueError(f"{source} can't be read, it may be damaged: {error}") from error
    except FileNotFoundError:  # a shard that the index names
        raise
    except (*UNPICKLING_ERRORS, RuntimeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} can't be read, it may be damaged: {error}") from error


class _Shard:
    """Stands in for whatever the index of a sharded checkpoint is made of. It keeps its state and does nothing."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class IndexUnpickler(pickle.Unpickler):
    """Reads the index of a sharded checkpoint: plain values, dtypes, sizes and stand-ins. It runs no code of a file."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if (module, name) == ("torch", "Size"):
            return tuple
        if module.startswith("torch.distributed.checkpoint.") or name in ("_get_layout", "PosixPath", "WindowsPath"):
            return _Shard
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no index does")
