"""The Hugging Face token classifier: folders, losses, Trainer, and the pipeline that finds entities in bytes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from perceiver.model.text import token_classifier
from perceiver.model.text.token_classifier import (
    PerceiverTokenClassifier,
    PerceiverTokenClassifierConfig,
)
from perceiver.model.text.token_classifier.entities import AGGREGATIONS, entities_of
from perceiver.model.text.token_classifier.huggingface import PerceiverTokenClassificationPipeline
from tests.model.helpers import assert_same_parameters, json_copy
from tests.model.text.token_classifier.helpers import NAMES, byte_config, saved_model, sentence_batch, tc_config

TEXT = "Zoë Müller: „naïve“ 日本語 in\n New-York [MASK]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("token_classifier")
    saved_model(folder)
    return folder


def test_public_names() -> None:
    for name in token_classifier.__all__:
        found = getattr(importlib.import_module("perceiver.model.text.token_classifier"), name)
        assert callable(found) and found.__name__ == name and found.__doc__


def test_saved_and_loaded_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert type(model) is PerceiverTokenClassifier and not model.training
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "perceiver-io-token-classifier" and config.backend_config == byte_config()
    assert config.id2label == dict(enumerate(NAMES)) and config.label2id["I-LOC"] == 4
    model.save_pretrained(tmp_path)
    assert_same_parameters(PerceiverTokenClassifier.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_names_of_classes(tmp_path: Path) -> None:
    model_config = json_copy(tc_config({"params": "gone"}, {"params": "gone"}))
    config = PerceiverTokenClassifierConfig(model_config=model_config)
    assert config.id2label == {i: f"LABEL_{i}" for i in range(5)}
    assert config.backend_config == tc_config()  # the files that it once started from are nobody's any more
    with pytest.raises(ValueError, match="id2label names 2 classes"):
        PerceiverTokenClassifier(PerceiverTokenClassifierConfig(tc_config(), id2label={0: "a", 1: "b"}))


@pytest.mark.parametrize("training", [False, True])
def test_labels_give_the_loss(folder: Path, training: bool) -> None:
    model = PerceiverTokenClassifier.from_pretrained(folder).train(training)
    labels, x, pad_mask = sentence_batch()
    output = model(x, (~pad_mask).long(), labels=labels)
    torch.testing.assert_close(output.loss, model.backend_model.loss(labels, x, pad_mask))
    assert output.logits is None if training else output.logits.shape == (*x.shape, 5)
    positions = torch.tensor([[0, 1]] * 3)
    some = model(x, (~pad_mask).long(), labels=labels, output_positions=positions, return_dict=False)
    logits = model.backend_model(x, pad_mask)[:, :2]
    torch.testing.assert_close(some[1], logits, atol=1e-5, rtol=1e-5)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, :2].flatten())
    torch.testing.assert_close(some[0], expected, atol=1e-5, rtol=1e-5)
    assert model.get_input_embeddings().weight.shape == (262, 11)


def test_trainer(folder: Path, tmp_path: Path) -> None:
    labels, x, pad_mask = sentence_batch()
    columns = {"input_ids": x, "attention_mask": (~pad_mask).long(), "labels": labels}
    examples: Any = [{name: column[i] for name, column in columns.items()} for i in range(3)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    model = PerceiverTokenClassifier.from_pretrained(folder)
    training = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples)
    training.train()
    with torch.no_grad():
        expected = model.eval()(x, (~pad_mask).long(), labels=labels).loss.item()
    assert training.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


# --- the pipeline ---


def scores_of(folder: Path, data: bytes) -> list[torch.Tensor]:
    model = PerceiverTokenClassifier.from_pretrained(folder)
    with torch.no_grad():
        return list(model(torch.tensor([list(data)]) + 6).logits[0].softmax(dim=-1))


@pytest.mark.parametrize("task", ["token-classification", "ner"])
@pytest.mark.parametrize("strategy", AGGREGATIONS)
def test_pipeline(folder: Path, strategy: str, task: Any) -> None:
    tagger = pipeline(task, model=str(folder))
    assert type(tagger) is PerceiverTokenClassificationPipeline
    expected = entities_of(
        TEXT, scores_of(folder, TEXT.encode()), NAMES, aggregation_strategy=strategy, ignore_labels=[]
    )
    found = tagger(TEXT, aggregation_strategy=strategy, ignore_labels=[])
    assert len(found) == len(expected) > 3
    for a, b in zip(found, expected, strict=True):
        assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-5)
        assert a == b
    json.dumps(found)  # plain values


def test_batches(folder: Path) -> None:
    tagger = pipeline("token-classification", model=str(folder), aggregation_strategy="simple", ignore_labels=[])
    texts = ["Ann", TEXT, "", "Łódź ", " \n"]
    single = [tagger(text) for text in texts]
    assert single[2] == single[4] == [] and len(single[1]) > 1
    for batch_size in (1, 3):
        results = tagger(texts, batch_size=batch_size)
        for found, expected in zip(results, single, strict=True):
            assert [{**e, "score": 0} for e in found] == [{**e, "score": 0} for e in expected]


def test_given_words(folder: Path) -> None:
    tagger = pipeline("token-classification", model=str(folder), aggregation_strategy="first", ignore_labels=[])
    words = ["Zoë", "New-York", "日本"]
    (found,) = tagger(words, is_split_into_words=True)
    assert "".join(e["word"] for e in found).replace(" ", "") == "".join(words)
    assert {e["end"] for e in found} <= {3, 12, 15}
    (found,) = tagger(words, is_split_into_words=True, delimiter="")
    assert {e["end"] for e in found} <= {3, 11, 13}
    with pytest.raises(ValueError, match=r"is_split_into_words=True a list of words, not 'Zoë'"):
        tagger("Zoë", is_split_into_words=True)


@pytest.mark.parametrize("stride", [0, 5, 40])
def test_long_texts_in_windows(folder: Path, stride: int) -> None:
    """Each byte is classified once, by a window in which it is as far from the edges as possible."""
    text = " ".join(f"wört{i}" for i in range(40))
    tagger = pipeline("token-classification", model=str(folder), ignore_labels=[])
    assert max(e["index"] for e in tagger(text)) == 63  # the beginning
    found = tagger(text, stride=stride)
    data = text.encode()
    assert [e["index"] for e in found] == [i for i in range(len(data)) if data[i : i + 1] != b" "]
    starts = [0, *range(64 - stride, len(data) - 64 + 64 - stride, 64 - stride)]
    scores = [scores_of(folder, data[start : start + 64]) for start in starts]
    for entity in found:
        i = entity["index"]
        candidates = [
            (min(i - start if start else 999, start + 63 - i if start + 64 < len(data) else 999), k)
            for k, start in enumerate(starts)
            if start <= i < start + 64
        ]
        best = max(distance for distance, _ in candidates)
        near = [float(scores[k][i - starts[k]].max()) for distance, k in candidates if distance >= best - 1]
        assert any(entity["score"] == pytest.approx(score, abs=1e-4) for score in near), i


def test_wrong_arguments(folder: Path) -> None:
    tagger = pipeline("token-classification", model=str(folder))
    with pytest.raises(ValueError, match=r"stride=64 must be in \[0, 64\)"):
        tagger("text", stride=64)
    with pytest.raises(ValueError, match="aggregation_strategy='best' must be one of none, simple"):
        tagger("text", aggregation_strategy="best")
    with pytest.raises(ValueError, match="offset_mapping can't be given"):
        tagger("text", offset_mapping=[(0, 4)])


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_other_models_are_not_affected(tmp_path: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "##e", "in", "york"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    tagger = pipeline("token-classification", model=BertForTokenClassification(config), tokenizer=tokenizer)
    found = tagger("Anne in York")
    assert [entity["word"] for entity in found] == ["ann", "##e", "in", "york"]
    assert [(entity["start"], entity["end"]) for entity in found] == [(0, 3), (3, 4), (5, 7), (8, 12)]
    assert tagger("Anne in York", aggregation_strategy="first")
