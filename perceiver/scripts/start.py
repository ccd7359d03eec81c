"""The entry of the training scripts, which imports nothing heavy: help and mistakes appear at once.

    main = partial(train, "mlm")

Exit codes: 0 done, 1 failed, 2 wrong usage; 130 and 143 after SIGINT and SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from perceiver.scripts import former, help as help_texts
from perceiver.scripts.flags import COMMANDS, CommandLine
from perceiver.scripts.mistakes import usage_error
from perceiver.tasks import TASKS


def train(task_name: str, args: Sequence[str] | Mapping[str, Any] | None = None) -> None:
    """Runs a command of a task: the command line `args`, `sys.argv[1:]` if None, or a configuration."""
    args = sys.argv[1:] if args is None else args
    if isinstance(args, Mapping):
        import_module("perceiver.scripts.cli").train(task_name, args)
        return
    args = list(args)
    program, commands = f"perceiver {task_name}", [*COMMANDS, *TASKS[task_name].commands]
    if not args or args[0] in ("--help", "-h"):
        print(help_texts.overview(task_name))
        sys.exit(0 if args else 2)
    if args[0] in TASKS[task_name].commands:
        import_module(TASKS[task_name].commands[args[0]].module).main(args[1:])
        return
    if args[0] in COMMANDS:
        try:
            args = former.todays(args)  # what 0.11 called otherwise
        except ValueError as error:
            fail(f"{program} {args[0]}", str(error))
        line = CommandLine(task_name, tuple(args))
        if {"--help", "-h"} & set(args):
            print(help_texts.of_command(line))
            sys.exit(0)
        if problem := usage_error(line):
            fail(f"{program} {args[0]}", problem)
        if "LOCAL_RANK" not in os.environ and not line.has("print_config"):
            print(f"{program} {args[0]}: loading torch and Lightning", file=sys.stderr, flush=True)
    elif not args[0].startswith("-"):
        close = get_close_matches(args[0], commands, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(commands)}"
        fail(program, f"there is no command {args[0]}; {hint}")
    try:
        import_module("perceiver.scripts.cli").train(task_name, args)
    except KeyboardInterrupt:  # while the libraries are imported
        sys.exit(130)


def fail(program: str, problem: str) -> NoReturn:
    """Says what is wrong with a command line, in one line, and ends."""
    print(f"{program}: {problem}", file=sys.stderr)
    sys.exit(2)
