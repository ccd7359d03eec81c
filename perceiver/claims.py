"""Unfinished files and folders: who works on them, and what becomes of those whose process was killed.

Their names hold that of the machine, and their process has a lock on them, which ends with it: what nobody has a lock
on was left behind. Where there are no such locks, on Windows and some network file systems, nothing is ever taken for
left behind. The name of the machine is there because some network file systems keep locks to themselves.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from glob import escape
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MACHINE = re.sub(r"\W", "_", platform.node())


class Claim:
    """A lock on an unfinished file or folder, which this process has until `release`, or until its end.

    Forked processes have it, too: it ends with the last of them.

    Args:
        path: File or folder.
        wait: Wait for the process that has it.

    Raises:
        BlockingIOError: if another process has it, or it is gone.
    """

    def __init__(self, path: Path, *, wait: bool = False):
        self.path, self._handle = path, -1
        if sys.platform == "win32":
            return
        try:
            self._handle = os.open(path, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not os.path.samestat(os.fstat(self._handle), path.stat()):
                raise BlockingIOError(f"{path} is another one by now")
        except (BlockingIOError, FileNotFoundError) as error:
            self.release()
            raise BlockingIOError(f"another process works on {path}") from error
        except OSError:  # no locks here
            self.release()

    @property
    def locked(self) -> bool:
        """False where there are no locks."""
        return self._handle >= 0

    def release(self) -> None:
        if self.locked:
            os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def abandoned(folder: Path, prefix: str, suffix: str = "") -> Iterator[Claim]:
    """Claims what processes of this machine have left in a folder, named `<prefix><machine>-<anything><suffix>`."""
    for path in sorted(folder.glob(f"{escape(prefix)}{MACHINE}-*{suffix}")):
        try:
            claim = Claim(path)
        except BlockingIOError:
            continue
        if claim.locked:
            yield claim
