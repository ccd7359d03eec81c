"""The Hugging Face text classifier: folders, names of classes, problem types, pipeline, Trainer, conversions."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from perceiver.model.text import classifier
from perceiver.model.text.classifier import (
    PerceiverTextClassifier,
    PerceiverTextClassifierConfig,
    TextClassifierConfig,
    convert_checkpoint,
    convert_imdb_classifier_checkpoint,
)
from tests.model.helpers import assert_same_parameters, golden_cases, golden_parameters, token_ids
from tests.model.text.classifier.helpers import CKPTS, HUB, TXT_CLF, clf_config, clf_model, padded_ids

DEFAULT_NAMES = {i: f"LABEL_{i}" for i in range(5)}


def hf_model(config: TextClassifierConfig | None = None, **kwargs: Any) -> PerceiverTextClassifier:
    config = config or clf_config()
    model = PerceiverTextClassifier(PerceiverTextClassifierConfig(config, **kwargs)).eval()
    model.backend_model.load_state_dict(clf_model(config).state_dict())
    return model


def test_public_names() -> None:
    for name in classifier.__all__:
        found = getattr(importlib.import_module("perceiver.model.text.classifier"), name)
        assert callable(found) and found.__name__ == name and found.__doc__
    for name in ("ClassificationDecoderConfig",):  # the import path of published checkpoints
        assert hasattr(importlib.import_module("perceiver.model.core.config"), name)


# --- folders ---


def test_published_folder_gives_the_recorded_outputs(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(HUB)
    assert type(model) is PerceiverTextClassifier and not model.training
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_same_parameters(again.state_dict(), model.state_dict())
    for case in golden_cases("txt_clf", "forward"):
        for loaded in (model, again):
            torch.testing.assert_close(loaded(**case.inputs).logits, case.outputs["logits"], atol=1e-4, rtol=0)
    published, saved = (json.loads((folder / "config.json").read_text()) for folder in (HUB, tmp_path))
    for key in ("model_config", "model_type", "architectures", "id2label", "label2id"):
        assert saved[key] == published[key]
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert keys == {f"backend_model.{name}" for name in golden_parameters("txt_clf")}
    assert not any(p.requires_grad for p in again.backend_model.encoder.parameters())  # frozen, as its config says


def test_the_config_and_the_model_agree() -> None:
    model = PerceiverTextClassifier.from_pretrained(HUB)
    assert model.config.backend_config == model.backend_model.config
    assert model.config.backend_config.encoder.params is None


# --- names of classes ---


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_names_come_from_the_number_of_classes(tmp_path: Path, classes: int) -> None:
    names = {i: f"LABEL_{i}" for i in range(classes)}
    model = hf_model(clf_config(decoder={"num_classes": classes}))
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    for found in (model.config, config, AutoModelForSequenceClassification.from_config(config).config):
        assert found.id2label == names and found.label2id == {name: i for i, name in names.items()}
        assert found.num_labels == classes


def test_a_folder_without_names(tmp_path: Path) -> None:
    hf_model().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["id2label"], values["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert PerceiverTextClassifier.from_pretrained(tmp_path).config.id2label == DEFAULT_NAMES


def test_given_names(tmp_path: Path) -> None:
    names = dict(enumerate("abcde"))
    model = hf_model(id2label=names)
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
    model.save_pretrained(tmp_path)
    assert PerceiverTextClassifier.from_pretrained(tmp_path).config.id2label == names
    other = PerceiverTextClassifier.from_pretrained(tmp_path, id2label=DEFAULT_NAMES)
    assert other.config.id2label == DEFAULT_NAMES


def test_more_or_fewer_names_than_classes(tmp_path: Path) -> None:
    message = r"id2label names 3 classes, \[0, 1, 2\], the model has 5"
    with pytest.raises(ValueError, match=message):
        hf_model(id2label=dict(enumerate("abc")))
    hf_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="You set `ignore_mismatched_sizes` to `False`"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    with pytest.raises(ValueError, match=r"id2label names 3 classes, .* the model has 2"):
        convert_checkpoint(tmp_path / "out", CKPTS[0], str(HUB), id2label=dict(enumerate("abc")))
    assert not (tmp_path / "out").exists()


# --- forward ---


@pytest.mark.parametrize(
    "problem_type, labels",
    [
        ("single_label_classification", torch.tensor([0, 4, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])),
        ("regression", torch.randn(3, 5)),
    ],
)
def test_labels_give_the_loss(problem_type: Any, labels: torch.Tensor) -> None:
    x, pad_mask = padded_ids(3, 11)
    model = hf_model(problem_type=problem_type)
    output = model(x, (~pad_mask).long(), labels=labels)
    logits = model.backend_model(x, pad_mask)
    losses: dict[str, Any] = {
        "single_label_classification": F.cross_entropy,
        "multi_label_classification": F.binary_cross_entropy_with_logits,
        "regression": F.mse_loss,
    }
    torch.testing.assert_close(output.loss, losses[problem_type](logits, labels))
    torch.testing.assert_close(output.logits, logits)
    loss, tuple_logits = model(x, (~pad_mask).long(), labels=labels, return_dict=False)
    torch.testing.assert_close((loss, tuple_logits), (output.loss, logits))
    if problem_type != "regression":  # the labels say it themselves
        inferring = hf_model()
        torch.testing.assert_close(inferring(x, (~pad_mask).long(), labels=labels).loss, output.loss)
        assert inferring.config.problem_type == problem_type


def test_wrong_labels() -> None:
    with pytest.raises(ValueError, match=r"labels span \[5, 5\], allowed is \[0, 4\]"):
        hf_model()(token_ids(2, 7), labels=torch.tensor([5, 5]))
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), expected \(2,\)"):
        hf_model()(token_ids(2, 7), labels=torch.tensor([1, 2, 3]))


def test_input_embeddings() -> None:
    model = hf_model()
    assert model.get_input_embeddings().weight.shape == (37, 11)


# --- pipeline and Trainer ---


def test_recorded_pipeline() -> None:
    (case,) = golden_cases("txt_clf", "pipeline")
    results = pipeline("sentiment-analysis", model=str(HUB))(case.data["texts"])
    for result, expected in zip(results, case.data["result"], strict=True):
        assert result["label"] == expected["label"]
        assert result["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_pipeline_applies_what_the_model_was_trained_with(tmp_path: Path) -> None:
    config = clf_config({"vocab_size": 262, "max_seq_len": 64})
    model = hf_model(config)
    model(token_ids(2, 7), labels=torch.zeros(2, 5))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(HUB).save_pretrained(tmp_path)
    results = pipeline("text-classification", model=str(tmp_path))("some text", top_k=None)
    logits = model(**AutoTokenizer.from_pretrained(tmp_path)("some text", return_tensors="pt")).logits[0]
    scores = {result["label"]: result["score"] for result in results}
    assert [scores[f"LABEL_{i}"] for i in range(5)] == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)


def test_long_texts_are_cut_when_asked(tmp_path: Path) -> None:
    convert_checkpoint(tmp_path / "out", CKPTS[0], str(HUB))
    classify = pipeline("sentiment-analysis", model=str(tmp_path / "out"))
    assert classify("x" * 100, truncation=True)[0]["label"] in ("LABEL_0", "LABEL_1")
    with pytest.raises(ValueError, match=r"sequence length 102 exceeds max_seq_len=24"):
        classify("x" * 100)


def test_trainer(tmp_path: Path) -> None:
    x = token_ids(6, 13)
    examples: Any = [{"input_ids": ids, "labels": torch.tensor(i % 5)} for i, ids in enumerate(x)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    training = Trainer(hf_model(), arguments, train_dataset=examples, eval_dataset=examples)
    training.train()
    with torch.no_grad():
        expected = training.model.eval()(x, labels=torch.arange(6) % 5)
    assert training.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(training.predict(examples).predictions), expected.logits)
    training.save_model(str(tmp_path / "saved"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert_same_parameters(again.state_dict(), training.model.state_dict())


# --- conversion of checkpoints; of transformers' models: tests/parity ---


@pytest.mark.parametrize("file", CKPTS, ids=lambda file: file.name)
def test_convert_checkpoint(tmp_path: Path, file: Path) -> None:
    convert_imdb_classifier_checkpoint(save_dir=tmp_path / "out", ckpt_url=str(file), tokenizer_name=str(HUB))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert_same_parameters(model.backend_model.state_dict(), golden_parameters("txt_clf"))
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == 24 and set(tokenizer("a")) == {"input_ids", "attention_mask"}
    (case,) = golden_cases("txt_clf", "pipeline")
    results = pipeline("sentiment-analysis", model=str(tmp_path / "out"))(case.data["texts"])
    assert [r["label"] for r in results] == [r["label"] for r in case.data["result"]]


def test_default_and_own_names(tmp_path: Path) -> None:
    convert_checkpoint(tmp_path / "a", CKPTS[0], str(HUB))
    assert AutoConfig.from_pretrained(tmp_path / "a").id2label == {0: "LABEL_0", 1: "LABEL_1"}
    convert_checkpoint(tmp_path / "b", CKPTS[0], str(HUB), id2label={0: "x", 1: "y"}, label2id={"x": 0, "y": 1})
    assert AutoConfig.from_pretrained(tmp_path / "b").label2id == {"x": 0, "y": 1}


def test_tokenizer_with_more_ids_than_the_model(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(HUB)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="has 263 ids, the model's vocabulary only 262"):
        convert_checkpoint(tmp_path / "out", CKPTS[0], str(tmp_path / "tokenizer"))
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"/none\.ckpt"):
        PerceiverTextClassifier.from_checkpoint("/none.ckpt")
    with pytest.raises(ValueError, match="ClassificationDecoderConfig has no field"):
        PerceiverTextClassifier.from_checkpoint(TXT_CLF.parent / "mlm_tied" / "lit.ckpt")


def test_wrong_labels_leave_the_problem_type_open() -> None:
    """What a call that failed would have set must not refuse the right labels of the next one."""
    model = hf_model()
    x, num_classes = torch.full((2, 5), 7), model.backend_model.config.decoder.num_classes
    with pytest.raises(ValueError, match="labels"):
        model(x, labels=torch.zeros(2, num_classes + 1))
    assert model.config.problem_type is None
    assert model(x, labels=torch.tensor([1, 0])).loss.isfinite()
    assert model.config.problem_type == "single_label_classification"
