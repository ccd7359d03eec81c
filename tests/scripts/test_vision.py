"""`python -m perceiver.scripts.vision.image_classifier` and `.optical_flow`: flags, defaults, from fit to convert."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from transformers import pipeline

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.vision.image_classifier import (
    ImageClassifier,
    ImageClassifierConfig,
    ImageEncoderConfig,
    perceiver_io_mnist,
)
from perceiver.model.vision.optical_flow import (
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    perceiver_io_optical_flow,
)
from perceiver.scripts import cli, main
from perceiver.scripts.vision import image_classifier, optical_flow
from perceiver.tasks import TASKS

BOTH = [image_classifier, optical_flow]
both = pytest.mark.parametrize("script", BOTH, ids=lambda script: script.__name__.split(".")[-1])


def printed_config(script: ModuleType, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        script.main([*args, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


# --- flags ---


def test_default_image_classifier_is_the_one_for_mnist(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(image_classifier, capsys, "fit")["model"]
    config = ImageClassifierConfig(
        ImageEncoderConfig(**model["encoder"], image_shape=(28, 28, 1)),
        ClassificationDecoderConfig(**model["decoder"], num_classes=10),
        **{name: model[name] for name in ("num_latents", "num_latent_channels")},
    )
    assert config == perceiver_io_mnist()
    with torch.device("meta"):
        classifier = ImageClassifier(config)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == 907_212


def test_default_optical_flow_is_the_official_one(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(optical_flow, capsys, "fit")["model"]
    assert perceiver_io_optical_flow() == OpticalFlowConfig(
        OpticalFlowEncoderConfig(**model["encoder"], image_shape=(368, 496)),
        OpticalFlowDecoderConfig(**model["decoder"], image_shape=(368, 496)),
        **{name: model[name] for name in ("num_latents", "num_latent_channels")},
    )


@both
def test_the_command_of_the_docstring(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.__doc__ is not None
    name = f"python -m {script.__name__} "
    (command,) = [block for block in script.__doc__.split("\n\n") if block.strip().startswith(name)]
    arguments = shlex.split(command.strip().removeprefix(name).replace("\\\n", " "))
    assert arguments[0] == "fit" and len(arguments) > 4
    config = printed_config(script, capsys, *arguments)
    for flag in arguments[1:]:
        path, value = flag.removeprefix("--").split("=")
        *path, last = path.split(".")
        found = config
        for part in path:
            found = found[part]
        if last in ("data", "optimizer"):
            assert found[last]["class_path"].endswith(value)
        else:
            assert found.get("init_args", found)[last] == yaml.safe_load(value.replace("1e-3", "0.001")), flag


@pytest.mark.slow
@both
def test_data_modules_by_name(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for name in TASKS[script.__name__.split(".")[-1].replace("_", "-")].data:
        folder = {"ImageFolderDataModule": ["--data.source=x"]}.get(name, [])
        if script is optical_flow and "Synthetic" not in name:
            folder = ["--data.dataset_dir=x"]
        data = printed_config(script, capsys, "fit", f"--data={name}", *folder)["data"]
        assert data["class_path"].endswith(f".{name}")


UNKNOWN = ["model.encoder.num_heads=3", "model.problem=x", "trainer.steps=1", "modell.num_latents=3"]
LINKED = {
    image_classifier: ["model.encoder.image_shape=[28,28,1]", "model.decoder.num_classes=3"],
    optical_flow: ["model.encoder.image_shape=[28,28]", "model.decoder.image_shape=[28,28]"],
}


@pytest.mark.parametrize(
    "script, flag",
    [(script, flag) for script in BOTH for flag in (UNKNOWN if script is optical_flow else LINKED[script])],
)
def test_flags_that_are_none(script: ModuleType, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["fit", f"--{flag}"])
    assert stop.value.code == 2 and flag.split("=")[0] in capsys.readouterr().err


def test_flags_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"encoder.adapter": "conv", "encoder.num_adapter_channels": 64, "label_smoothing": 0.1, "params": "a/b"}
    model = printed_config(image_classifier, capsys, "fit", *(f"--model.{n}={v}" for n, v in flags.items()))["model"]
    assert (model["encoder"]["adapter"], model["encoder"]["num_adapter_channels"]) == ("conv", 64)
    assert (model["label_smoothing"], model["params"]) == (0.1, "a/b")
    with pytest.raises(SystemExit) as stop:
        image_classifier.main(["fit", "--model.encoder.adapter=patches"])
    assert stop.value.code == 2 and "adapter" in capsys.readouterr().err


# --- runs ---

TINY = {
    "model.num_latents": 3,
    "model.num_latent_channels": 16,
    "model.encoder.num_frequency_bands": 2,
    "model.encoder.num_self_attention_layers_per_block": 1,
}
COMMON = {
    "data.num_workers": 0,
    "data.batch_size": 4,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}


class Runs:
    """Runs commands of a script, and remembers what it made."""

    def __init__(self, script: ModuleType, monkeypatch: pytest.MonkeyPatch):
        self.script, self.cli, self.last = script, cli.CLI, None
        monkeypatch.setattr(cli, "CLI", self)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.last = self.cli(*args, **kwargs)

    def run(self, command: str, flags: dict[str, Any]) -> Any:
        self.script.main([command, *(f"--{name}={value}" for name, value in flags.items())])
        return self.last


def test_image_classifier_from_fit_to_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, number in (("train", 4), ("valid", 2), ("test", 2)):
        for name, grey in (("dark", 30), ("light", 200)):
            (folder := Path("images", split, name)).mkdir(parents=True)
            for i in range(number):
                PIL.Image.fromarray(np.full((9, 14), grey + i, np.uint8)).save(folder / f"{i}.png")
    runs = Runs(image_classifier, monkeypatch)
    data = {"data": "ImageFolderDataModule", "data.source": "images", "data.image_shape": "[8,12,1]"} | COMMON
    model_flags = TINY | {"model.decoder.num_output_query_channels": 8, "model.label_smoothing": 0.1}
    fitted = runs.run("fit", data | model_flags | {"trainer.max_epochs": 1})
    config = fitted.model.model.config
    assert config.encoder.image_shape == (8, 12, 1) and config.decoder.num_classes == 2
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= fitted.trainer.callback_metrics.keys()
    (last,) = Path("logs", "img_clf", "version_0", "checkpoints").glob("last.ckpt")

    for command, split in (("validate", "val"), ("test", "test")):
        evaluated = runs.run(command, data | {"trainer.logger": "false", "ckpt_path": last})
        assert evaluated.model.model.config == config and evaluated.model.label_smoothing == 0.1
        assert evaluated.trainer.callback_metrics.keys() >= {f"{split}_loss", f"{split}_acc"}

    convert = ["convert", "checkpoint", "--task", "image-classifier", str(last), "out"]
    assert main.main([*convert, "--image-processor", fitted.trainer.log_dir]) == 0
    classify = pipeline("image-classification", model="out")
    results = classify("images/test/dark/0.png")
    assert {result["label"] for result in results} == {"dark", "light"}
    batch = next(iter(fitted.datamodule.test_dataloader()))["image"]  # the first of these pictures is its first
    scores = fitted.model.eval()(batch)[0].softmax(dim=-1)
    assert {r["label"]: r["score"] for r in results} == pytest.approx(
        dict(zip(("dark", "light"), scores.tolist(), strict=True)), abs=1e-5
    )


def test_optical_flow_from_fit_to_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Runs(optical_flow, monkeypatch)
    data = {"data": "SyntheticFlowDataModule", "data.image_shape": "[10,14]", "data.num_train_examples": 8} | COMMON
    data |= {"data.num_valid_examples": 4, "data.num_test_examples": 4}
    channels = {f"model.decoder.num_cross_attention_{kind}_channels": 16 for kind in ("qk", "v")}
    fitted = runs.run("fit", data | TINY | channels | {"trainer.max_epochs": 1})
    config = fitted.model.model.config
    assert config.encoder.image_shape == config.decoder.image_shape == (10, 14)
    assert {"train_loss", "val_loss", "val_outliers"} <= fitted.trainer.callback_metrics.keys()
    (last,) = Path("logs", "optical_flow", "version_0", "checkpoints").glob("last.ckpt")

    for command, split in (("validate", "val"), ("test", "test")):
        evaluated = runs.run(command, data | {"trainer.logger": "false", "ckpt_path": last})
        assert evaluated.model.model.config == config
        assert evaluated.trainer.callback_metrics.keys() >= {f"{split}_loss", f"{split}_outliers"}

    assert main.main(["convert", "checkpoint", "--task", "optical-flow", str(last), "out"]) == 0
    estimate = pipeline("optical-flow", model="out")
    example = fitted.datamodule.examples["valid"][0]
    batch = next(iter(fitted.datamodule.val_dataloader()))
    expected = 20 * fitted.model.eval()(batch["x"])[0].detach()
    torch.testing.assert_close(torch.from_numpy(estimate(tuple(example.frames))), expected, atol=1e-4, rtol=1e-4)
