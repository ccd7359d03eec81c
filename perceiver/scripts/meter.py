"""How far something is: a bar in a terminal, lines at intervals where the output goes to a file."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_UPDATES = 0.2  # of a bar


class Meter:
    """Shows how far something is.

    Args:
        what: What is counted, "step" for example.
        total: How many there will be, None if nobody knows.
        first: How many there were before.
        leave: Whether the bar stays when it is full.
        position: Line of the bar, 0 for the first.
        file: Where to, stdout by default.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        first: int = 0,
        leave: bool = True,
        position: int = 0,
        file: TextIO | None = None,
    ):
        self.what, self.total, self.first = what, total, first
        self.file = sys.stdout if file is None else file
        self.begun = self.shown = time.monotonic()
        self.bar: Any = None
        if self.file.isatty():
            from tqdm import tqdm

            form = "{desc} {n_fmt}" if total is None else "{desc} {n_fmt}/{total_fmt} |{bar:12}| {elapsed}<{remaining}"
            self.bar = tqdm(
                desc=what,
                total=total,
                initial=first,
                leave=leave,
                position=position,
                file=self.file,
                dynamic_ncols=True,
                bar_format=form + "{postfix}",
            )

    def is_time(self) -> bool:
        """Whether so much time is over that it should be shown again."""
        interval = SECONDS_BETWEEN_LINES if self.bar is None else SECONDS_BETWEEN_UPDATES
        return time.monotonic() - self.shown >= interval

    def show(self, number: int, text: str = "") -> None:
        """Shows that it is at `number`, and something about it."""
        self.shown = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.n = number
            self.bar.refresh()
            return
        rate = (number - self.first) / max(self.shown - self.begun, 1e-6)
        left = f", {clock((self.total - number) / rate)} left" if self.total and rate and number < self.total else ""
        parts = [self.at(number), text, f"{rate:.3g}/s{left}" if rate else ""]
        self.print("  ".join(part for part in parts if part))

    def at(self, number: int) -> str:
        """ "step 7/9" """
        return f"{self.what} {number:,}" + (f"/{self.total:,}" if self.total else "")

    def print(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(text, file=self.file)
        else:
            print(text, file=self.file, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """ "1:02:03" """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
