"""A folder is complete or absent, has a name of its own, and is what its key says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver.data.cache import FORMAT_VERSION, Cache, read_array


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
    assert names(made.directory) == ["a.tokens.npy", "b.json", "key.json"]
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
        ("{", "is no cache of this version, delete it: Expecting"),
        ("[]", r"is no cache of this version, delete it: key.json holds \[\]"),
        (None, "is no cache of this version, delete it: .*No such file"),
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
        with pytest.raises(ValueError, match="is damaged, delete it"):
            read_array(tmp_path, name)
