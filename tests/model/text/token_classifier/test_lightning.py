"""Training of the token classifier: what it starts from, checkpoints, accuracy and the F1 of entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PerceiverTokenizer, pipeline

from perceiver.model.text.mlm import LitMaskedLanguageModel
from perceiver.model.text.token_classifier import (
    LitTokenClassifier,
    PerceiverTokenClassifier,
    convert_checkpoint,
)
from perceiver.model.text.token_classifier.lightning import EntityF1
from tests.model.helpers import TIED, assert_same_parameters, mlm_config
from tests.model.text.classifier.helpers import Data
from tests.model.text.token_classifier.helpers import NAMES, SENTENCES, byte_config, sentence_batch, tc_config
from tests.model.trainers import trainer


class LitTagger(LitTokenClassifier):
    """As the command line makes it: with an optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.fixture
def mlm_ckpt(tmp_path: Path) -> Path:
    saving, source = trainer(tmp_path), LitMaskedLanguageModel.create(mlm_config())
    saving.strategy.connect(source)
    saving.save_checkpoint(tmp_path / "mlm.ckpt")
    return tmp_path / "mlm.ckpt"


@pytest.mark.parametrize("parts", [("encoder",), ("decoder",), ("encoder", "decoder")])
def test_parts_start_from_a_masked_language_model(mlm_ckpt: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    params = {"params": str(mlm_ckpt)}
    config = tc_config(*(params if part in parts else {} for part in ("encoder", "decoder")))
    lit_model = LitTagger.create(config)
    mlm = LitMaskedLanguageModel.load_from_checkpoint(mlm_ckpt).model.state_dict()
    found = lit_model.model.state_dict()
    for name in found.keys() & mlm.keys():
        if found[name].ndim == 2:
            part = "encoder" if name.startswith("0.") else "decoder"
            assert torch.equal(found[name], mlm[name]) == (part in parts), name
    saving = trainer(tmp_path)
    saving.strategy.connect(lit_model)
    saving.save_checkpoint(tmp_path / "tagger.ckpt")
    mlm_ckpt.unlink()
    loaded = LitTokenClassifier.load_from_checkpoint(tmp_path / "tagger.ckpt")
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())


def test_decoder_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"parameters of .* don't fit PerceiverDecoder; .* of another shape"):
        LitTagger.create(tc_config(decoder={"params": str(TIED / "hub")}))


def test_all_parameters(mlm_ckpt: Path, tmp_path: Path) -> None:
    saving, source = trainer(tmp_path), LitTagger.create(tc_config())
    saving.strategy.connect(source)
    saving.save_checkpoint(tmp_path / "a.ckpt")
    config = tc_config({"params": "/gone"}, {"params": "/gone"})
    lit_model = LitTagger.create(config, params=str(tmp_path / "a.ckpt"))
    assert_same_parameters(lit_model.state_dict(), source.state_dict())


def test_it_learns_and_is_used(tmp_path: Path) -> None:
    """From training to entities in text, with names that come from the data."""
    labels, x, pad_mask = sentence_batch()
    data = Data(labels, x, pad_mask, batch_size=3, label_names=NAMES)
    fitting = trainer(tmp_path, max_epochs=100, check_val_every_n_epoch=100)
    torch.manual_seed(0)
    lit_model = LitTagger.create(byte_config())
    fitting.fit(lit_model, datamodule=data)
    metrics = fitting.callback_metrics
    assert metrics.keys() == {"train_loss", "val_loss", "val_acc", "val_f1"}
    assert metrics["val_acc"] == metrics["val_f1"] == 1
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    assert LitTokenClassifier.load_from_checkpoint(tmp_path / "a.ckpt").hparams["label_names"] == NAMES
    PerceiverTokenizer().save_pretrained(tmp_path / "tokenizer")
    convert_checkpoint(tmp_path / "out", tmp_path / "a.ckpt", str(tmp_path / "tokenizer"))
    tagger = pipeline("token-classification", model=str(tmp_path / "out"), aggregation_strategy="average")
    assert tagger.tokenizer.model_max_length == 64
    found = [[(e["entity_group"], e["word"]) for e in tagger(" ".join(words))] for words, _ in SENTENCES]
    assert found == [
        [("PER", "Zoë Müller"), ("LOC", "Łódź")],
        [("LOC", "New York")],
        [("PER", "Ann"), ("PER", "Bob"), ("PER", "Ray")],
    ]


def test_losses_do_not_depend_on_batches(tmp_path: Path) -> None:
    labels, x, pad_mask = sentence_batch()
    lit_model = LitTagger.create(byte_config(), label_names=NAMES)
    values = []
    for batch_size in (1, 2, 3):
        testing = trainer(tmp_path)
        testing.test(lit_model, datamodule=Data(labels, x, pad_mask, batch_size=batch_size), verbose=False)
        values.append(testing.callback_metrics)
    logits = lit_model.eval()(x, pad_mask)
    labelled = labels != -100
    accuracy = (logits.argmax(dim=-1) == labels)[labelled].float().mean()
    for metrics in values:
        assert metrics.keys() == {"test_loss", "test_acc", "test_f1"}
        torch.testing.assert_close(metrics["test_loss"], lit_model.model.loss(labels, x, pad_mask).detach())
        torch.testing.assert_close(metrics["test_acc"], accuracy)
        torch.testing.assert_close(metrics["test_f1"], values[0]["test_f1"])


@pytest.mark.parametrize("names", [None, ["NOUN", "VERB", "X", "Y", "Z"]])
def test_no_entities_without_names_of_entities(tmp_path: Path, names: Any) -> None:
    testing = trainer(tmp_path)
    testing.test(LitTagger.create(byte_config(), label_names=names), datamodule=Data(*sentence_batch()), verbose=False)
    assert testing.callback_metrics.keys() == {"test_loss", "test_acc"}


def test_as_many_names_as_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 names, O, X, for num_classes=5"):
        data = Data(*sentence_batch(), label_names=["O", "X"])
        trainer(tmp_path).test(LitTagger.create(byte_config()), datamodule=data)


def test_f1_of_words() -> None:
    """Two words of three and two tokens, then one of one: the mean over a word's tokens decides."""
    labels = torch.tensor([[1, 1, 1, 2, 2, 3, -100], [0, 1, -100, -100, -100, -100, -100]])
    positions = torch.tensor([[0, 1, 2, 4, 5, 7, 3], [0, 2, 1, 3, 4, 5, 6]])
    probabilities = torch.full((2, 7, 5), 0.01)
    for row, position, label in [
        (0, 0, 1),
        (0, 1, 1),
        (0, 2, 2),
        (0, 3, 2),
        (0, 4, 2),
        (0, 5, 0),
        (1, 0, 0),
        (1, 1, 3),
    ]:
        probabilities[row, position, label] = 1
    f1 = EntityF1()
    f1.update(probabilities, labels, positions, NAMES)
    # there: PER (words 0 and 1), LOC; PER. Found: PER (words 0 and 1); LOC
    assert (f1.right, f1.predicted, f1.there) == (1, 2, 3)
    assert f1.compute() == pytest.approx(2 * 1 / (2 + 3))
    f1.update(probabilities, torch.full_like(labels, -100), positions, NAMES)
    assert f1.compute() == pytest.approx(0.4)
    assert EntityF1()._computed is None and not EntityF1().state_dict()


def test_two_entities_of_neighbouring_words_stay_apart() -> None:
    labels = torch.tensor([[1, 1, 1, 1]])
    f1 = EntityF1()
    f1.update(torch.nn.functional.one_hot(labels, 5).float(), labels, torch.tensor([[0, 1, 3, 4]]), NAMES)
    assert (f1.right, f1.predicted, f1.there) == (2, 2, 2)


def test_from_checkpoint(mlm_ckpt: Path) -> None:
    with pytest.raises(ValueError, match="TokenClassificationDecoderConfig has no field"):
        PerceiverTokenClassifier.from_checkpoint(TIED.parent / "txt_clf" / "lit.ckpt")
