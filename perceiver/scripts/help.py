"""Help of the training scripts: what a task has on offer, and the flags of a command, those of the task first."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping

from perceiver.scripts.flags import COMMANDS, COMMON, OF_COMMANDS, CommandLine, Flags, default_values
from perceiver.scripts.signatures import Parameter, find
from perceiver.tasks import TASKS


def overview(task_name: str) -> str:
    """What commands a task has."""
    task, program = TASKS[task_name], f"perceiver {task_name}"
    commands = COMMANDS | {name: command.help for name, command in task.commands.items()}
    examples = ", ".join(task.data[:2])
    return "\n".join(
        [
            f"usage: {program} COMMAND [--flag=value ...]",
            "",
            f"{task.title[0].upper()}{task.title[1:]}: training and use.",
            "",
            *(f"  {name:<12}{text}" for name, text in commands.items()),
            "",
            *wrapped(f"{program} COMMAND --help lists the flags of a command. A data module ({examples}, ...) has its "
                     f"own: {program} fit --data={task.data[0]} --help.", 0),
        ]
    )  # fmt: skip


def of_command(line: CommandLine) -> str:
    """The flags of fit, validate or test."""
    task, command = line.task, f"{line.program} {line.command}"
    text = [f"usage: {command} --data=NAME [--flag=value ...]", "", *wrapped(_about(line), 0), "", "Data"]
    if line.chosen("data") in task.data:
        defaults = (task.data_default or {}).get("init_args", {})
        text += ["", f"  --data={line.chosen('data')}", *_flags(line.data, defaults)]
    else:
        text += ["", "  --data=NAME", *wrapped(f"Where examples come from. Flags of one: {command} --data=NAME --help")]
        for name in task.data:
            found = find(task.data_package, name)
            text += wrapped(f"{name}: {found.summary if found else ''}")
    text += ["", "Model", "", *_flags(line.model, default_values(line))]
    text += ["", f"Optimizer, {line.chosen('optimizer') or 'AdamW'}", "", "  --optimizer=NAME"]
    text += [*wrapped("Of torch.optim or pytorch_optimizer. (default AdamW)"), *_flags(line.optimizer, {"lr": 0.001})]
    text += ["", f"Learning rate, {line.chosen('lr_scheduler') or task.schedule}", ""]
    text += [f"  --lr_scheduler={'|'.join(line.lr_scheduler.classes)}", *_flags(line.lr_scheduler, {})]
    text += ["", "Run", ""]
    for name, doc in COMMON.items():
        text += [f"  --{name}", *wrapped(doc)]
    for name in line.of_command:
        text += [f"  --{name}", *wrapped(OF_COMMANDS.get(name, {}).get(line.command, ""))]
    text += _flags(line.last_checkpoint, {}) if line.command == "fit" else []
    text += ["", "Trainer, as in Lightning's documentation", "", *_flags(line.trainer, TRAINER_DEFAULTS, brief=True)]
    return "\n".join(text)


TRAINER_DEFAULTS = {"default_root_dir": "logs", "logger": "TensorBoardLogger", "callbacks": "see trainer.yaml"}


def _about(line: CommandLine) -> str:
    variant = find(line.task.package, line.task.variant)
    does = {"fit": "Trains", "validate": "Evaluates, on the validation split,", "test": "Evaluates, on the test split,"}
    decided = ", ".join(sorted({target.rpartition(".")[2] for target in line.model.decided}))
    return (
        f"{does[line.command]} a {line.task.title}. Without flags for the model it is {line.task.variant}: "
        f"{variant.summary if variant else ''} The data module decides {decided}."
    )


def _flags(group: Flags, defaults: Mapping[str, object], *, brief: bool = False) -> list[str]:
    lines = []
    for name, parameter in group.parameters.items():
        lines.append(f"  --{group.prefix}.{name}")
        lines += wrapped(_doc(parameter, defaults.get(name), is_given=name in defaults, brief=brief))
    return lines


def _doc(parameter: Parameter, default: object, *, is_given: bool, brief: bool) -> str:
    """What a flag is for, its type and its default."""
    doc = parameter.doc
    if brief:
        doc = re.split(r"(?<=\.)\s|\s*Default:", re.sub(r"``|:\w+:|`~?", "", doc), maxsplit=1)[0]
    value = str(default) if is_given else parameter.default
    value = {"None": "null", "True": "true", "False": "false"}.get(value or "", value)
    shown = "required" if value is None else f"default {value}"
    return f"{doc} ({parameter.annotation}; {shown})".lstrip()


def wrapped(text: str, indent: int = 6) -> list[str]:
    """Lines of a text that fit the terminal, or 80 columns."""
    width = min(shutil.get_terminal_size().columns, 100)
    space = " " * indent
    return textwrap.wrap(text, max(width, 40), initial_indent=space, subsequent_indent=space, break_long_words=False)
