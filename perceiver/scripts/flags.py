"""Flags of the training scripts, from the source alone: nothing heavy is imported for their help (help.py), nor for
what is wrong with a command line (mistakes.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from perceiver.scripts.signatures import (
    Found,
    Parameter,
    Signature,
    find,
    is_dataclass,
    names,
    signature,
    values,
)
from perceiver.tasks import TASKS, Task

COMMANDS = {"fit": "train", "validate": "evaluate on the validation split", "test": "evaluate on the test split"}
LIGHTNING = "pytorch_lightning.trainer.trainer"
SCHEDULES = ("ConstantWithWarmupLR", "CosineWithWarmupLR", "WarmupStableDecayLR")

# Flags that every command has, and what they are for.
COMMON = {
    "config": "File of flags, as --print_config prints them and each run saves them; flags beside it are stronger.",
    "print_config": "Print all flags with their values, in the form of such a file, and do nothing else.",
    "seed_everything": "Seed of all that is random. (default 0)",
    "compile": "Whether fit compiles its steps (torch.compile): minutes at first, faster then. (default false)",
    "help": "This text. --data=NAME --help: with the flags of that data module.",
}
OF_COMMANDS = {
    "ckpt_path": {
        "fit": "Checkpoint to go on from; `last` is that of this task's last run.",
        "validate": "Checkpoint to evaluate; `last` is that of this task's last run.",
        "test": "Checkpoint to evaluate; `last` is that of this task's last run.",
    },
}


def pairs(args: Sequence[str]) -> list[tuple[str, str | None]]:
    """Flags without dashes and their values, in order; None if a flag has none."""
    result: list[tuple[str, str | None]] = []
    for arg, following in zip_longest(args, args[1:], fillvalue="--"):
        if arg.startswith("--") or arg == "-c":
            name, is_assigned, value = ("config", "", "") if arg == "-c" else arg[2:].partition("=")
            result.append((name, value if is_assigned else None if following.startswith("--") else following))
    return result


def content(config: str | None) -> Any:
    """What a config file says, or a text in place of it."""
    config = config or ""
    return yaml.safe_load(Path(config).read_text(encoding="utf-8") if config and is_there(config) else config)


def is_there(path: str) -> bool:
    """Whether there is such a file or folder; a text that is too long for a path is none."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def of_group(content: Any, group: str) -> Any:
    """What a configuration says of a group of flags, also where it is that of several commands."""
    for candidate in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if isinstance(candidate, Mapping) and candidate.get(group) is not None:
            return candidate[group]
    return {}


@dataclass(frozen=True)
class Flags:
    """The flags below one name: `--data`, `--model`, `--optimizer`, ... Nested ones are named in full.

    Attributes:
        prefix: That name.
        classes: What `--<prefix>=NAME` can name, besides import paths. Empty: it is no choice.
        parameters: The flags, by the part of their names behind the prefix.
        is_open: Whether there may be others.
        decided: Those that something else decides, by what.
    """

    prefix: str
    classes: tuple[str, ...]
    parameters: dict[str, Parameter]
    is_open: bool
    decided: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [f"{self.prefix}.{name}" for name in self.parameters]


@dataclass(frozen=True)
class CommandLine:
    """A command line of a task: which command, and which classes it names.

    Attributes:
        task_name: Name of the task.
        args: The arguments, the command first.
    """

    task_name: str
    args: tuple[str, ...]

    @property
    def task(self) -> Task:
        return TASKS[self.task_name]

    @property
    def program(self) -> str:
        return f"perceiver {self.task_name}"

    @property
    def command(self) -> str:
        return self.args[0]

    @cached_property
    def given(self) -> list[tuple[str, str | None]]:
        return pairs(self.args[1:])

    def has(self, *names: str) -> bool:
        return any(name in names for name, _ in self.given)

    def chosen(self, prefix: str) -> str | None:
        """The class that a flag names, the last one if several do."""
        found = [value for name, value in self.given if name in (prefix, f"{prefix}.class_path")]
        return found[-1] if found else None

    @cached_property
    def data(self) -> Flags:
        name = self.chosen("data")
        found = find(self.task.data_package, name) if name in self.task.data else None
        own = signature(found) if found else Signature({}, is_open=True)
        return Flags("data", self.task.data, dict(own.parameters), own.is_open, {})

    @cached_property
    def model(self) -> Flags:
        found = find(self.task.package, f"Lit{self.task.model}")
        assert found is not None
        decided = {target: f"data.{source}" for source, targets in self.task.links.items() for target in targets}
        parameters = {name: p for name, p in nested(signature(found)) if name not in decided}
        return Flags("model", (), parameters, signature(found).is_open, decided)

    @cached_property
    def optimizer(self) -> Flags:
        name = self.chosen("optimizer") or "AdamW"
        return self._class("optimizer", name, optimizers(), ("params",))

    @cached_property
    def lr_scheduler(self) -> Flags:
        name = self.chosen("lr_scheduler") or self.task.schedule
        return self._class("lr_scheduler", name, dict.fromkeys(SCHEDULES, "perceiver.scripts.lrs"), ("optimizer",))

    def _class(self, prefix: str, name: str, modules: dict[str, str], without: tuple[str, ...]) -> Flags:
        module, _, own = name.rpartition(".")
        found = find(module or modules.get(name, ""), own)
        of_class = signature(found) if found else Signature({}, is_open=True)
        parameters = {n: p for n, p in of_class.parameters.items() if n not in without}
        return Flags(prefix, tuple(modules), parameters, of_class.is_open, {})

    @cached_property
    def trainer(self) -> Flags:
        found = find(LIGHTNING, "Trainer")
        of_class = signature(found) if found else Signature({}, is_open=True)
        return Flags("trainer", (), dict(of_class.parameters), of_class.is_open, {})

    @cached_property
    def last_checkpoint(self) -> Flags:
        found = find("perceiver.scripts.callbacks", "LastCheckpoint")
        assert found is not None
        return Flags("last_checkpoint", (), dict(signature(found).parameters), False, {})

    @property
    def groups(self) -> list[Flags]:
        return [self.data, self.model, self.optimizer, self.lr_scheduler, self.last_checkpoint, self.trainer]

    @cached_property
    def of_command(self) -> list[str]:
        """Flags of the command alone: what the trainer's method takes besides model and data."""
        found = find(LIGHTNING, "Trainer")
        methods = found.node.body if found else []
        arguments = [n.args.args for n in methods if getattr(n, "name", "") == self.command and hasattr(n, "args")]
        without = ("self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
        return [a.arg for found in arguments for a in found if a.arg not in without] or list(OF_COMMANDS)

    @property
    def all_names(self) -> list[str]:
        return [*COMMON, *self.of_command, *(name for group in self.groups for name in group.names)]


def nested(own: Signature) -> Iterator[tuple[str, Parameter]]:
    """The parameters of a class, and in place of configs their fields, `encoder.dropout` for example."""
    for name, parameter in own.parameters.items():
        if config := config_of(parameter):
            yield from ((f"{name}.{field}", p) for field, p in nested(signature(config)))
        else:
            yield name, parameter


def config_of(parameter: Parameter) -> Found | None:
    """The config class that is a parameter's type, if one is."""
    found = find(parameter.module, parameter.annotation) if parameter.annotation.isidentifier() else None
    return found if found and is_dataclass(found) else None


@cache
def optimizers() -> dict[str, str]:
    """Names of optimizers, and the package of each. A name of both packages is torch's."""
    result: dict[str, str] = {}
    for package in ("pytorch_optimizer.optimizer", "torch.optim"):
        result |= {name: package for name in names(package) if name[0].isupper() and name != "Optimizer"}
    return result


def default_values(line: CommandLine) -> dict[str, object]:
    """Defaults of the model's flags, of the task's named variant."""
    found = find(line.task.package, line.task.variant)
    return dict(_flat(values(found))) if found else {}


def _flat(values: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
