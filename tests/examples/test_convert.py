"""The command that converts everything, `examples/convert.py`, as it is called now and as in 0.11."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from perceiver.scripts import convert
from tests.examples.scripts import load

Calls = list[tuple[Any, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Kind, task, source, folder and arguments of each conversion, of which those of masked language models fail."""
    found: Calls = []

    def record(kind: str, task: str, source: str, save_dir: Path, keywords: dict[str, Any]) -> int:
        found.append((kind, task, source, save_dir.name, dict(keywords)))
        return int(task == "mlm")

    monkeypatch.setattr(convert, "convert", record)
    return found


@pytest.mark.parametrize("group", [["official-models"], []])
def test_official_models(group: list[str], calls: Calls, tmp_path: Path) -> None:
    items = [{"task": "clm", "ckpt": "a.ckpt", "name": "mine", "tokenizer": "bytes"}]
    (tmp_path / "my.json").write_text(json.dumps(items))
    arguments = [*group, f"--output_dir={tmp_path}", f"--checkpoints={tmp_path / 'my.json'}"]
    assert load("convert.py").main(arguments) == 1
    assert [call[0] for call in calls] == ["model"] * 6 + ["checkpoint"]
    assert ("model", "mlm", "deepmind/language-perceiver", "language-perceiver", {}) in calls
    assert calls[-1] == ("checkpoint", "clm", "a.ckpt", "mine", {"tokenizer_name": "bytes"})


def test_training_checkpoints(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "perceiver-ar-clm-base").mkdir()
    (tmp_path / "perceiver-ar-clm-base" / "config.json").touch()
    arguments = ["training-checkpoints", f"--output_dir={tmp_path}", "--push_to_hub=true", "--commit_message=Ours"]
    assert load("convert.py").main(arguments) == 1
    names = ["perceiver-io-mlm-imdb", "perceiver-io-txt-clf-imdb", "perceiver-io-img-clf-mnist"]
    assert [call[3] for call in calls] == [*names, "perceiver-ar-sam-giant-midi"]
    assert {call[0] for call in calls} == {"checkpoint"}
    upload = {"push_to_hub": True, "commit_message": "Ours"}
    assert calls[-1][2:] == (
        "https://martin-krasser.com/perceiver/logs-0.8.0/sam/version_1/checkpoints/epoch=027-val_loss=1.944.ckpt",
        "perceiver-ar-sam-giant-midi",
        upload,
    )
    assert calls[1][4] == upload | {
        "tokenizer_name": "deepmind/language-perceiver",
        "id2label": {0: "NEGATIVE", 1: "POSITIVE"},
    }
    assert isinstance(calls[2][4]["image_processor"], PerceiverImageClassifierInputProcessor)
    assert "perceiver-ar-clm-base is there already" in capsys.readouterr().out


def test_everything(calls: Calls, tmp_path: Path) -> None:
    assert load("convert.py").main(["all", f"--output_dir={tmp_path}", "--push_to_hub=false"]) == 1
    assert [call[0] for call in calls] == ["model"] * 6 + ["checkpoint"] * 5
    assert not any("push_to_hub" in call[4] for call in calls)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["official"], "invalid choice: 'official'"),
        (["--push_to_hub=perhaps"], "'perhaps' is neither true nor false"),
        (["--commit_message=Ours"], "--commit_message is for --push_to_hub=true"),
        (["--checkpoints=missing.json"], "missing.json can't be read"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load("convert.py").main(arguments)
    assert stop.value.code == 2 and not calls
    assert reason in capsys.readouterr().err
