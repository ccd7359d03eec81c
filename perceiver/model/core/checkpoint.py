"""Reading checkpoints: the one place where parameters come from files.

`read_checkpoint` takes a Lightning `.ckpt` (perceiver-io 0.8 to 0.11 and ours; path or URL, or the folder of a sharded
one), a folder in the Hugging Face format, or a hub id, and returns hyper-parameters and backend parameters. It never
builds a model and never runs code that a file brings along (`pickles.py`).
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from perceiver.model.core.pickles import UNPICKLING_ERRORS, IndexUnpickler, read_pickle

# Published files hold computed position codes as buffers. Ours are computed where they are used.
COMPUTED_BUFFERS = ("position_encoding.position_encoding", "inv_freq")

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        hyper_parameters: Model configuration as plain values, nested configurations as dictionaries. From a Lightning
            file also the other arguments of the Lightning module.
        state_dict: Parameters under the names they have in the backend model.
        lit_class: Name of the Lightning module that was trained, None in files of perceiver-io before 1.0.
    """

    hyper_parameters: dict[str, Any]
    state_dict: dict[str, Tensor]
    lit_class: str | None = None


def read_checkpoint(source: str | Path, part: str = "") -> Checkpoint:
    """Reads a checkpoint.

    Args:
        source: Path or URL of a Lightning checkpoint (a folder if it is sharded), folder in the Hugging Face format, or
            hub id.
        part: Prefix of backend parameter names, `"0."` for the encoder of a Perceiver IO, say. Only these parameters
            are returned, without the prefix.

    Raises:
        FileNotFoundError: if `source` does not exist.
        ValueError: if `source` can't be read, contains classes other than published configurations, or is not a
            checkpoint of this library, or if it has no such part.
    """
    text = str(source)
    if not text:
        raise ValueError("the name of a checkpoint is empty")
    with downloaded(source) as path:
        if path.is_file():
            checkpoint = _read_lightning(path, text)
        elif (path / ".metadata").is_file():
            checkpoint = _read_sharded(path)
        elif path.is_dir():
            checkpoint = _read_folder(path)
        elif path.suffix == ".ckpt" or path.is_absolute() or text.startswith(".") or text.count("/") > 1:
            raise FileNotFoundError(f"there is no checkpoint file or folder {text}")
        else:
            checkpoint = _read_folder(_download_folder(text))
    state_dict = {
        name.removeprefix(part): value
        for name, value in checkpoint.state_dict.items()
        if name.startswith(part) and not name.endswith(COMPUTED_BUFFERS)
    }
    if part and not state_dict:
        raise ValueError(f"{source} has no parameters whose names begin with {part!r}")
    return Checkpoint(without_params(checkpoint.hyper_parameters), state_dict, checkpoint.lit_class)


@contextmanager
def downloaded(source: str | Path) -> Iterator[Path]:
    """The file or folder `source`; one with a URL is there as long as the context.

    Raises:
        FileNotFoundError: if a URL can't be downloaded.
    """
    text = str(source)
    if "://" not in text:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (Path(urlsplit(text).path).name or "download")
        try:
            torch.hub.download_url_to_file(text, str(path), progress=True)
        except OSError as error:
            raise FileNotFoundError(f"{text} can't be downloaded: {error}") from error
        yield path


def without_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the names of files that its parts were initialised from: its parameters are with it."""
    return {
        name: value | {"params": None} if isinstance(value, dict) and "params" in value else value
        for name, value in values.items()
    }


def load_parameters(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads all parameters of `module` from `state_dict`.

    Raises:
        ValueError: if names or shapes differ. The message names the first few and `source`.
    """
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state_dict.keys()),
        "unexpected": sorted(state_dict.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            for name, value in state_dict.items()
            if name in expected and value.shape != expected[name].shape
        ],
    }
    if found := [f"{len(p)} {kind}: {_first(p)}" for kind, p in problems.items() if p]:
        raise ValueError(f"parameters of {source} don't fit {type(module).__name__}; {'; '.join(found)}")
    module.load_state_dict(state_dict)


def _first(names: list[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")


def _read_lightning(path: Path, source: str) -> Checkpoint:
    return _lightning_checkpoint(read_pickle(path, source), source)


def _lightning_checkpoint(content: Any, source: str) -> Checkpoint:
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), Mapping) for name in parts):
        raise ValueError(f"{source} is not a Lightning checkpoint: it has no state_dict and hyper_parameters")
    if strange := [name for name in content["hyper_parameters"] if not isinstance(name, str)]:
        raise ValueError(f"{source} can't be read, it may be damaged: hyper_parameters has the name {strange[0]!r}")
    try:
        hyper_parameters = _plain(content["hyper_parameters"])
    except RecursionError as error:
        raise ValueError(f"{source} can't be read, it may be damaged: hyper_parameters never end") from error
    return Checkpoint(
        hyper_parameters=hyper_parameters,
        state_dict=_strip_prefix(content["state_dict"], "model.", source),
        lit_class=content.get("lit_class"),
    )


def _read_sharded(folder: Path) -> Checkpoint:
    """Reads what Lightning's `ModelParallelStrategy` saves by default: parts of tensors, an index, and `meta.pt`."""
    source, content = str(folder), read_pickle(folder / "meta.pt", str(folder))
    try:
        with (folder / ".metadata").open("rb") as file:
            index = IndexUnpickler(file).load()
        entries = {name: e for name, e in index.state_dict_metadata.items() if name.startswith("state_dict.")}
        tensors = {name: torch.empty(entry.size, dtype=entry.properties.state[0]) for name, entry in entries.items()}
        missing = {name: tensor.numel() for name, tensor in tensors.items()}
        for key, part in index.storage_data.items():
            if key.fqn in tensors:
                with _inside(folder, part.relative_path, ".metadata").open("rb") as file:
                    file.seek(part.offset)
                    value = read_pickle(io.BytesIO(file.read(part.length)), source)
                place = tuple(slice(start, start + size) for start, size in zip(key.offset, value.shape, strict=True))
                tensors[key.fqn][place] = value
                missing[key.fqn] -= value.numel()
    except FileNotFoundError:  # a part that the index names
        raise
    except (pickle.UnpicklingError, *UNPICKLING_ERRORS, RuntimeError, OSError) as error:
        if isinstance(error, ValueError) and str(error).startswith(source):
            raise  # says which file
        raise ValueError(f"{source} can't be read, it may be damaged: {error}") from error
    if incomplete := [name for name, size in missing.items() if size]:
        raise ValueError(f"{source} is incomplete: parts are missing of {_first(incomplete)}")
    if isinstance(content, dict):
        content["state_dict"] = {name.removeprefix("state_dict."): tensor for name, tensor in tensors.items()}
    return _lightning_checkpoint(content, source)


def _plain(value: Any) -> Any:
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _read_folder(folder: Path) -> Checkpoint:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    config = _read_json(config_file)
    if not isinstance(model_config := config.get("model_config"), dict):
        hint = " Convert it first, with convert_model()." if config.get("model_type") == "perceiver" else ""
        raise ValueError(
            f"{folder} is not in the format of this library: config.json has no model_config, its model_type is "
            f"{config.get('model_type')!r}.{hint}"
        )
    state_dict: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        part = read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file, str(file))
        if not isinstance(part, Mapping):
            raise ValueError(
                f"{file} can't be read, it may be damaged: it holds a {type(part).__name__}, no parameters"
            )
        state_dict |= part
    return Checkpoint(model_config, _strip_prefix(state_dict, "backend_model.", str(folder)))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} can't be read, it may be damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} can't be read, it may be damaged: it holds a {type(content).__name__}, no object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            weight_map = _read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
                raise ValueError(f"{index} can't be read, it may be damaged: weight_map is no table of files")
            return [_inside(folder, file, index.name) for file in sorted(set(weight_map.values()))]
    raise FileNotFoundError(f"{folder} has no {' and no '.join(_WEIGHT_FILES)}")


def _inside(folder: Path, name: Any, index: str) -> Path:
    """The file `name` of a folder, which an index there names: it is in the folder itself."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"{folder / index} names the file {name!r}, allowed are those in its folder")
    return folder / name


def _download_folder(repo_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise FileNotFoundError(
            f"there is no file or folder {repo_id}; reading it from the hub needs pip install perceiver-io[hf]"
        ) from error
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=["config.json", "model*.safetensors*"]))
        if not any(folder.glob("model*.safetensors*")):
            folder = Path(snapshot_download(repo_id, allow_patterns=["config.json", "pytorch_model*.bin*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id} is neither a file, nor a folder, nor a repository that the hub gives access to: {error}"
        ) from error
    return folder


def read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError:  # a shard that the index names
        raise
    except (SafetensorError, *UNPICKLING_ERRORS, RuntimeError, OSError) as error:
        raise ValueError(f"{file} can't be read, it may be damaged: {error}") from error


def _strip_prefix(state_dict: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"{source} can't be read, it may be damaged: it has no table of parameters")
    stripped = {name.removeprefix(prefix): v for name, v in state_dict.items() if name.startswith(prefix)}
    if not stripped:
        raise ValueError(f"{source} has no parameter {prefix}*, but {_first(sorted(state_dict)) or 'none at all'}")
    if strange := [name for name, value in stripped.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{source} can't be read, it may be damaged: {prefix}{strange[0]} is no tensor")
    return stripped
