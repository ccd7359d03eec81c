"""Training of the image classifier: checkpoints old and new, classes and probabilities, smoothing, what is logged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.vision.image_classifier import (
    ImageClassifierConfig,
    LitImageClassifier,
    PerceiverImageClassifier,
)
from tests.model.helpers import assert_same_parameters, golden_cases, golden_parameters
from tests.model.trainers import trainer
from tests.model.vision.helpers import DictData
from tests.model.vision.image_classifier.helpers import FOURIER, KINDS, MNIST, SOURCES, H, W, images, img_config

CKPTS = [source for source in SOURCES if source.suffix == ".ckpt"]


class LitClassifier(LitImageClassifier):
    """As the command line makes it: with an optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def data(labels: Tensor | None = None, **kwargs: Any) -> DictData:
    torch.manual_seed(1)
    return DictData({"image": images(10), "label": torch.arange(10) % 5 if labels is None else labels}, **kwargs)


# --- checkpoints ---


def published_parameters(file: Path) -> dict[str, Tensor]:
    """Without the computed buffer."""
    parameters = golden_parameters(file.parent.name)
    return {name: value for name, value in parameters.items() if "position_encoding" not in name}


@pytest.mark.parametrize("file", CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_published_checkpoints_load(file: Path) -> None:
    lit_model = LitImageClassifier.load_from_checkpoint(file)
    assert_same_parameters(lit_model.backend_model.state_dict(), published_parameters(file))
    assert lit_model.problem_type == "single_label_classification" and lit_model.label_smoothing == 0
    config = ImageClassifierConfig.from_dict(read_checkpoint(file.parent / "hub").hyper_parameters)
    assert lit_model.model.config == config
    again = LitImageClassifier.create(config, params=str(file))
    assert_same_parameters(again.state_dict(), lit_model.state_dict())


@pytest.mark.parametrize("folder", [MNIST, FOURIER], ids=lambda folder: folder.name)
def test_recorded_step(folder: Path) -> None:
    (case,) = golden_cases(folder.name, "lit_step")
    lit_model = LitImageClassifier.load_from_checkpoint(folder / "lit.ckpt").eval()
    loss, accuracy = lit_model.step(case.inputs)
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(accuracy, case.outputs["accuracy"])


@pytest.mark.parametrize("kind", KINDS)
def test_own_checkpoint_round_trip(tmp_path: Path, kind: str) -> None:
    names, config = ["a", "b", "c", "d", "e"], img_config({"adapter": kind})
    lit_model = LitClassifier.create(config, label_smoothing=0.1)
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(lit_model, datamodule=data(label_names=names))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    hyper_parameters = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    expected = {"label_names": names, "problem_type": "single_label_classification", "label_smoothing": 0.1}
    assert hyper_parameters == asdict(config) | expected
    assert json.loads(json.dumps(hyper_parameters))["encoder"]["image_shape"] == [11, 13, 3]
    loaded = LitImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert (loaded.label_smoothing, loaded.hparams["label_names"], loaded.model.config) == (0.1, names, config)
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())
    hf_model = PerceiverImageClassifier.from_checkpoint(tmp_path / "a.ckpt")
    assert hf_model.config.id2label == dict(enumerate(names))
    assert hf_model.config.problem_type == "single_label_classification"
    assert_same_parameters(hf_model.backend_model.state_dict(), lit_model.model.state_dict())


def test_as_many_names_as_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 names, yes, no, for num_classes=5"):
        trainer(tmp_path, max_steps=1).fit(
            LitClassifier.create(img_config()), datamodule=data(label_names=["yes", "no"])
        )


def test_a_checkpoint_of_other_images() -> None:
    config = ImageClassifierConfig.from_dict(read_checkpoint(FOURIER / "hub").hyper_parameters)
    config.encoder.num_frequency_bands = 4
    message = r"don't fit ImageClassifier; 9 of another shape: .*kv_norm\.weight \(17,\) instead of \(21,\)"
    with pytest.raises(ValueError, match=message):
        LitImageClassifier.create(config, params=str(FOURIER / "lit.ckpt"))


# --- labels ---


def test_step_by_hand() -> None:
    lit_model, columns = LitImageClassifier.create(img_config()).eval(), data().columns
    logits = lit_model(columns["image"])
    torch.testing.assert_close(logits, lit_model.backend_model(columns["image"]), atol=5e-5, rtol=1e-5)
    loss, accuracy = lit_model.step(columns)
    torch.testing.assert_close(loss, F.cross_entropy(logits, columns["label"]))
    torch.testing.assert_close(accuracy, (logits.argmax(dim=-1) == columns["label"]).float().mean())


def test_probabilities_are_no_other_kind_of_problem() -> None:
    """Mixed images (MixUp, CutMix) have the labels of both."""
    lit_model, columns = LitImageClassifier.create(img_config()).eval(), data()
    probabilities = torch.rand(10, 5).softmax(dim=-1)
    batch = columns.columns | {"label": probabilities}
    loss, accuracy = lit_model.step(batch)
    logits = lit_model(batch["image"])
    torch.testing.assert_close(loss, F.cross_entropy(logits, probabilities))
    torch.testing.assert_close(accuracy, (logits.argmax(dim=-1) == probabilities.argmax(dim=-1)).float().mean())


@pytest.mark.parametrize("labels", [torch.arange(10) % 5, torch.rand(10, 5).softmax(dim=-1)], ids=["classes", "mixed"])
def test_smoothing_in_training_only(labels: Tensor) -> None:
    lit_model = LitImageClassifier.create(img_config(), label_smoothing=0.2)
    batch = data(labels).columns
    logits = lit_model(batch["image"])
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        loss, _ = lit_model.train(training).step(batch)
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.1])
def test_smoothing_out_of_range(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing={label_smoothing} must be in \[0, 1\]"):
        LitImageClassifier.create(img_config(), label_smoothing=label_smoothing)


def test_several_queries() -> None:
    lit_model = LitImageClassifier.create(img_config(decoder={"num_output_queries": 3})).eval()
    batch = {"image": images(4), "label": torch.randint(0, 5, (4, 3))}
    loss, _ = lit_model.step(batch)
    logits = lit_model(batch["image"])
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), batch["label"].flatten()))


# --- training ---

LABELS: dict[str, Tensor] = {
    "classes": torch.arange(10) % 5,
    "some unknown": (torch.arange(10) % 5).where(torch.arange(10) % 3 != 0, -100),
    "mixed": torch.rand(10, 5).softmax(dim=-1),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_losses_and_accuracies_are_logged(tmp_path: Path, labels: Tensor) -> None:
    lit_model, module = LitClassifier.create(img_config(), label_smoothing=0.3), data(labels)
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(lit_model, datamodule=module)
    assert fitting.callback_metrics.keys() == {"train_loss", "train_acc", "val_loss", "val_acc"}
    fitting.test(lit_model, datamodule=module, verbose=False)
    with torch.no_grad():  # batches have 4, 4 and 2 examples
        loss, accuracy = lit_model.eval().step(module.columns)
    torch.testing.assert_close(fitting.callback_metrics["test_loss"], loss)
    torch.testing.assert_close(fitting.callback_metrics["test_acc"], accuracy)


def test_it_learns(tmp_path: Path) -> None:
    """Dark and bright images."""
    labels = torch.arange(16) % 2
    x = 0.3 * torch.randn(16, H, W, 3) + labels[:, None, None, None] * 2 - 1
    fitting = trainer(tmp_path, max_epochs=15)
    module = DictData({"image": x, "label": labels}, batch_size=16)
    fitting.fit(LitClassifier.create(img_config(decoder={"num_classes": 2})), datamodule=module)
    assert fitting.callback_metrics["val_acc"] == 1 and fitting.callback_metrics["val_loss"] < 0.1
