"""Replacing a folder as a whole: whoever looks, and whenever a process is killed, it is the old one or the new one.

Files are written to a hidden folder beside it, `.<name>.converting-<machine>-<random>`, which its process has a lock
on. Then the two change places in one step. A hidden folder whose process was killed is removed by the next one that
comes. Where folders can't be locked (NFS), one of two conversions at once may fail, and nobody cleans up.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perceiver.claims import MACHINE, Claim, abandoned

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def replaced(target: str | Path, patterns: Sequence[str]) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of `target` at the end of the context, unless it fails.

    Args:
        target: Folder, there or not. Its parents are made. Of several processes with one `target` each writes to a
            folder of its own, and what the last one has written stays.
        patterns: Files of an existing `target` that do not stay. Others do, unless there are new ones of their names.
    """
    target = Path(os.path.realpath(target))  # of a link, what it points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.converting-"
    with Claim(target.parent, wait=True):
        _clean_up(target, prefix)
        own = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{prefix}{MACHINE}-"))
        claim = Claim(own)
    try:
        new = own / "new"
        new.mkdir()
        yield new
        with Claim(target.parent, wait=True):
            if target.exists():
                _keep_others(target, new, patterns)
                _exchange(new, target, own / "old")
            else:
                new.rename(target)
    finally:
        shutil.rmtree(own)
        claim.release()


def _keep_others(old: Path, new: Path, patterns: Sequence[str]) -> None:
    """Links into `new` what is in `old`, except for names that `new` has and `patterns`."""
    for path in old.iterdir():
        if (new / path.name).exists() or any(path.match(pattern) for pattern in patterns):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(source: str | Path, destination: str | Path) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, destination, follow_symlinks=False)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Puts `new` in the place of `target`, in one step where the system has that. `target` becomes `new` or `old`."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "renameat2"):
        paths = (os.fsencode(path) for path in (new, target))
        if libc.renameat2(_AT_FDCWD, next(paths), _AT_FDCWD, next(paths), _RENAME_EXCHANGE) == 0:
            return
    target.rename(old)  # killed after this, `_clean_up` brings it back
    new.rename(target)


def _clean_up(target: Path, prefix: str) -> None:
    """Removes what killed processes left beside `target`, and brings back what one had taken away."""
    for left in abandoned(target.parent, prefix):
        if not target.exists() and (left.path / "old").is_dir():
            (left.path / "old").rename(target)
        shutil.rmtree(left.path)
        left.release()
