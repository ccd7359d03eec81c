"""Reading files of other libraries: PyTorch checkpoints, safetensors, pickles of JAX and Haiku.

A pickle is a program. These readers run none of it: torch's files are read with `weights_only=True`, and the pickles of
Haiku (DeepMind's Perceiver IO, arXiv 2107.14795; google-research/perceiver-ar, arXiv 2202.07765) by an unpickler that
knows how arrays and dictionaries are written, and builds nothing else. What names another function or class is refused.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from perceiver.model.core.checkpoint import downloaded, read_safetensors
from perceiver.model.core.pickles import UNPICKLING_ERRORS, read_pickle

# What a checkpoint's parameters are called in it, where there is more than one part with tensors.
_PARTS = ("state_dict", "model_state_dict", "model", "net", "module")
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.dill")
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch begin that are no zip archives


@dataclass(frozen=True)
class ForeignFile:
    """Parameters of a file of another library.

    Attributes:
        parameters: By name. Those of Haiku are called `scope/parameter`; states are among them.
        is_haiku: Whether it is a pickle of Haiku.
    """

    parameters: dict[str, Tensor]
    is_haiku: bool


def read_foreign(source: str | Path) -> ForeignFile:
    """Reads the parameters of a file.

    Args:
        source: Path or URL of a file, or a folder that has one of a well-known name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it can't be read, or has something else than parameters.
    """
    with downloaded(source) as path:
        if path.is_dir():
            path = _file_of(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file or folder {source}")
        with path.open("rb") as file:
            start = file.read(len(_LEGACY_TORCH))
        if path.suffix == ".safetensors":
            return ForeignFile(_named(_with_shared(path), source), is_haiku=False)
        if start.startswith(b"PK") or start == _LEGACY_TORCH:
            return ForeignFile(_named(read_pickle(path, str(source)), source), is_haiku=False)
        return ForeignFile(_flat(unpickle_arrays(path), source), is_haiku=True)


def _file_of(folder: Path) -> Path:
    found = [folder / name for name in _FOLDER_FILES if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(_FOLDER_FILES)}")
    return found[0]


def _with_shared(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, those included that it leaves out because they are others."""
    tensors = read_safetensors(path)
    with safe_open(path, framework="pt") as file:
        others = file.metadata() or {}
    return tensors | {name: tensors[same] for name, same in others.items() if same in tensors and name not in tensors}


def _named(content: Any, source: str | Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint, without what all their names begin with: `module.`, say."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{source} is a {type(content).__name__}, no dictionary of parameters")
    parts = {str(name): part for name, part in content.items() if isinstance(part, Mapping) and _tensors(part)}
    found = _tensors(content)
    if not found and parts:
        name = next((name for name in _PARTS if name in parts), None)
        if name is None and len(parts) > 1:
            raise ValueError(f"{source} has several parts with parameters: {', '.join(parts)}; save one of them alone")
        found = _tensors(parts[name or next(iter(parts))])
    if not found:
        raise ValueError(f"{source} has no parameters, but {', '.join(map(str, content)) or 'nothing'}")
    while len(found) > 1 and len(starts := {name.partition(".")[0] for name in found}) == 1:
        found = {name.removeprefix(f"{min(starts)}."): tensor for name, tensor in found.items()}
    return found


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _flat(content: Any, source: str | Path) -> dict[str, Tensor]:
    """{scope: {parameter: array}}, or {"params": that, "state": that, ...} -> {scope/parameter: tensor}"""
    parts = [content]
    if isinstance(content, dict) and "params" in content:
        parts = [content["params"], content.get("state") or {}]
    result: dict[str, Tensor] = {}
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError(f"{source} is a {type(part).__name__}, no dictionary of parameters")
        for scope, parameters in part.items():
            if not isinstance(scope, str) or not isinstance(parameters, dict):
                raise ValueError(f"{source} is no dictionary of scopes and parameters: it has {scope!r}")
            for name, value in parameters.items():
                if not isinstance(value, _Array):
                    raise ValueError(f"{source} has {scope}/{name}, which is no array")
                result[f"{scope}/{name}"] = value.tensor()
    if not result:
        raise ValueError(f"{source} has no parameters")
    return result


def unpickle_arrays(path: Path) -> Any:
    """Reads a pickle of arrays and dictionaries, those of Haiku and JAX among them.

    Raises:
        ValueError: if it is damaged, or names anything that is none of these.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of escape sequences, which damage makes up
                _check_memo(cast(IO[bytes], data))
                data.seek(0)
                return _ArrayUnpickler(data).load()
        except (pickle.UnpicklingError, *UNPICKLING_ERRORS) as error:
            refused = isinstance(error, pickle.UnpicklingError) and "refused" in str(error)
            raise ValueError(f"{path} {'is' if refused else 'can not be read, it may be damaged:'} {error}") from error


def _check_memo(data: IO[bytes]) -> None:
    """Refuses memo indices beyond all numbers: the unpickler would make room for as many objects."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > (position or 0):
            raise ValueError(f"memo index {argument} at {position}")


class _Fixed(type):
    """Class of the classes that stand in for what a pickle names. No pickle can change them."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"refused: it changes {cls.__name__}")


class _Ignored(metaclass=_Fixed):
    """States of optimizers and single numbers, which nobody reads."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "u4": torch.uint32,
    "b1": torch.bool,
}


class _DType(metaclass=_Fixed):
    """`numpy.dtype`: the name of a type, `f4`, and a byte order."""

    __slots__ = ("is_big_endian", "name")

    is_big_endian: bool
    name: str

    def __new__(cls, name: Any, *args: Any) -> _DType:
        dtype = super().__new__(cls)
        dtype.name = str(name).lstrip("<>=|")
        dtype.is_big_endian = str(name).startswith(">")
        return dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.is_big_endian = state[1] == ">"

    def torch_dtype(self) -> torch.dtype:
        if self.name not in _DTYPES or self.is_big_endian:
            raise ValueError(f"arrays of type {self.name!r} are not supported, only {', '.join(_DTYPES)}")
        return _DTYPES[self.name]


class _Array(metaclass=_Fixed):
    """An array of numpy: shape, type and bytes. `tensor` makes something of them when all is read, and checks them."""

    __slots__ = ("data", "dtype", "is_fortran", "shape")

    data: Any
    dtype: Any
    is_fortran: Any
    shape: Any

    def __new__(cls, *args: Any) -> _Array:
        """What `_reconstruct` is given, a class, a shape and a type, is replaced by the state that follows."""
        array = super().__new__(cls)
        array.shape, array.dtype, array.is_fortran, array.data = (), None, False, None
        return array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.data = state

    def tensor(self) -> Tensor:
        data, shape = self.data, self.shape
        if not isinstance(self.dtype, _DType) or not isinstance(data, bytes | bytearray):
            raise ValueError("an array has no numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array has the shape {shape!r}")
        dtype = self.dtype.torch_dtype()
        if prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} and type {self.dtype.name} has {len(data)} bytes")
        if not data:
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
        if not self.is_fortran:
            return flat.reshape(shape)
        dims = tuple(range(len(shape)))
        return flat.reshape(shape[::-1]).movedim(dims, dims[::-1]).contiguous()


class _BufferArray(metaclass=_Fixed):
    """`numpy._core.numeric._frombuffer`: an array of protocol 5."""

    def __new__(cls, data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:  # type: ignore[misc]
        array = _Array()
        array.__setstate__((1, shape, dtype, order == "F", data))
        return array


class _JaxArray(metaclass=_Fixed):
    """JAX writes an array as the one of numpy."""

    def __new__(cls, function: Any, args: Any, state: Any, *further: Any) -> _Array:  # type: ignore[misc]
        array = _Array()
        array.__setstate__(state)
        return array


class _Bytes(metaclass=_Fixed):
    """`_codecs.encode`, as old protocols write bytes, and `bytearray`."""

    def __new__(cls, data: Any = b"", encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if isinstance(data, str) and encoding == "latin1":
            return data.encode("latin1")
        if not isinstance(data, bytes):
            raise pickle.UnpicklingError(f"refused: it makes bytes of a {type(data).__name__}")
        return data


# What pickles of arrays and dictionaries name. Versions differ in the modules.
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Ignored for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BufferArray for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("jax._src.array", "_reconstruct_array"): _JaxArray,
    ("jax._src.device_array", "reconstruct_device_array"): _JaxArray,
    ("jax.interpreters.xla", "reconstruct_device_array"): _JaxArray,
    **{("haiku._src.data_structures", name): dict for name in ("FlatMapping", "FlatMap", "frozendict")},
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _Bytes,
    **{(module, name): _Bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module.split(".")[0] == "optax":
            return _Ignored
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}, which is no array and no dictionary")
