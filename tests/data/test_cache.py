"""A folder is complete or absent, has a name of its own, and is what its key says."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver.claims import MACHINE
from perceiver.data.cache import FORMAT_VERSION, ArrayFile, Cache, read_array, read_offsets


def write(work: Path, result: Path) -> None:
    (work / "left").write_text("over")
    (result / "a.tokens.npy").touch()
    (result / "b.json").write_text("[1]")


def cache(folder: Path, fill: Any = write, **key: Any) -> Cache:
    return Cache(folder, lambda: {"x": 3, **key}, fill)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_has_what_was_written_and_the_key(tmp_path):
    made = cache(tmp_path / "new" / "data")
    assert made.read("b.json") == [1]  # made when it is needed
    assert names(tmp_path / "new" / "data") == [made.directory.name]
    assert names(made.directory) == ["a.tokens.npy", "b.json", "checksums.json", "key.json"]
    assert made.splits() == ["a"]
    assert json.loads((made.directory / "key.json").read_text()) == {"x": 3, "format_version": FORMAT_VERSION}


def test_the_name_is_a_function_of_the_key(monkeypatch):
    monkeypatch.setattr("perceiver.data.cache.FORMAT_VERSION", 4)
    assert cache(Path("a")).directory == Path("a/576c78ead161f400")
    assert cache(Path("b"), y=1).directory.name == Cache("b", lambda: {"y": 1, "x": 3}, write).directory.name
    others = {cache(Path("b"), **key).directory.name for key in ({}, {"y": 1}, {"x": 4}, {"x": "3"})}
    monkeypatch.setattr("perceiver.data.cache.FORMAT_VERSION", 5)
    assert len(others | {cache(Path("b")).directory.name}) == 5


def test_a_folder_is_made_once(tmp_path):
    cache(tmp_path).prepare()
    cache(tmp_path, None).prepare()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
    def fail(work: Path, result: Path) -> None:
        write(work, result)
        raise error

    with pytest.raises(error):
        cache(tmp_path, fail).prepare()
    assert names(tmp_path) == []
    cache(tmp_path).prepare()
    assert len(names(tmp_path)) == 1


def test_the_faster_of_two_processes_wins(tmp_path):
    def slow(work: Path, result: Path) -> None:
        (result / "b.json").write_text("[2]")
        cache(tmp_path).prepare()

    assert cache(tmp_path, slow).read("b.json") == [1]
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("{", "is no cache of this version, delete it: key.json: Expecting"),
        ("[]", r"is no cache of this version, delete it: key.json holds \[\]"),
        (None, "is no cache of this version, delete it: key.json: .*No such file"),
        ('{"x": 3}', f"was made with format_version=None, not {FORMAT_VERSION}: delete it"),
        (f'{{"x": 4, "format_version": {FORMAT_VERSION}}}', "was made with x=4, not 3: delete it"),
    ],
)
def test_a_folder_that_another_version_made(tmp_path, key, message):
    made = cache(tmp_path)
    with pytest.raises(ValueError, match=r"does not exist: call prepare_data\(\) before setup\(\)"):
        made.check()
    made.prepare()
    made.check()
    (made.directory / "key.json").unlink()
    if key is not None:
        (made.directory / "key.json").write_text(key)
    with pytest.raises(ValueError, match=message):
        made.check()


def test_arrays_are_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    assert isinstance(read_array(tmp_path, "a"), np.memmap) and read_array(tmp_path, "a").tolist() == [0, 1, 2]
    (tmp_path / "b.npy").write_text("")
    for name in "bc":
        with pytest.raises(ValueError, match=rf"is damaged, delete it: {name}.npy: "):
            read_array(tmp_path, name)
    np.save(tmp_path / "d.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"delete it: d.npy has float64 of shape \(3, 2\)"):
        read_array(tmp_path, "d")


@pytest.mark.parametrize("offsets", [[], [0, 4], [1, 5], [0, 3, 2, 5], [0, -1, 5]])
def test_offsets_go_from_the_first_to_the_last(tmp_path, offsets):
    np.save(tmp_path / "a.npy", np.array([0, 2, 2, 5]))
    assert read_offsets(tmp_path, "a", 5).tolist() == [0, 2, 2, 5]
    np.save(tmp_path / "a.npy", np.array(offsets, np.int64))
    with pytest.raises(ValueError, match=r"delete it: a.npy must go from 0 to 5 and never decrease"):
        read_offsets(tmp_path, "a", 5)


def test_every_byte_of_a_header_may_be_damaged(tmp_path):
    """An array, or one error that names the file."""
    np.save(tmp_path / "a.npy", np.arange(3))
    content = (tmp_path / "a.npy").read_bytes()
    kept, refused = 0, 0
    for place in range(len(content) - 24):
        for bit in (0, 4, 7):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            (tmp_path / "b.npy").write_bytes(damaged)
            try:
                kept += read_array(tmp_path, "b").ndim
            except ValueError as error:
                assert str(error).startswith(f"{tmp_path} is damaged, delete it: b.npy")
                refused += 1
    assert kept > 0 and refused > 100


def test_files_are_what_was_written(tmp_path, monkeypatch):
    """The content of small files and the size of large ones."""
    monkeypatch.setattr("perceiver.data.cache.SMALL_BYTES", 20)

    def fill(work: Path, result: Path) -> None:
        (result / "small").write_text("1" * 20)
        (result / "large").write_text("1" * 21)

    made = cache(tmp_path, fill)
    made.prepare()
    (made.directory / "large").write_text("2" * 21)
    (made.directory / "new").touch()
    made.check()
    for name, content in {"small": "1" * 19 + "2", "large": "1" * 20}.items():
        before = (made.directory / name).read_text()
        (made.directory / name).write_text(content)
        with pytest.raises(ValueError, match=rf"is damaged, delete it: {name} is not what was written"):
            made.check()
        (made.directory / name).write_text(before)
    (made.directory / "small").unlink()
    with pytest.raises(ValueError, match=r"is damaged, delete it: small is not what was written"):
        made.check()


FILLING = """
import os, sys, time
from pathlib import Path
from perceiver.data.cache import Cache

def fill(work, result):
    (result / "b.json").write_text("[1]")
    print("ready", flush=True)
    time.sleep(3600)

Cache(sys.argv[1], lambda: {"x": 3}, fill).prepare()
"""


def start_filling(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", FILLING, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGTERM nor these locks")
def test_what_is_left_of_an_ended_process(tmp_path):
    """SIGTERM leaves nothing. What SIGKILL leaves is removed by the next one; what a living process has, is not."""
    with start_filling(tmp_path) as process:
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM and names(tmp_path) == []
    with start_filling(tmp_path) as killed, start_filling(tmp_path) as alive:
        killed.kill()
        killed.wait()
        assert len(names(tmp_path)) == 2
        cache(tmp_path, y=1).prepare()
        left = names(tmp_path)
        assert len(left) == 2 and sum(name.startswith(f"incomplete-{MACHINE}-") for name in left) == 1
        alive.terminate()
    assert names(tmp_path) == [cache(tmp_path, y=1).directory.name]


def test_the_folder_of_another_machine_stays(tmp_path):
    (tmp_path / "incomplete-other-machine-a").mkdir()
    cache(tmp_path).prepare()
    assert len(names(tmp_path)) == 2


def test_a_signal_handler_of_others_stays(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        handler = signal.getsignal(signal.SIGTERM)

        def fill(work: Path, result: Path) -> None:
            assert signal.getsignal(signal.SIGTERM) is handler

        cache(tmp_path, fill).prepare()
    finally:
        signal.signal(signal.SIGTERM, before)
    cache(tmp_path, y=1).prepare()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk(tmp_path):
    def fill(work: Path, result: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=rf"{tmp_path} has no space left: what was begun there is deleted") as caught:
        cache(tmp_path, fill).prepare()
    assert caught.value.errno == errno.ENOSPC and names(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.int64])
def test_arrays_are_written_part_by_part(tmp_path, dtype):
    parts = [[], [1, 2, 3], [], [4] * 100_000]
    with ArrayFile(tmp_path / "a.npy", dtype) as file:
        for part in parts:
            file.write(np.array(part, np.int64))
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == dtype and found.tolist() == sum(parts, [])
    with pytest.raises(KeyError), ArrayFile(tmp_path / "b.npy", dtype) as file:
        file.write(np.ones(3))
        raise KeyError
    assert len(np.load(tmp_path / "b.npy")) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    """It used to be SIGBUS, and no message."""

    def fill(work: Path, result: Path) -> None:
        with ArrayFile(result / "a.npy", np.int64) as file:
            for _ in range(100):
                file.write(np.ones(1000))

    with pytest.raises(OSError, match="has no space left: what was begun there is deleted"):
        cache(small_disk, fill).prepare()
    assert names(small_disk) == []
    cache(small_disk).prepare()
