"""Parity with `transformers.PerceiverForSequenceClassification` with random weights, converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PerceiverConfig,
    PerceiverForSequenceClassification,
    PerceiverTokenizer,
    pipeline,
)

from perceiver.model.text import classifier
from perceiver.model.text.classifier.huggingface import official_backend_config

TINY: dict[str, Any] = {
    "num_latents": 5,
    "d_latents": 24,
    "d_model": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 2,
    "qk_channels": 12,
    "v_channels": 24,
    "vocab_size": 262,
    "max_position_embeddings": 20,
    "num_labels": 7,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two classes": {"num_labels": 2},
    "one class": {"num_labels": 1},
    "qk None": {"qk_channels": None, "v_channels": None, "cross_attention_shape_for_attention": "q"},
    "two blocks": {"num_blocks": 2},
    "wide": {"self_attention_widening_factor": 3, "cross_attention_widening_factor": 2},
    "other channels": {"d_model": 40, "d_latents": 12, "v_channels": 12, "num_latents": 7},
}


def source_model(folder: Path, **kwargs: Any) -> PerceiverForSequenceClassification:
    """Saved with its tokenizer. All parameters are random, biases and norms, too."""
    torch.manual_seed(0)
    config = TINY | kwargs if "id2label" not in kwargs else {**TINY, **kwargs, "num_labels": len(kwargs["id2label"])}
    model = PerceiverForSequenceClassification(PerceiverConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    PerceiverTokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_converted_model_is_equal(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    theirs = source_model(tmp_path / "source", **kwargs)
    classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(ours) is classifier.PerceiverTextClassifier
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.config.id2label == theirs.config.id2label and ours.config.label2id == theirs.config.label2id
    for length in (20, 7):
        ids = torch.randint(0, 262, (3, length))
        attention_mask = (torch.arange(length) < torch.tensor([length, 3, length - 1])[:, None]).long()
        with torch.no_grad():
            expected = theirs(inputs=ids, attention_mask=attention_mask).logits
            logits = ours(ids, attention_mask=attention_mask).logits
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("num_labels, dtype", [(7, torch.long), (7, torch.float), (1, torch.float)])
def test_losses_and_gradients_are_equal(tmp_path: Path, num_labels: int, dtype: torch.dtype) -> None:
    theirs = source_model(tmp_path / "source", num_labels=num_labels)
    classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = classifier.PerceiverTextClassifier.from_pretrained(tmp_path / "out")
    ids = torch.randint(0, 262, (4, 20))
    labels = torch.randint(0, 7, (4,)) if dtype == torch.long else torch.randint(0, 2, (4, num_labels)).float()
    losses = [ours(ids, labels=labels).loss, theirs(inputs=ids, labels=labels).loss]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert ours.config.problem_type == theirs.config.problem_type is not None
    for loss in losses:
        loss.backward()
    gradients = [
        ours.get_input_embeddings().weight.grad,
        theirs.perceiver.input_preprocessor.embeddings.weight.grad,
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_names_and_problem_type_come_along(tmp_path: Path) -> None:
    names = {0: "bad", 1: "good", 2: "ugly"}
    source_model(
        tmp_path / "source",
        id2label=names,
        label2id={name: i for i, name in names.items()},
        problem_type="multi_label_classification",
    )
    classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == names and config.problem_type == "multi_label_classification"
    results = [pipeline("text-classification", model=str(tmp_path / name))("text") for name in ("source", "out")]
    assert results[0][0]["label"] == results[1][0]["label"]
    assert results[0][0]["score"] == pytest.approx(results[1][0]["score"], abs=1e-5)


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    source_model(tmp_path / "source", hidden_act="relu")
    with pytest.raises(ValueError, match="hidden_act='relu' can't be converted"):
        classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    hub = Path(__file__).parent.parent / "golden" / "txt_clf" / "hub"
    with pytest.raises(ValueError, match="is a 'perceiver-io-text-classifier' model, expected 'perceiver'"):
        classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(hub))
    masked_language_model = hub.parent.parent / "hf_mlm" / "hf_src"
    with pytest.raises(ValueError, match=r"is no PerceiverForSequenceClassification, it lacks .*decoder"):
        classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(masked_language_model))
    assert not (tmp_path / "out").exists()


def test_backend_config_of_the_official_geometry() -> None:
    config = official_backend_config(PerceiverConfig(qk_channels=256, v_channels=1280))
    with torch.device("meta"):
        model = classifier.TextClassifier(config)
    assert sum(p.numel() for p in model.parameters()) == 206_098_690


@pytest.mark.slow
def test_official_geometry(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = PerceiverForSequenceClassification(PerceiverConfig(qk_channels=256, v_channels=1280)).eval()
    theirs.save_pretrained(tmp_path / "source")
    PerceiverTokenizer().save_pretrained(tmp_path / "source")
    classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in ours.parameters()) == 206_098_690
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    encoding = tokenizer(["This is a good film, isn't it?", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(inputs=encoding["input_ids"], attention_mask=encoding["attention_mask"]).logits
        torch.testing.assert_close(ours(**encoding).logits, expected, atol=1e-4, rtol=1e-4)
