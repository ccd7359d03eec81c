"""`perceiver env`, which reports of errors are asked for."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import torch

from perceiver import __version__
from perceiver.scripts import env, main

ROOT = Path(__file__).parents[2]


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = dict(line.split(maxsplit=1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    assert found["perceiver-io"] == __version__
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["transformers"] == importlib.metadata.version("transformers")
    assert f"{torch.get_num_threads()} threads" in found["cpu"]
    assert [name for name in found if name.startswith("cuda:")] == [
        f"cuda:{i}" for i in range(torch.cuda.device_count())
    ]


def test_what_is_missing_and_what_is_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "datasets":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main.main(["env"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^datasets +not installed$", text, flags=re.MULTILINE)
    assert re.search(r"^CUDA_VISIBLE_DEVICES +3$", text, flags=re.MULTILINE)
    assert "hf_secret" not in text and str(Path.home()) not in text


def test_every_dependency_is_named() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = text[text.index("\ndependencies = [") : text.index("\ndev = [")]
    names = re.findall(r'^    "([A-Za-z][\w-]*)(?:\[[\w,]+\])?[<>=]', needed, flags=re.MULTILINE)
    assert len(names) >= 10 and set(names) <= set(env.PACKAGES)


def test_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["env", "--verbose"])
    assert stop.value.code == 2 and "--verbose" in capsys.readouterr().err


def test_the_issue_template_asks_for_it() -> None:
    assert "`perceiver env`" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")
