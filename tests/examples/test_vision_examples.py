"""The examples of image classification and optical flow: `examples/training/{img_clf,optical_flow}`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from perceiver.data.vision import SyntheticFlowDataModule, render_optical_flow
from perceiver.data.vision.transforms import IMAGENET_AUGMENTATION, IMAGENET_MIXING
from perceiver.model.vision import image_classifier, optical_flow
from perceiver.scripts.vision import image_classifier as script
from tests.examples.scripts import EXAMPLES, load

digits = load("training/img_clf/digits.py")
mnist = load("training/img_clf/train.py")
flow = load("training/optical_flow/synthetic.py")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)


def num_parameters(model_class: Any, config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in model_class(config).parameters())


# --- MNIST and ImageNet ---


def arguments_of(name: str) -> list[str]:
    text = (EXAMPLES / "training" / "img_clf" / name).read_text().replace("\\\n", " ")
    _, command = text.split("python -m perceiver.scripts.vision.image_classifier ")
    return shlex.split(command)[:-1]  # without "$@"


def configuration(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        script.main([*arguments, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


def test_flags_for_imagenet_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(arguments_of("train_imagenet.sh"), capsys)
    paper = asdict(image_classifier.perceiver_io_fourier())
    for part in ("encoder", "decoder"):
        decided_by_data = {"image_shape", "num_classes"}
        found, expected = config["model"][part], {k: v for k, v in paper[part].items() if k not in decided_by_data}
        assert {name: found[name] for name in expected} == expected
    assert (config["model"]["num_latents"], config["model"]["num_latent_channels"]) == (512, 1024)
    assert config["model"]["label_smoothing"] == 0.1
    data, trainer = config["data"]["init_args"], config["trainer"]
    assert data["batch_size"] * int(trainer["devices"]) * trainer["accumulate_grad_batches"] == 1024
    assert (data["augmentation"], data["mixing"]) == (asdict(IMAGENET_AUGMENTATION), asdict(IMAGENET_MIXING))
    assert (trainer["max_epochs"], trainer["gradient_clip_val"]) == (110, 10)
    assert config["optimizer"]["class_path"].endswith("Lamb")
    optimizer = config["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (2e-3, 0.1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the layout of the hub, in the current folder, with eight images of MNIST's size in each split."""
    monkeypatch.chdir(tmp_path)
    names = [str(i) for i in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    rows = datasets.Dataset.from_dict({"image": list(images), "label": list(range(8))}, features=features)
    Path("mnist").mkdir()
    for split in ("train", "test"):
        rows.to_parquet(f"mnist/{split}.parquet")
    return "mnist"


def test_mnist_in_python_is_the_same_as_the_script(data: str) -> None:
    flags = """--data.batch_size=4 --data.num_workers=0 --trainer.max_epochs=1 --trainer.accelerator=cpu
        --trainer.devices=1 --trainer.strategy=auto --trainer.enable_progress_bar=false"""
    script.main([*arguments_of("train.sh"), f"--data.source={data}", *flags.split()])
    by_script = image_classifier.LitImageClassifier.load_from_checkpoint(
        "logs/img_clf_mnist/version_0/checkpoints/last.ckpt"
    )
    mnist.main([f"--data={data}", "--batch_size=4", "--max_epochs=1", "--devices=1"])
    model = AutoModelForImageClassification.from_pretrained("logs/img_clf_mnist/model")
    assert model.backend_model.config == by_script.model.config
    assert num_parameters(image_classifier.ImageClassifier, model.backend_model.config) == 907_212
    image = PIL.Image.new("L", (28, 28))
    (best,) = pipeline("image-classification", model="logs/img_clf_mnist/model")(image, top_k=1)
    assert best["label"] in range(10)


# --- digits ---


def test_digits_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = digits.main([f"--output_dir={tmp_path}", "--max_epochs=1"])
    assert 0 < accuracy < 0.6
    assert f"test accuracy {accuracy:.2%} (360 images)" in capsys.readouterr().out
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert isinstance(model, image_classifier.PerceiverImageClassifier)
    assert num_parameters(image_classifier.ImageClassifier, model.backend_model.config) == 91_088
    assert model.config.id2label == {i: str(i) for i in range(10)}
    assert (tmp_path / "digits.png").stat().st_size > 0


@pytest.mark.parametrize("right, wrong", [(0, 1), (1, 0), (30, 30)])
def test_digits_are_drawn_whatever_was_predicted(tmp_path: Path, right: int, wrong: int) -> None:
    image = PIL.Image.new("L", (8, 8))
    predictions = [digits.Prediction(image, "a", "a", 0.9)] * right
    predictions += [digits.Prediction(image, "a", "b", 0.7)] * wrong
    digits.draw(predictions, ["a", "b"], tmp_path / "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 0


@pytest.mark.slow
def test_digits_are_learned(tmp_path: Path) -> None:
    assert digits.main([f"--output_dir={tmp_path}"]) >= 0.96


# --- optical flow ---


class HalfFlow(nn.Module):
    """Knows half of the flow."""

    def __init__(self, flows: Tensor):
        super().__init__()
        self.flows = iter((flows / 2 / 20).split(3))

    def forward(self, x: Tensor) -> Tensor:
        return next(self.flows)


def test_end_point_errors() -> None:
    data = SyntheticFlowDataModule((8, 10), num_test_examples=5, num_train_examples=4, batch_size=3, num_workers=0)
    data.setup()
    target = torch.cat([batch["flow"] for batch in data.test_dataloader()])
    errors = flow.end_point_errors(HalfFlow(target), data)
    assert errors["no motion"] == pytest.approx(target.norm(dim=-1).mean().item())
    assert errors["Perceiver IO"] == pytest.approx(errors["no motion"] / 2)
    assert errors["mean flow of each pair"] == pytest.approx(
        np.mean([(f - f.mean(dim=(0, 1))).norm(dim=-1).mean() for f in target])
    )
    mean = torch.stack([torch.from_numpy(data.examples["train"][i].flow) for i in range(4)]).mean(dim=(0, 1, 2))
    assert errors["mean flow in training"] == pytest.approx((target - mean).norm(dim=-1).mean().item())


def test_flow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"num_train_examples": 9, "num_valid_examples": 4, "batch_size": 3, "valid_batch_size": 4}
    monkeypatch.setattr(flow, "SyntheticFlowDataModule", lambda **kwargs: SyntheticFlowDataModule(**(kwargs | few)))
    monkeypatch.setattr(flow, "BIG_SHAPE", (40, 50))
    errors = flow.main([f"--output_dir={tmp_path}", "--max_steps=2", "--num_test_examples=4"])
    assert list(errors) == ["Perceiver IO", "no motion", "mean flow in training", "mean flow of each pair"]
    assert "end-point error in pixels, 4 held-out examples of up to 6.0" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert isinstance(model, optical_flow.OpticalFlowPerceiver)
    assert num_parameters(optical_flow.OpticalFlow, model.backend_model.config) == 132_458
    example = flow.synthetic_example((40, 50), flow.MAX_DISPLACEMENT, np.random.default_rng(flow.BIG_SEEDS[0]))
    expected = render_optical_flow(pipeline("optical-flow", model=str(tmp_path / "model"))(tuple(example.frames)))
    with PIL.Image.open(tmp_path / "rendered.png") as image:
        assert np.array_equal(np.asarray(image), expected)
    assert (tmp_path / "flow.png").stat().st_size > 0


@pytest.mark.slow
def test_flow_is_learned(tmp_path: Path) -> None:
    errors = flow.main([f"--output_dir={tmp_path}"])
    for baseline in ("no motion", "mean flow in training", "mean flow of each pair"):
        assert errors[baseline] > 2 * errors["Perceiver IO"]
