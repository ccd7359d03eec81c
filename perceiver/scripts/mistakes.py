"""What is wrong with a command line of a training script, before torch and Lightning are imported.

Found are misspelt flags, misspelt names of classes, missing flags, values of a wrong kind and files that can't be read.
What this lets pass, the parser in `cli.py` decides. It never refuses what that accepts.
"""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from pathlib import Path

import yaml

from perceiver.scripts.flags import COMMON, CommandLine, Flags, content, is_there, of_group
from perceiver.scripts.signatures import members


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
