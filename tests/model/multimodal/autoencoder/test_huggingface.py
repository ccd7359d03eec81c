"""The Hugging Face multimodal autoencoder: folders, losses, Trainer, conversion of checkpoints."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from perceiver.model.multimodal import autoencoder
from perceiver.model.multimodal.autoencoder import (
    PerceiverMultimodalAutoencoder,
    PerceiverMultimodalAutoencoderConfig,
)
from perceiver.model.multimodal.autoencoder.backend import autoencoder_loss
from tests.model.helpers import assert_same_parameters
from tests.model.multimodal.autoencoder.helpers import CLASSES, CLOSE, clips, mm_config
from tests.model.multimodal.autoencoder.test_lightning import NAMES, columns, make
from tests.model.trainers import trainer
from tests.model.vision.helpers import DictData


def hf_model() -> PerceiverMultimodalAutoencoder:
    torch.manual_seed(0)
    return PerceiverMultimodalAutoencoder(PerceiverMultimodalAutoencoderConfig(mm_config())).eval()


def test_public_names() -> None:
    for name in autoencoder.__all__:
        found = getattr(importlib.import_module("perceiver.model.multimodal.autoencoder"), name)
        assert callable(found) and found.__name__ == name and found.__doc__


def test_saved_and_loaded_again_is_the_same(tmp_path: Path) -> None:
    model, x = hf_model(), clips()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == "perceiver-io-multimodal-autoencoder" and config.backend_config == mm_config()
    assert config.id2label == {i: f"LABEL_{i}" for i in range(CLASSES)}
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is PerceiverMultimodalAutoencoder and not loaded.training
    assert_same_parameters(loaded.state_dict(), model.state_dict())
    torch.testing.assert_close(loaded(x["video"]).video, model(x["video"]).video, **CLOSE)


def test_a_new_model_is_initialised_everywhere() -> None:
    """Also from the meta device, as `from_pretrained` makes it."""
    for name, parameter in hf_model().named_parameters():
        std = {"0": 0.3, "1": 0.4}[name.split(".")[1]]
        if parameter.ndim > 1 and parameter.numel() > 40:
            assert parameter.std().item() == pytest.approx(std, rel=0.35), name


def test_outputs_are_those_of_the_backend() -> None:
    model, x = hf_model(), clips()
    points = {"video_points": torch.tensor([3, 0]), "audio_points": torch.tensor([[6], [2]])}
    for kwargs in ({}, points):
        output, expected = model(*x.values(), **kwargs), model.backend_model(**x, **kwargs)
        assert output.loss is None
        found = (output.video, output.audio, output.logits)
        torch.testing.assert_close(found, (expected.video, expected.audio, expected.label), **CLOSE)
    as_tuple = model(*x.values(), return_dict=False)
    assert [value.shape for value in as_tuple] == [x["video"].shape, x["audio"].shape, (2, CLASSES)]
    masked = model(x["video"], x["audio"]).logits
    torch.testing.assert_close(masked, model.backend_model(x["video"], x["audio"]).label, **CLOSE)
    given = model(x["video"], x["audio"], class_probs=x["label"]).logits
    assert not torch.allclose(masked, given, atol=1e-2)


def test_labels_give_the_loss() -> None:
    model, x = hf_model(), clips()
    labels = torch.tensor([4, 0])
    output = model(x["video"], x["audio"], labels=labels)
    expected = autoencoder_loss(model.backend_model(x["video"], x["audio"]), x["video"], x["audio"], labels)
    torch.testing.assert_close(output.loss, expected)
    points = {"video_points": torch.tensor([3, 0]), "audio_points": torch.tensor([[6], [2]])}
    output = model(x["video"], x["audio"], labels=labels, **points)
    audio = torch.stack([x["audio"][0, 18:21], x["audio"][1, 6:9]])[:, None]
    backend_output = model.backend_model(x["video"], x["audio"], **points)
    expected = autoencoder_loss(backend_output, x["video"].flatten(1, 3)[:, [3, 0]], audio, labels)
    torch.testing.assert_close(output.loss, expected)
    with pytest.raises(ValueError, match="the loss needs video and audio"):
        model(x["video"], labels=labels)


def test_trainer(tmp_path: Path) -> None:
    batch = columns(4)
    batch = {"video": batch["video"], "audio": batch["audio"], "labels": batch["label"]}
    examples: Any = [{name: column[i] for name, column in batch.items()} for i in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    model = hf_model()
    training = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples)
    training.train()
    with torch.no_grad():
        expected = model.eval()(**batch).loss.item()
    assert training.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_convert_checkpoint(tmp_path: Path) -> None:
    lit_model, fitting = make(), trainer(tmp_path, max_steps=1)
    fitting.fit(lit_model, datamodule=DictData(columns(), label_names=NAMES))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    autoencoder.convert_checkpoint(save_dir=tmp_path / "out", ckpt_url=str(tmp_path / "a.ckpt"))
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.id2label == dict(enumerate(NAMES))
    assert_same_parameters(model.backend_model.state_dict(), lit_model.model.state_dict())
    numbers = dict(enumerate(range(CLASSES)))
    autoencoder.convert_checkpoint(save_dir=tmp_path / "out", ckpt_url=tmp_path / "a.ckpt", id2label=numbers)
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == numbers
    with pytest.raises(FileNotFoundError):
        autoencoder.convert_checkpoint(save_dir=tmp_path / "none", ckpt_url=tmp_path / "b.ckpt")
