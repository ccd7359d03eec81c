"""Files of other libraries are read, and those that are damaged or hostile are refused without running them."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import struct
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.foreign.files import read_foreign
from tests.model.helpers import TIED

ARRAYS = {
    "a/~/linear": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)},
    "a/norm": {"scale": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)), "n": np.array(7)},
    "empty": {"w": np.zeros((0, 5), np.int32)},
}


def written(folder: Path, content: Any, protocol: int = 4) -> Path:
    file = folder / "file.pkl"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return file


# --- what is read ---


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [False, True])
def test_arrays_of_every_protocol(protocol: int, inside: bool, tmp_path: Path) -> None:
    content = {"params": ARRAYS, "state": None, "opt_state": (), "global_step": 3} if inside else ARRAYS
    file = read_foreign(written(tmp_path, content, protocol))
    assert file.is_haiku
    expected = {f"{scope}/{name}": array for scope, arrays in ARRAYS.items() for name, array in arrays.items()}
    assert file.parameters.keys() == expected.keys()
    for name, array in expected.items():
        assert torch.equal(file.parameters[name], torch.tensor(array)), name


def test_states_are_parameters(tmp_path: Path) -> None:
    content = {"params": {"a": {"w": np.zeros(2)}}, "state": {"a/ema": {"average": np.ones(3)}}}
    assert list(read_foreign(written(tmp_path, content)).parameters) == ["a/w", "a/ema/average"]


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, type], None]]:
    """Puts a class into a module that is not installed here, under its name there."""

    def put(module: str, name: str, cls: type) -> None:
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        cls.__module__, cls.__qualname__, cls.__name__ = module, name, name
        setattr(sys.modules[module], name, cls)

    yield put


def test_dictionaries_of_haiku_arrays_of_jax_and_states_of_optax(
    classes: Callable[[str, str, type], None], tmp_path: Path
) -> None:
    class FlatMapping(dict):  # type: ignore[type-arg]
        def __reduce__(self) -> Any:
            return type(self), (dict(self),)

    class Adam(collections.namedtuple("Adam", "count mu")):
        pass

    class Reconstructed:
        """As a jax.Array: a function of numpy's own way to be written."""

        def __init__(self, array: Any):
            self.array = array

        def __reduce__(self) -> Any:
            function, args, state = self.array.__reduce__()
            return reconstruct, (function, args, state, {"weak_type": False})

    def reconstruct(*args: Any) -> Any:
        raise AssertionError("it is called")

    classes("haiku._src.data_structures", "FlatMapping", FlatMapping)
    classes("optax._src.transform", "Adam", Adam)
    classes("jax._src.array", "_reconstruct_array", reconstruct)  # type: ignore[arg-type]  # a function
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = FlatMapping({"a": FlatMapping({"w": Reconstructed(array)})})
    file = read_foreign(written(tmp_path, {"params": params, "opt_state": (Adam(np.array(1), params),)}, 3))
    assert torch.equal(file.parameters["a/w"], torch.tensor(array))


def test_torch_files(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    parameters = model.state_dict()
    for i, content in enumerate(
        [
            parameters,
            {f"module.net.{name}": value for name, value in parameters.items()},
            {"epoch": 3, "model": parameters, "optimizer": {"state": {}}},
            {"state_dict": parameters, "ema": parameters},
        ]
    ):
        for zipped in (True, False):
            path = tmp_path / f"{i}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            file = read_foreign(path)
            assert not file.is_haiku and file.parameters.keys() == parameters.keys()
    save_file(parameters, tmp_path / "model.safetensors")
    assert read_foreign(tmp_path).parameters.keys() == parameters.keys()
    save_file({"a.w": torch.ones(2), "x": torch.ones(3)}, tmp_path / "tied.safetensors", metadata={"b.w": "a.w"})
    assert read_foreign(tmp_path / "tied.safetensors").parameters.keys() == {"a.w", "b.w", "x"}


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is a list, no dictionary"),
        ({"a": 3}, "no dictionary of scopes and parameters: it has 'a'"),
        ({"a": {"w": 3.0}}, "has a/w, which is no array"),
        ({}, "has no parameters"),
        ({"a": {"w": np.array(["x"])}}, "arrays of type 'U1' are not supported"),
        ({"a": {"w": np.zeros(2, ">f4")}}, "are not supported"),
        (b"", "is empty"),
        (b"not a pickle", "can not be read, it may be damaged"),
    ],
)
def test_files_without_parameters(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_foreign(written(tmp_path, content))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_foreign(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match=r"has none of model\.safetensors"):
        read_foreign(tmp_path)


def test_torch_files_without_parameters(tmp_path: Path) -> None:
    for content, message in (
        ({"epoch": 3}, "has no parameters, but epoch"),
        ([torch.ones(2)], "is a list, no dictionary"),
        ({"a": {"w": torch.ones(2)}, "b": {"w": torch.ones(2)}}, "several parts with parameters: a, b"),
    ):
        torch.save(content, tmp_path / "file.pt")
        with pytest.raises(ValueError, match=message):
            read_foreign(tmp_path / "file.pt")


class Evil:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def hostile(mark: str) -> list[bytes]:
    """Pickles, each of which makes the folder `mark` if it is run."""
    calls: list[Any] = [
        Evil(os.mkdir, mark),
        Evil(os.system, f"mkdir {mark}"),
        Evil(eval, f"__import__('os').mkdir({mark!r})"),
        Evil(getattr, "", "join"),
        Evil(map, os.mkdir, [mark]),
    ]
    contents = [place for call in calls for place in (call, {"params": call}, {"params": {"a": {"w": call}}})]
    contents += [{"params": ARRAYS, "opt_state": call} for call in calls]
    pickles = [pickle.dumps(content, protocol=protocol) for content in contents for protocol in (0, 2, 4)]
    target = mark.encode()
    return [
        *pickles,
        b"cos\nmkdir\n(V" + target + b"\ntR.",
        b"(V" + target + b"\nios\nmkdir\n.",  # INST
        b"(cos\nmkdir\nV" + target + b"\no.",  # OBJ
        b"\x80\x04\x8c\x05numpy\x8c\x13os.mkdir\x93.",
        b"cnumpy\ndtype\n(Vf4\ntR}V__class__\ncos\nsystem\nsb.",
        b"cnumpy\nndarray\n}V__new__\ncos\nmkdir\nsb.",  # changes a class
        b"cnumpy\nndarray\n}(V__new__\ncos\nmkdir\nusb.",
        b"chaiku._src.data_structures\nFlatMapping\n}V__init__\nI1\nsb.",
        b"c__builtin__\nbytes\n(I99999999999\ntR.",  # as much memory as there is
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"\x80\x02r\xff\xff\xff\x7f.",  # LONG_BINPUT
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # BINBYTES8
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",  # FRAME
        b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b".",  # BYTEARRAY8
        b"(" * 100_000,
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"P1\n.",
        b"\x82\x01.",
    ]


READERS: dict[str, Callable[[Path], Any]] = {"foreign": read_foreign, "checkpoint": read_checkpoint}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch reads protocol 2
@pytest.mark.parametrize("reader", READERS)
def test_hostile_pickles_run_nothing(reader: str, tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    file = tmp_path / "model.ckpt"
    for content in hostile(str(mark)):
        file.write_bytes(content)
        with pytest.raises(ValueError):
            READERS[reader](file)
        assert not mark.exists(), content[:80]


@pytest.mark.parametrize("reader", READERS)
def test_hostile_archives_run_nothing(reader: str, tmp_path: Path) -> None:
    """The same in files of torch, of both kinds, and in a folder's pytorch_model.bin."""
    mark, folder = tmp_path / "was_run", tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text((TIED / "hub" / "config.json").read_text())
    for call in (Evil(os.mkdir, str(mark)), Evil(eval, f"__import__('os').mkdir({str(mark)!r})")):
        for content in (call, {"state_dict": call}, {"a": torch.ones(2), "b": call}):
            for zipped in (True, False):
                torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
                torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
                for source in (tmp_path / "model.ckpt", folder):
                    with pytest.raises(ValueError):
                        READERS[reader](source)
                    assert not mark.exists()


def damaged(content: bytes, generator: random.Random) -> bytes:
    """A file with a part cut off, exchanged, repeated or overwritten."""
    start, end = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    part, noise = content[start:end], generator.randbytes(generator.choice((1, 1, 2, 4, 8)))
    match generator.randrange(5):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + noise + content[start + len(noise) :]
        case 2:
            return content[:start] + part[::-1] + content[end:]
        case 3:
            return content[:end] + part + content[end:]
        case _:
            return content[:start] + noise + content[start:]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("num_files", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(num_files: int, tmp_path: Path) -> None:
    """No damage is another exception than ValueError, and what is read are tensors."""
    generator = random.Random(0)
    parameters = nn.Linear(2, 3).state_dict()
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save(parameters, zipped)
    torch.save({"state_dict": parameters}, legacy, _use_new_zipfile_serialization=False)
    save_file(parameters, tmp_path / "whole.safetensors")
    wholes = {
        ".pkl": [pickle.dumps({"params": ARRAYS}, protocol=protocol) for protocol in range(6)],
        ".ckpt": [zipped.getvalue(), legacy.getvalue()],
        ".safetensors": [(tmp_path / "whole.safetensors").read_bytes()],
    }
    num_refused = 0
    for _ in range(num_files):
        suffix = generator.choice(list(wholes))
        content = damaged(generator.choice(wholes[suffix]), generator)
        (file := tmp_path / f"damaged{suffix}").write_bytes(content)
        try:
            assert all(isinstance(value, torch.Tensor) for value in read_foreign(file).parameters.values())
        except ValueError as error:
            assert str(error)
            num_refused += 1
        if suffix == ".ckpt":
            try:
                read_checkpoint(file)
            except ValueError:
                pass
    assert num_refused > num_files / 2
