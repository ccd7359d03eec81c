"""Flags of the training scripts, from the source alone: their help, and what is wrong with a command line.

Both appear before torch and Lightning are imported. The check finds misspelt flags, misspelt names of classes, missing
flags and values of a wrong kind; what it lets pass, the parser in `cli.py` decides. It never refuses what that accepts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
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
    members,
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


def usage_error(line: CommandLine) -> str | None:
    """What is wrong with a command line, in one line. None: nothing that can be seen without the parser."""
    for name, value in line.given:
        if problem := _flag_error(line, name, value) or _file_error(line, name, value):
            return problem
    return _stray_error(line) or _missing_error(line)


def _flag_error(line: CommandLine, name: str, value: str | None) -> str | None:
    name = name.removesuffix("+")
    if name in (*COMMON, *line.of_command) or name.endswith(".help"):
        return None
    prefix, _, rest = name.partition(".")
    group = next((group for group in line.groups if group.prefix == prefix), None)
    if group is None:
        return unknown(f"flag --{name}", name, line)
    if not rest or rest == "class_path":
        return _class_error(group, value, line)
    rest = rest.removeprefix("init_args.")
    if rest in group.decided:
        return f"--{name} is no flag: --data decides it, see --{group.decided[rest]} there"
    if rest in group.parameters:
        expected = kind(group.parameters[rest].annotation)
        wrong = expected and value is not None and not re.fullmatch(expected[1], value)
        return f"--{name}={value}: it must be {expected[0]}" if expected and wrong else None
    first = rest.split(".")[0]
    parents = {known.split(".")[0] for known in group.parameters if "." in known}
    is_nested = first in group.parameters and not kind(group.parameters[first].annotation)
    if group.is_open or is_nested or rest in parents or rest.startswith("dict_kwargs"):
        return None
    return unknown(f"flag --{name}", name, line)


def _class_error(group: Flags, value: str | None, line: CommandLine) -> str | None:
    """A misspelt class. Import paths, files, and whole values in YAML are left to the parser."""
    if value is None or not value.isidentifier() or value in (*group.classes, "null", "None"):
        return None
    if not group.classes or Path(value).is_file() or is_imported(value):
        return None
    kinds = {"data": "data module", "optimizer": "optimizer", "lr_scheduler": "learning-rate schedule"}
    close = get_close_matches(value.lower(), [name.lower() for name in group.classes], 1, 0.5)
    likely = [name for name in group.classes if name.lower() in close]
    hint = f"did you mean {likely[0]}?" if likely else f"there are {', '.join(sorted(group.classes)[:12])}"
    return f"{line.task.title}s know no {kinds[group.prefix]} {value}; {hint}"


def is_imported(name: str) -> bool:
    """Whether a module that is there already has such a class: the program that called has data modules of its own."""
    return any(isinstance(getattr(module, "__dict__", {}).get(name), type) for module in list(sys.modules.values()))


def _file_error(line: CommandLine, name: str, value: str | None) -> str | None:
    if name not in ("config", "ckpt_path") or not value or "://" in value:
        return None
    if is_there(value):
        return _content_error(value) if name == "config" else None
    if name == "ckpt_path" and (
        line.has("print_config") or value in ("last", "best", "hpc", "null") or value.startswith("registry")
    ):
        return None
    if name == "config" and not re.fullmatch(r"[\w./~-]+\.ya?ml", value):
        return None  # the content of a file, say
    return f"--{name}={value}: there is no such file"


def _content_error(config: str) -> str | None:
    try:
        content(config)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return f"--config={config} can't be read: {' '.join(str(error).split())}"
    return None


def _stray_error(line: CommandLine) -> str | None:
    """An argument that is neither a flag nor the value of one."""
    previous = "--flag=value"
    for arg in line.args[1:]:
        is_value = (previous.startswith("-") and "=" not in previous) and previous not in ("--print_config", "--help")
        if not arg.startswith("-") and not is_value:
            return f"{arg!r} is neither a flag nor the value of one"
        previous = arg
    return None


def _missing_error(line: CommandLine) -> str | None:
    if line.has("print_config") or any(name.endswith("help") for name, _ in line.given):
        return None
    files = [value for name, value in line.given if name == "config"]
    if any(of_group(content(file), "data") for file in files):
        return None
    if line.chosen("data") is None:
        return (
            f"--data is missing, the name of a data module: {line.task.data[-1]}, for example "
            f"({line.program} {line.command} --help lists them)"
        )
    given = {name.removeprefix("data.").removeprefix("init_args.") for name, _ in line.given}
    defaults = (line.task.data_default or {}).get("init_args", {})
    required = [name for name, p in line.data.parameters.items() if p.default is None and name not in defaults]
    if missing := [f"--data.{name}" for name in required if name not in given]:
        return f"{line.chosen('data')} needs {' and '.join(missing)}"
    return None


# What simple types look like, and what they are called.
KINDS = {
    "int": ("an integer", r"[+-]?(\d[\d_]*|0x[\da-fA-F_]+)"),
    "float": ("a number", r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\.?(inf|nan|Inf|NaN)"),
    "bool": ("true or false", r"(?i:true|false|yes|no|on|off|y|n)"),
    "None": ("null", r"(?i:null|none|~|)"),
}


def kind(annotation: str) -> tuple[str, str] | None:
    """What a value of a type is called, and a pattern that it matches; None for types that are not simple."""
    words, patterns = [], []
    for member in members(annotation):
        if literal := re.fullmatch(r"Literal\[(.*)\]", member):
            choices = [choice.strip(" '\"") for choice in literal[1].split(",")]
            words += choices
            patterns += [re.escape(choice) for choice in choices]
        elif member in KINDS:
            words.append(KINDS[member][0])
            patterns.append(KINDS[member][1])
        else:
            return None
    return (" or ".join(dict.fromkeys(words)), "|".join(patterns)) if words else None


def unknown(what: str, name: str, line: CommandLine) -> str:
    """That there is no such flag, with the one that is most likely meant."""
    known = line.all_names
    last, prefix = name.rpartition(".")[2], name.rpartition(".")[0]
    same_prefix = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == prefix}
    anywhere = {k.rpartition(".")[2]: k for k in reversed(known)}
    for candidates in (same_prefix, anywhere):
        if close := get_close_matches(last, list(candidates), 1, 0.7):
            return f"there is no {what}; did you mean --{candidates[close[0]]}?"
    first, _, rest = name.partition(".")
    if rest and (close := get_close_matches(first, [group.prefix for group in line.groups], 1)) and close[0] != first:
        return f"there is no {what}; did you mean --{close[0]}.{rest}?"
    return f"there is no {what}; {line.program} {line.command} --help lists them"


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
