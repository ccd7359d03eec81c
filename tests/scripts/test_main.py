"""The console command: what it calls with what, its errors and exit codes, and that it starts without torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from transformers import AutoImageProcessor, AutoTokenizer

import perceiver
from perceiver.model.audio.symbolic import LitSymbolicAudioModel
from perceiver.model.text.clm import LitCausalLanguageModel
from perceiver.model.vision.image_classifier import (
    ClassificationDecoderConfig,
    ImageEncoderConfig,
    LitImageClassifier,
)
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from perceiver.scripts import main as main_module
from perceiver.scripts.main import main


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was called, in place of the mlm script and the mlm conversions."""
    recorded: list[tuple[str, Any]] = []
    modules = {
        "perceiver.scripts.text.mlm": SimpleNamespace(main=lambda args: recorded.append(("fit", args))),
        "perceiver.model.text.mlm": SimpleNamespace(
            convert_model=lambda **kwargs: recorded.append(("model", kwargs)),
            convert_checkpoint=lambda **kwargs: recorded.append(("checkpoint", kwargs)),
        ),
    }
    monkeypatch.setattr(main_module.importlib, "import_module", modules.__getitem__)
    return recorded


def test_task_gets_the_rest_of_the_command_line(calls: list[tuple[str, Any]]) -> None:
    assert main(["mlm", "fit", "--help", "--model.num_latents=32"]) == 0
    assert calls == [("fit", ["fit", "--help", "--model.num_latents=32"])]


def test_convert_model(calls: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("convert model --task mlm deepmind/language-perceiver out".split()) == 0
    assert calls == [("model", {"save_dir": "out", "source_repo_id": "deepmind/language-perceiver"})]
    assert capsys.readouterr().out == "wrote out\n"


def test_convert_checkpoint(calls: list[tuple[str, Any]]) -> None:
    assert main("convert checkpoint --task mlm a.ckpt out --tokenizer tok --push-to-hub".split()) == 0
    expected = {"save_dir": "out", "ckpt_url": "a.ckpt", "tokenizer_name": "tok", "push_to_hub": True}
    assert calls == [("checkpoint", expected)]


@pytest.mark.parametrize("error", [FileNotFoundError("no file a.ckpt"), ValueError("not a checkpoint: a.ckpt")])
def test_failed_conversion(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: SimpleNamespace(convert_checkpoint=fail))
    assert main("convert checkpoint --task mlm a.ckpt out --tokenizer tok".split()) == 1
    assert capsys.readouterr().err == f"perceiver: error: {error}\n"


OFFICIAL = {
    "text.mlm": ["language-perceiver"],
    "vision.image_classifier": ["learned", "fourier", "conv"],
    "vision.optical_flow": ["optical-flow-perceiver"],
    "multimodal.autoencoder": ["multimodal-perceiver"],
}


def test_convert_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there already is left alone, and one that fails stops no other."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def package(name: str) -> SimpleNamespace:
        def convert(**kwargs: Any) -> None:
            calls.append((name.removeprefix("perceiver.model."), kwargs))
            if kwargs.get("source_repo_id") == "deepmind/language-perceiver":
                raise OSError("no network")

        return SimpleNamespace(convert_model=convert, convert_checkpoint=convert)

    monkeypatch.setattr(main_module.importlib, "import_module", package)
    (tmp_path / "vision-perceiver-conv").mkdir()
    (tmp_path / "vision-perceiver-conv" / "config.json").touch()
    items = [
        {"task": "clm", "ckpt": "a.ckpt", "name": "my-clm", "tokenizer": "bytes"},
        {"task": "optical-flow", "ckpt": "b.ckpt", "name": "my-flow"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(items))
    command = f"convert --all --output_dir {tmp_path} --checkpoints {tmp_path / 'list.json'} --push-to-hub"
    assert main(command.split()) == 1
    models = [(name, kwargs["source_repo_id"]) for name, kwargs in calls if "source_repo_id" in kwargs]
    everything = [(name, repo_id) for name, ids in OFFICIAL.items() for repo_id in ids if repo_id != "conv"]
    assert len(models) == len(everything) == 5
    for (name, repo_id), (expected_name, ending) in zip(models, everything, strict=True):
        assert name == expected_name and repo_id.startswith("deepmind/") and repo_id.endswith(ending)
    assert calls[-2:] == [
        (
            "text.clm",
            {"save_dir": tmp_path / "my-clm", "ckpt_url": "a.ckpt", "tokenizer_name": "bytes", "push_to_hub": True},
        ),
        ("vision.optical_flow", {"save_dir": tmp_path / "my-flow", "ckpt_url": "b.ckpt", "push_to_hub": True}),
    ]
    output = capsys.readouterr()
    assert output.err == "perceiver: error: no network\n"
    assert f"{tmp_path / 'vision-perceiver-conv'} is there already" in output.out
    assert f"wrote {tmp_path / 'my-flow'}" in output.out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "can't be read"),
        ("3", "must hold a list"),
        ('[{"task": ["clm"], "ckpt": "a.ckpt", "name": "a"}]', "must have a task"),
        ('[{"task": "clm", "ckpt": "a.ckpt"}]', "must have a task"),
        ('[{"task": "nlm", "ckpt": "a.ckpt", "name": "a"}]', "must have a task"),
        ('[{"task": "clm", "ckpt": "a.ckpt", "name": "a"}]', "--task clm needs --tokenizer"),
    ],
)
def test_list_of_checkpoints_that_is_none(
    content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["convert", "--all", f"--output_dir={tmp_path}", f"--checkpoints={tmp_path / 'list.json'}"])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run's checkpoint of three models, two of which have the same parameters."""
    monkeypatch.chdir(tmp_path)
    causal = {"vocab_size": 262, "max_seq_len": 9, "max_latents": 4, "num_channels": 8, "num_heads": 2}
    models = {
        "clm": LitCausalLanguageModel(**causal, num_self_attention_layers=1),
        "symbolic": LitSymbolicAudioModel(**causal, num_self_attention_layers=1),
        "images": LitImageClassifier(
            ImageEncoderConfig(image_shape=(4, 3, 1), num_frequency_bands=2, num_cross_attention_heads=1),
            ClassificationDecoderConfig(num_classes=3, num_output_query_channels=12, num_cross_attention_heads=2),
            num_latents=5,
            num_latent_channels=8,
        ),
    }
    for name, model in models.items():
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "task", "found"),
    [
        ("clm", "symbolic-audio", "causal language model, --task clm"),
        ("symbolic", "clm", "symbolic audio model, --task symbolic-audio"),
        ("images", "clm", "image classifier, --task image-classifier"),
        ("images", "optical-flow", "image classifier, --task image-classifier"),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_the_wrong_task(
    name: str, task: str, found: str, is_old: bool, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = runs / name / "checkpoints" / "last.ckpt"
    if is_old:  # of 0.11, which does not say what it is: what it is shows in its configuration and its shapes
        content = torch.load(source, weights_only=True)
        del content["lit_class"]
        torch.save(content, source)
        if name != "images":
            return  # nobody can tell
    needs = ["--tokenizer", "bytes"] if task == "clm" else []
    assert main(["convert", "checkpoint", "--task", task, str(source), "out", *needs]) == 1
    assert capsys.readouterr().err == f"perceiver: error: {source} is another model's checkpoint: {found}\n"
    assert not Path("out").exists()


def test_beside_a_checkpoint_may_be_any_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("- a list\n", "data: X\n", "data:\n  init_args: 3\n", "[", "\udc80"):
        (runs / "clm" / "config.yaml").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(SystemExit):
            main(["convert", "checkpoint", "--task", "clm", "clm/checkpoints/last.ckpt", "out"])
        assert "--task clm needs --tokenizer" in capsys.readouterr().err


def test_conversion_finds_what_the_run_left(runs: Path) -> None:
    (runs / "clm" / "config.yaml").write_text("data:\n  class_path: X\n  init_args:\n    tokenizer: bytes\n")
    assert main(["convert", "checkpoint", "--task", "clm", "clm/checkpoints/last.ckpt", "out"]) == 0
    assert AutoTokenizer.from_pretrained("out")("a").input_ids == [4, 103, 5]
    size = {"height": 4, "width": 3}
    PerceiverImageClassifierInputProcessor(size=size, do_center_crop=False).save_pretrained(runs / "images")
    assert main(["convert", "checkpoint", "--task", "image-classifier", "images/checkpoints/last.ckpt", "img"]) == 0
    assert AutoImageProcessor.from_pretrained("img").size == size


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'jsonargparse.typing'", name="jsonargparse.typing")

    monkeypatch.setattr(main_module.importlib, "import_module", missing)
    assert main(["mlm", "fit"]) == 1
    message = "jsonargparse.typing is not installed: pip install 'perceiver-io[text,vision,audio]'"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "required: COMMAND"),
        ("sing", "invalid choice: 'sing'"),
        ("convert", "give either model or checkpoint, or --all with --output_dir"),
        ("convert --all", "or --all with --output_dir"),
        ("convert --all --output_dir a model --task mlm source out", "or --all with --output_dir"),
        ("convert model --task mlm source", "required: SAVE_DIR"),
        ("convert model --task nlm source out", "invalid choice: 'nlm'"),
        ("convert checkpoint --task mlm a.ckpt out", "--task mlm needs --tokenizer"),
        ("convert checkpoint --task mlm a.ckpt out --image-processor a", "--task mlm needs --tokenizer"),
        ("convert checkpoint --task image-classifier a.ckpt out --tokenizer a", "needs --image-processor"),
        (
            "convert checkpoint --task optical-flow a.ckpt out --tokenizer a",
            "needs no --tokenizer and no --image",
        ),
    ],
)
def test_wrong_usage(command: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def test_starts_without_torch() -> None:
    code = """if True:
        import sys
        from perceiver.scripts.main import main
        try:
            main(sys.argv[1:])
        finally:
            assert "torch" not in sys.modules
    """
    for flag, expected in (("--version", perceiver.__version__), ("--help", "usage: perceiver")):
        run = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
        assert run.stdout.startswith(expected)
