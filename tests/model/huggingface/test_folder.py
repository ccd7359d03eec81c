"""A folder is replaced as a whole: by one process of many, whenever one is killed, and what a kill left is removed."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from perceiver.claims import MACHINE
from perceiver.model.huggingface.folder import replaced

ROOT = Path(__file__).parents[3]
NAMES = ("config.json", "model.safetensors", "tokenizer.json")

HAS_EXCHANGE = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "renameat2")

# Replaces a folder again and again: three files that say who wrote them.
WRITER = f"""
import sys
from perceiver.model.huggingface.folder import replaced

target, own, rounds = sys.argv[1:]
for i in range(int(rounds)):
    with replaced(target, {NAMES!r}) as folder:
        for name in {NAMES!r}:
            (folder / name).write_text(f"{{own}} {{i}}" * 1000)
    print(i, flush=True)
"""


@pytest.fixture(params=["one step", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Systems that exchange two folders in one step, and those that can't."""
    if request.param == "two steps":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: SimpleNamespace())
    return str(request.param)


def write(target: Path, text: str) -> None:
    with replaced(target, NAMES) as folder:
        for name in NAMES:
            (folder / name).write_text(text)


def contents(target: Path) -> set[str]:
    return {(target / name).read_text() for name in NAMES}


def test_new_and_existing_folder(way: str, tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    for text in ("one", "two", "three"):
        write(target, text)
        assert contents(target) == {text} and list(target.parent.iterdir()) == [target]


def test_what_stays(way: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    write(target, "one")
    (target / "README.md").write_text("mine")
    (target / "logs" / "deep").mkdir(parents=True)
    (target / "logs" / "deep" / "a.txt").write_text("log")
    (target / "logs" / "link").symlink_to("deep")
    with replaced(target, ["*.json"]) as folder:
        (folder / "model.safetensors").write_text("two")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "logs", "model.safetensors"]
    assert (target / "model.safetensors").read_text() == "two" and (target / "README.md").read_text() == "mine"
    assert (target / "logs" / "link" / "a.txt").read_text() == "log" and (target / "logs" / "link").is_symlink()


def test_a_link_stays_one(way: str, tmp_path: Path) -> None:
    write(tmp_path / "v1", "one")
    (tmp_path / "latest").symlink_to("v1")
    write(tmp_path / "latest", "two")
    assert (tmp_path / "latest").is_symlink() and contents(tmp_path / "v1") == {"two"}


def test_failure_changes_nothing(way: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    write(target, "one")
    with pytest.raises(RuntimeError, match="stopped"), replaced(target, NAMES) as folder:
        (folder / "config.json").write_text("two")
        raise RuntimeError("stopped")
    assert contents(target) == {"one"} and list(tmp_path.iterdir()) == [target]


def test_folders_of_others_are_not_touched(tmp_path: Path) -> None:
    others = [f"{name}.converting-{MACHINE}-x" for name in (".other", ".model2")]
    names = [".model.backup", ".model.converting-elsewhere-x", *others]
    for name in names:
        (tmp_path / name).mkdir()
    for name in ("model", "model[2]"):
        write(tmp_path / name, "one")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "model", "model[2]"}


def test_killed_between_two_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system has no exchange, a kill may leave no folder: the next process brings the old one back."""
    target = tmp_path / "model"
    write(target, "one")
    left = tmp_path / f".model.converting-{MACHINE}-abc"
    (left / "new").mkdir(parents=True)
    target.rename(left / "old")
    with pytest.raises(RuntimeError), replaced(target, NAMES):
        assert contents(target) == {"one"} and not left.exists()
        raise RuntimeError
    assert contents(target) == {"one"} and list(tmp_path.iterdir()) == [target]


def test_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file system that locks no folders: what others left stays, it might be in use."""

    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    left = tmp_path / f".model.converting-{MACHINE}-abc"
    left.mkdir()
    for text in ("one", "two"):
        write(tmp_path / "model", text)
    assert contents(tmp_path / "model") == {"two"}
    assert set(tmp_path.iterdir()) == {left, tmp_path / "model"}


def start(target: Path, own: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(target), own, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_processes_at_once(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write(target, "start")
    processes = [start(target, own, 40) for own in ("a", "b")]
    while any(process.poll() is None for process in processes):
        assert target.is_dir() or not HAS_EXCHANGE
    assert [len(process.communicate()[0].split()) for process in processes] == [40, 40]
    assert len(contents(target)) == 1 and list(tmp_path.iterdir()) == [target]


def test_killed_at_any_time(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write(target, "start")
    for i in range(4):
        process = start(target, str(i), 10_000)
        assert process.stdout is not None
        for _ in range(1 + 3 * i):
            process.stdout.readline()  # so many rounds, and a part of another
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(contents(target)) == 1 and contents(target).pop().startswith(f"{i} ")
    write(target, "end")
    assert contents(target) == {"end"} and list(tmp_path.iterdir()) == [target]
