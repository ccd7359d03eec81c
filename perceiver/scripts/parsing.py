"""A parser that says what is wrong with a command line in one line."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser


class OneLineErrors(ArgumentParser):
    """Prints an error without usage and without the alternatives that nobody meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        print(f"{program}: {condensed(message)} ({program} --help lists all flags)", file=sys.stderr)
        self.exit(2)


def condensed(message: str) -> str:
    """An error of the parser in one line."""
    noise = r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a path but"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = list(dict.fromkeys(line for line in lines if not re.match(noise, line)))
    return re.sub(r'Parser key "(.*?)":', r"--\1:", " ".join(lines))
