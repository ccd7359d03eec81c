"""Checkpoint folders of Lightning's `ModelParallelStrategy`: what they hold is read, and nothing in them is run.

`tests/scripts/test_distributed.py` reads those that two processes have written.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from perceiver.model.core.checkpoint import read_checkpoint
from tests.model.helpers import assert_same_parameters

TENSORS = {
    "model.a": torch.arange(6.0).reshape(2, 3),
    "model.b": torch.ones(5, dtype=torch.bfloat16),
    "model.c": torch.tensor(7),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in the form that Lightning gives it, with an optimizer state that nobody needs."""
    content = {"state_dict": TENSORS, "optimizer_0": {"state": {"a": torch.zeros(2, 3)}, "lr": 0.1, "note": "x"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is made for more than one process
        dcp.save(content, storage_writer=dcp.FileSystemWriter(tmp_path / "a.ckpt"), no_dist=True)
    torch.save({"hyper_parameters": {"n": 3}, "epoch": 1}, tmp_path / "a.ckpt" / "meta.pt")
    return tmp_path / "a.ckpt"


def change_index(folder: Path, change: Any) -> None:
    index = dcp.FileSystemReader(folder).read_metadata()
    change(index)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def test_tensors_and_hyper_parameters(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    assert checkpoint.hyper_parameters == {"n": 3}
    assert_same_parameters(checkpoint.state_dict, {name.removeprefix("model."): x for name, x in TENSORS.items()})
    assert checkpoint.state_dict["b"].dtype == torch.bfloat16
    assert list(read_checkpoint(folder, part="a").state_dict) == [""]


class Touch:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("place", [".metadata", "meta.pt", "part"])
def test_code_in_a_folder_is_refused_and_not_run(folder: Path, tmp_path: Path, place: str) -> None:
    bomb = Touch(tmp_path / "ran")
    if place == ".metadata":
        change_index(folder, lambda index: setattr(index, "planner_data", bomb))
    elif place == "meta.pt":
        torch.save({"hyper_parameters": bomb}, folder / "meta.pt")
    else:
        for file in folder.glob("*.distcp"):
            torch.save(bomb, file)
        size = file.stat().st_size

        def whole_file(index: Any) -> None:
            for part in index.storage_data.values():
                part.offset, part.length = 0, size

        change_index(folder, whole_file)
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_names_that_an_index_does_not_need_are_refused(folder: Path) -> None:
    for value in (print, torch.load, Tensor, torch.hub.load):
        change_index(folder, lambda index, value=value: setattr(index, "planner_data", value))
        with pytest.raises(ValueError, match="which no index does"):
            read_checkpoint(folder)


def test_damaged_folders(folder: Path) -> None:
    part = next(folder.glob("*.distcp"))
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="may be damaged"):
        read_checkpoint(folder)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(part.name)):
        read_checkpoint(folder)
    part.write_bytes(content)

    index = (folder / ".metadata").read_bytes()
    change_index(folder, lambda i: [i.storage_data.pop(key) for key in list(i.storage_data) if key.fqn.endswith("a")])
    with pytest.raises(ValueError, match=r"incomplete: parts are missing of state_dict.model.a"):
        read_checkpoint(folder)
    for damaged in (index[:50], b"", pickle.dumps({})):
        (folder / ".metadata").write_bytes(damaged)
        with pytest.raises(ValueError, match="may be damaged"):
            read_checkpoint(folder)
    (folder / ".metadata").write_bytes(index)
    (folder / "meta.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"meta\.pt"):
        read_checkpoint(folder)
    torch.save({"epoch": 1}, folder / "meta.pt")
    with pytest.raises(ValueError, match="not a Lightning checkpoint"):
        read_checkpoint(folder)
