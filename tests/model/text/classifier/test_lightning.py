"""Training of the text classifier: checkpoints old and new, what the encoder starts from, and what is logged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.text.classifier import (
    ClassificationDecoderConfig,
    LitTextClassifier,
    PerceiverTextClassifier,
    PerceiverTextClassifierConfig,
    TextClassifierConfig,
)
from perceiver.model.text.mlm import LitMaskedLanguageModel
from tests.model.helpers import TIED, assert_same_parameters, golden_cases, golden_parameters, mlm_config
from tests.model.text.classifier.helpers import CKPTS, HUB, TXT_CLF, Data, clf_config, padded_ids
from tests.model.trainers import trainer

SCORES = {"single_label_classification": (10,), "multi_label_classification": (10, 5), "regression": (10, 5)}


class LitClassifier(LitTextClassifier):
    """As the command line makes it: with an optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def data(problem_type: str = "single_label_classification", **kwargs: Any) -> Data:
    torch.manual_seed(1)
    x, pad_mask = padded_ids(10, 13)
    labels = torch.randn(SCORES[problem_type])
    if problem_type == "single_label_classification":
        labels = torch.arange(10) % 5
    elif problem_type == "multi_label_classification":
        labels = (labels > 0).float()
    return Data(labels, x, pad_mask, **kwargs)


# --- checkpoints ---


@pytest.mark.parametrize("file", CKPTS, ids=lambda file: file.name)
def test_published_checkpoints_load(file: Path) -> None:
    lit_model = LitTextClassifier.load_from_checkpoint(file)
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("txt_clf"))
    assert lit_model.hparams["encoder"]["params"] is None  # its file is nobody's any more


def test_recorded_step() -> None:
    (case,) = golden_cases("txt_clf", "lit_step")
    lit_model = LitTextClassifier.load_from_checkpoint(TXT_CLF / "lit.ckpt").eval()
    loss, accuracy = lit_model.step((case.inputs["labels"], case.inputs["input_ids"], case.inputs["pad_mask"]))
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=0)
    assert accuracy is not None
    torch.testing.assert_close(accuracy, case.outputs["accuracy"])


def test_own_checkpoint_round_trip(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    lit_model = LitClassifier.create(clf_config(), problem_type="single_label_classification")
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(lit_model, datamodule=data(label_names=names))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    hyper_parameters = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    expected = {"label_names": names, "problem_type": "single_label_classification", "label_smoothing": 0.0}
    assert hyper_parameters == asdict(clf_config()) | expected == json.loads(json.dumps(hyper_parameters))
    loaded = LitTextClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.problem_type == "single_label_classification" and loaded.hparams["label_names"] == names
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())
    hf_model = PerceiverTextClassifier.from_checkpoint(tmp_path / "a.ckpt")
    assert hf_model.config.id2label == dict(enumerate(names)) and hf_model.config.label2id["c"] == 2
    assert hf_model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("where", ["argument", "data"])
def test_as_many_names_as_classes(tmp_path: Path, where: str) -> None:
    names = {"label_names": ["yes", "no"]}
    lit_model = LitClassifier.create(clf_config(), **(names if where == "argument" else {}))
    with pytest.raises(ValueError, match="2 names, yes, no, for num_classes=5"):
        trainer(tmp_path, max_steps=1).fit(lit_model, datamodule=data(**(names if where == "data" else {})))


# --- the encoder of a masked language model ---


@pytest.mark.parametrize("source", ["lit.ckpt", "hub"])
def test_encoder_starts_from_a_masked_language_model(source: str) -> None:
    """The recorded classifier has the frozen encoder of the recorded masked language model."""
    config = TextClassifierConfig.from_dict(read_checkpoint(HUB).hyper_parameters)
    config.encoder.params = str(TIED / source)
    lit_model = LitTextClassifier.create(config)
    golden, found = golden_parameters("txt_clf"), lit_model.backend_model.state_dict()
    encoder = {name for name in golden if name.startswith("0.")}
    assert_same_parameters({n: found[n] for n in encoder}, {n: golden[n] for n in encoder})
    assert not torch.equal(found["1.output_query_provider._query"], golden["1.output_query_provider._query"])


def test_encoder_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"parameters of .* don't fit PerceiverEncoder; .* of another shape"):
        LitTextClassifier.create(clf_config({"params": str(TIED / "hub")}))


SAME_SHAPES = {"num_cross_attention_heads": 1, "num_self_attention_heads": 1, "num_self_attention_blocks": 3}


@pytest.mark.parametrize("part", ["encoder", "all"])
@pytest.mark.parametrize("name", SAME_SHAPES)
def test_parameters_that_would_compute_something_else(part: str, name: str, tmp_path: Path) -> None:
    saving = trainer(tmp_path)
    saving.strategy.connect(LitTextClassifier.create(clf_config()))
    saving.save_checkpoint(file := tmp_path / "clf.ckpt")
    there = read_checkpoint(file)

    def started(encoder: dict[str, Any], **kwargs: Any) -> LitTextClassifier:
        if part == "encoder":
            return LitTextClassifier.create(clf_config({"params": str(file), **encoder}), **kwargs)
        return LitTextClassifier.create(clf_config(encoder), params=str(file), **kwargs)

    started({"dropout": 0.3, "init_scale": 0.7})
    value, other, prefix = (
        SAME_SHAPES[name],
        asdict(clf_config())["encoder"][name],
        "" if part == "encoder" else "encoder.",
    )
    with pytest.raises(
        ValueError, match=rf"clf\.ckpt is of another model, .* are {prefix}{name}={value} and {other}\. "
    ):
        started({name: value})
    loaded = started({name: value}, params_strict=False).model.state_dict()
    assert_same_parameters(*({n: values[n] for n in loaded if n[0] == "0"} for values in (loaded, there.state_dict)))


def test_a_published_config_needs_no_file(tmp_path: Path) -> None:
    assert json.loads((HUB / "config.json").read_text())["model_config"]["encoder"]["params"] == "mlm_src.ckpt"
    config = PerceiverTextClassifierConfig.from_pretrained(HUB)
    LitTextClassifier.create(config.backend_config)
    lit_model = LitTextClassifier.create(config.backend_config, params=str(HUB))
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("txt_clf"))
    config.save_pretrained(tmp_path)  # what the file says stays
    assert json.loads((tmp_path / "config.json").read_text())["model_config"] == config.model_config
    own = clf_config({"params": "mlm_src.ckpt"})  # what a user asks for is an error if it is not there
    with pytest.raises(FileNotFoundError, match=r"mlm_src\.ckpt"):
        LitTextClassifier.create(own)


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_encoder_is_not_trained(tmp_path: Path, freeze: bool) -> None:
    source = LitMaskedLanguageModel.create(mlm_config())
    saving = trainer(tmp_path)
    saving.strategy.connect(source)
    saving.save_checkpoint(tmp_path / "mlm.ckpt")
    lit_model = LitClassifier.create(clf_config({"params": str(tmp_path / "mlm.ckpt"), "freeze": freeze}))
    decoder = {name: value.clone() for name, value in lit_model.model.decoder.state_dict().items()}
    fitting = trainer(tmp_path, max_steps=3)
    fitting.fit(lit_model, datamodule=data())
    before = source.model.encoder.state_dict()
    after = lit_model.model.encoder.state_dict()
    same = [torch.equal(after[name], before[name]) for name in before]
    assert all(same) if freeze else not any(torch.equal(after[n], before[n]) for n in before if before[n].ndim == 2)
    assert not torch.equal(
        lit_model.model.decoder.state_dict()["cross_attn.1.module.1.weight"], decoder["cross_attn.1.module.1.weight"]
    )
    fitting.save_checkpoint(tmp_path / "clf.ckpt")
    (tmp_path / "mlm.ckpt").unlink()
    loaded = LitTextClassifier.load_from_checkpoint(tmp_path / "clf.ckpt")
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())
    assert loaded.model.config.encoder.freeze is freeze


# --- training ---


@pytest.mark.parametrize("problem_type", SCORES)
def test_losses_and_accuracies_are_logged(tmp_path: Path, problem_type: Any) -> None:
    lit_model = LitClassifier.create(clf_config(), problem_type=problem_type)
    fitting, module = trainer(tmp_path, max_epochs=1), data(problem_type)
    fitting.fit(lit_model, datamodule=module)
    names = {f"{split}_loss" for split in ("train", "val")}
    if problem_type != "regression":
        names |= {f"{split}_acc" for split in ("train", "val")}
    assert fitting.callback_metrics.keys() == names
    fitting.test(lit_model, datamodule=module, verbose=False)
    with torch.no_grad():  # batches have 4, 4 and 2 examples
        loss, accuracy = lit_model.eval().step(module.examples.columns)  # type: ignore[arg-type]
    torch.testing.assert_close(fitting.callback_metrics["test_loss"], loss)
    if accuracy is not None:
        torch.testing.assert_close(fitting.callback_metrics["test_acc"], accuracy)


def test_examples_without_label_weigh_nothing(tmp_path: Path) -> None:
    module = data()
    labels = module.examples.columns[0]
    labels[[0, 1, 2, 5]] = -100
    lit_model = LitClassifier.create(clf_config())
    testing = trainer(tmp_path)
    testing.test(lit_model, datamodule=module, verbose=False)
    loss, accuracy = lit_model.eval().step(module.examples.columns)  # type: ignore[arg-type]
    torch.testing.assert_close(testing.callback_metrics["test_loss"], loss.detach())
    torch.testing.assert_close(testing.callback_metrics["test_acc"], accuracy)


def test_several_queries_train(tmp_path: Path) -> None:
    config = clf_config(decoder={"num_output_queries": 3})
    x, pad_mask = padded_ids(6, 13)
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(LitClassifier.create(config), datamodule=Data(torch.randint(0, 5, (6, 3)), x, pad_mask))
    assert fitting.callback_metrics["train_loss"] > 0


def test_it_learns(tmp_path: Path) -> None:
    x = torch.randint(0, 36, (32, 7))
    labels = (torch.arange(32) % 2).long()
    x[labels == 1, 3] = 36
    x[labels == 0, 3] = 0
    config = TextClassifierConfig(
        clf_config().encoder, ClassificationDecoderConfig(num_classes=2, num_output_query_channels=8), 3, 13
    )
    fitting = trainer(tmp_path, max_epochs=30, check_val_every_n_epoch=30)
    module = Data(labels, x, torch.zeros_like(x, dtype=torch.bool), batch_size=16)
    fitting.fit(LitClassifier.create(config), datamodule=module)
    assert fitting.callback_metrics["val_acc"] == 1


def test_forward_takes_ids_and_pad_mask() -> None:
    lit_model: Any = LitTextClassifier.create(clf_config()).eval()
    x, pad_mask = padded_ids(3, 7)
    logits: Tensor = lit_model(x, pad_mask)
    torch.testing.assert_close(logits, lit_model.backend_model(x, pad_mask), atol=3e-5, rtol=1e-5)
