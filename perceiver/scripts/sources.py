"""What flags of the model come from: the command line, or the checkpoint that a run starts from.

A model that starts from `--ckpt_path`, `--model.params` or `--model.encoder.params` has the geometry of what is there.
Flags need not repeat it, and those that contradict it are errors.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.core.config import flat, is_training_field
from perceiver.scripts.flags import content, of_group, pairs

# What the parts of a model take along from where their parameters are: latents are the encoder's.
TAKEN = {"": ("",), "encoder": ("encoder.", "num_latents", "num_latent_channels"), "decoder": ("decoder.",)}


def given_flags(args: Sequence[str] | Mapping[str, Any] | Namespace | None, group: str) -> dict[str, Any]:
    """The flags below `--<group>` in a command line and its config files, nested ones as in `flat`."""
    if isinstance(args, Namespace):
        args = args.as_dict()
    if isinstance(args, Mapping):
        return flat(of_group(args, group))
    args = sys.argv[1:] if args is None else args
    result: dict[str, Any] = {}
    for name, value in pairs(args):
        if name == "config":
            found = of_group(content(value), group)
            result |= flat(found) if isinstance(found, Mapping) else {}
        elif value is not None and (name == group or name.startswith(f"{group}.")):
            values = yaml.safe_load(value)
            for part in reversed(name.split(".")[1:]):
                values = {part: values}
            result |= flat(values) if isinstance(values, Mapping) else {}
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flat`."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return result


def from_checkpoint(
    source: str,
    flag: str,
    flags: Collection[str],
    config_flags: Collection[str],
    given: Mapping[str, Any],
    strict: bool,
) -> dict[str, Any]:
    """Values of the model's flags that a checkpoint decides, flat.

    Args:
        source: See `read_checkpoint`.
        flag: Where it was given: "ckpt_path", "model.params", "model.encoder.params" or "model.decoder.params".
        flags: The model's flags.
        config_flags: Those that are fields of its configuration.
        given: Those that were given, which stay as they are.
        strict: Refuse given flags that contradict the checkpoint. Those that matter to training alone never do.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it can't be read or is not for this model, or if given flags contradict it.
    """
    resumed, part = flag == "ckpt_path", flag.removeprefix("model.").removesuffix("params").rstrip(".")
    part = "" if resumed else part
    there = flat(read_checkpoint(source).hyper_parameters)
    kept = ("params",) if resumed else ("params", "freeze", "activation_checkpointing", "activation_offloading")
    taken = {
        name: value
        for name, value in there.items()
        if name in (flags if resumed else config_flags) and name.startswith(TAKEN[part]) and not name.endswith(kept)
    }
    if not taken:
        raise ValueError(f"--{flag}={source}: there is no {part or 'such model'} in it")
    wrong = [
        f"--model.{name}={_text(given[name])} here and {_text(value)} there"
        for name, value in taken.items()
        if name in given and name in config_flags and not is_training_field(name) and given[name] != value
    ]
    if strict and wrong:
        way = "" if resumed else ", or set --model.params_strict=false"
        raise ValueError(f"--{flag}={source} is of another model: {'; '.join(wrong)} (leave these flags away{way})")
    return {name: value for name, value in taken.items() if name not in given}


def _text(value: Any) -> str:
    """A value as flags have it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def last_checkpoint(trainer: Namespace) -> str:
    """The last `last.ckpt` that runs with these flags of the trainer wrote.

    Raises:
        FileNotFoundError: if there is none.
    """
    root = Path(trainer.default_root_dir or ".")
    logger = trainer.logger
    if isinstance(logger, Namespace):
        arguments = logger.init_args
        places = [(Path(arguments.save_dir or root, arguments.get("name") or "lightning_logs"), "*/checkpoints")]
    else:
        places = [(root, "checkpoints")] if logger is False else [(root / "lightning_logs", "*/checkpoints")]
    for callback in trainer.callbacks or []:
        if folder := callback.as_dict().get("init_args", {}).get("dirpath"):
            places.append((Path(folder), "."))
    found = [file for folder, pattern in places for file in folder.glob(f"{pattern}/last.ckpt")]
    if not found:
        looked = " and ".join(str(folder / pattern) for folder, pattern in places)
        raise FileNotFoundError(f"--ckpt_path=last: there is no last.ckpt in {looked}")
    return str(max(found, key=lambda file: file.stat().st_mtime))
