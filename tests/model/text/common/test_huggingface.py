"""Padding on the left changes nothing: in the models' forward, in conversions, in pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PerceiverTokenizer, TextGenerationPipeline, pipeline

from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.text.common.huggingface import PerceiverTextModel
from tests.huggingface.tasks import SEQ_LEN, TASKS, VOCAB_SIZE
from tests.model.helpers import TIED

LENGTHS = (SEQ_LEN, 4, 9)
TIGHT = {"atol": 1e-5, "rtol": 1e-4}
NAMES = ("masked language model", "text classifier", "token classifier")


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> PerceiverTextModel:
    (task,) = (task for task in TASKS if task.name == request.param)
    model = task.model()
    model.config.pad_token_id = 0
    assert isinstance(model, PerceiverTextModel)
    return model


def padded(side: str, values: list[Tensor], padding: int) -> Tensor:
    def row(x: Tensor) -> Tensor:
        pads = torch.full((SEQ_LEN - len(x),), padding)
        return torch.cat([pads, x] if side == "left" else [x, pads])

    return torch.stack([row(x) for x in values])


def texts(side: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """A padded batch, and the columns of each text."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(6, VOCAB_SIZE, (length,), generator=generator) for length in LENGTHS]
    batch = {
        "input_ids": padded(side, ids, 0),
        "attention_mask": padded(side, [torch.ones_like(x) for x in ids], 0),
    }
    columns = [torch.arange(n) + (SEQ_LEN - n if side == "left" else 0) for n in LENGTHS]
    return batch, columns


def per_text(logits: Tensor, columns: list[Tensor]) -> list[Tensor]:
    """Logits of the tokens of each text; those of a classifier as they are."""
    return list(logits) if logits.ndim == 2 else [x[own] for x, own in zip(logits, columns, strict=True)]


def test_either_side(model: PerceiverTextModel) -> None:
    (right, own_right), (left, own_left) = texts("right"), texts("left")
    expected = per_text(model(**right).logits, own_right)
    found = per_text(model(**left).logits, own_left)
    for length, x, y in zip(LENGTHS, expected, found, strict=True):
        torch.testing.assert_close(y, x, **TIGHT)
        assert x.shape[0] in (length, 3)


def test_each_text_equals_itself_alone(model: PerceiverTextModel) -> None:
    batch, columns = texts("left")
    for i, found in enumerate(per_text(model(**batch).logits, columns)):
        alone = model(input_ids=batch["input_ids"][i : i + 1, columns[i]]).logits[0]
        torch.testing.assert_close(found, alone, **TIGHT)


@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients(model: PerceiverTextModel, training: bool) -> None:
    labels = [torch.where(torch.arange(n) % 3 == 1, torch.arange(n) % 3, -100) for n in LENGTHS]
    of_texts = isinstance(model, classifier.PerceiverTextClassifier)
    results = []
    for side in ("right", "left"):
        batch, _ = texts(side)
        target = torch.tensor([0, 2, 1]) if of_texts else padded(side, labels, -100)
        loss = model.train(training)(**batch, labels=target).loss
        results.append((loss, torch.autograd.grad(loss, model.parameters())))
    torch.testing.assert_close(results[1], results[0], **TIGHT)


def test_some_positions() -> None:
    model = next(task for task in TASKS if task.name == "masked language model").model()
    model.config.pad_token_id = 0
    batch, _ = texts("left")
    full = model(**batch).logits
    positions = torch.tensor([[0, 11], [8, 10], [3, 7]])
    chosen = model(**batch, output_positions=positions).logits
    torch.testing.assert_close(chosen, full.gather(1, positions[..., None].expand(-1, -1, VOCAB_SIZE)), **TIGHT)
    same = model(**batch, output_positions=torch.tensor([[9, 2]])).logits
    torch.testing.assert_close(same, full[:, [9, 2]], **TIGHT)
    for wrong in (-1, 4 * SEQ_LEN):
        with pytest.raises(ValueError, match="positions span"):
            model(**batch, output_positions=torch.tensor([[wrong]]))


def test_a_mask_that_hides_tokens_is_no_padding(model: PerceiverTextModel) -> None:
    """As in 0.11, positions stay those of columns: what is hidden are no pads, or the config names none."""
    batch, _ = texts("left")
    batch["input_ids"] = torch.where(batch["attention_mask"] == 0, 7, batch["input_ids"])
    pad_mask = batch["attention_mask"] == 0
    torch.testing.assert_close(model(**batch).logits, model.backend_model(batch["input_ids"], pad_mask), **TIGHT)
    model.config.pad_token_id = None
    batch, _ = texts("left")
    torch.testing.assert_close(model(**batch).logits, model.backend_model(batch["input_ids"], pad_mask), **TIGHT)


def test_a_text_of_padding_alone(model: PerceiverTextModel) -> None:
    batch, _ = texts("left")
    batch = {name: torch.cat([x, torch.zeros_like(x[:1])]) for name, x in batch.items()}
    logits = model(**batch).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:3], model(**{name: x[:3] for name, x in batch.items()}).logits, **TIGHT)


def test_compiled_or_exported(model: PerceiverTextModel) -> None:
    """A graph can't ask whether there is any padding."""
    batch, _ = texts("left")
    program = torch.export.export(model, (), batch)
    torch.testing.assert_close(program.module()(**batch).logits, model(**batch).logits, **TIGHT)


# --- conversion ---


CONVERTERS = {
    "mlm": (mlm, mlm.PerceiverMaskedLanguageModel, TIED / "lit.ckpt"),
    "txt_clf": (classifier, classifier.PerceiverTextClassifier, TIED.parent / "txt_clf" / "lit.ckpt"),
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_conversion_pads_on_the_right(name: str, tmp_path: Path) -> None:
    package, model_class, ckpt = CONVERTERS[name]
    tokenizer = PerceiverTokenizer()
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    package.convert_checkpoint(tmp_path / "model", ckpt, str(tmp_path / "tokenizer"))
    saved = PerceiverTokenizer.from_pretrained(tmp_path / "model")
    assert saved.padding_side == "right" and saved("ab", padding="max_length", max_length=5).attention_mask[-1] == 0
    assert model_class.from_pretrained(tmp_path / "model").config.pad_token_id == tokenizer.pad_token_id == 0


def test_published_folders_know_their_padding() -> None:
    """They name the tokenizer's class only."""
    model: Any = mlm.PerceiverMaskedLanguageModel.from_pretrained(TIED / "hub").eval()
    assert model.config.pad_token_id is None
    tokenizer = PerceiverTokenizer()
    sides = [
        tokenizer(["ab[MASK]", "c"], padding=True, padding_side=side, return_tensors="pt") for side in ("right", "left")
    ]
    (right, left) = (model(**encoding).logits for encoding in sides)
    torch.testing.assert_close(left[0], right[0], **TIGHT)
    torch.testing.assert_close(left[1, 2:], right[1, :3], **TIGHT)


# --- pipelines ---


def test_generation_leaves_a_shared_tokenizer_alone() -> None:
    model = next(task for task in TASKS if task.name == "causal language model").model()
    tokenizer = PerceiverTokenizer()
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert isinstance(generator, TextGenerationPipeline) and isinstance(model, clm.PerceiverCausalLanguageModel)
    assert (tokenizer.padding_side, generator.tokenizer.padding_side) == ("right", "left")


@pytest.mark.parametrize("name", ["fill-mask", "text-classification", "token-classification"])
def test_pipelines_with_a_flipped_tokenizer(name: str) -> None:
    if name == "fill-mask":
        model: Any = mlm.PerceiverMaskedLanguageModel.from_pretrained(TIED / "hub")
    elif name == "text-classification":
        model = classifier.PerceiverTextClassifier.from_pretrained(TIED.parent / "txt_clf" / "hub")
    else:
        torch.manual_seed(0)
        config = next(task for task in TASKS if task.name == "token classifier").model().config
        backend_config = config.backend_config
        backend_config.encoder.vocab_size = 262
        model = token_classifier.PerceiverTokenClassifier(
            token_classifier.PerceiverTokenClassifierConfig(backend_config, pad_token_id=0)
        )
    sentences = ["a[MASK]b", "c[MASK]", "some[MASK]"]
    results = []
    for side in ("right", "left"):
        tokenizer = PerceiverTokenizer()
        tokenizer.padding_side = side
        results.append(pipeline(name, model=model, tokenizer=tokenizer)(sentences, batch_size=3))
    right, left = (list(flattened(result)) for result in results)
    assert [x for x in left if isinstance(x, str)] == [x for x in right if isinstance(x, str)]
    assert [x for x in left if isinstance(x, float)] == pytest.approx([x for x in right if isinstance(x, float)], 1e-4)
    assert any(isinstance(x, float) for x in right)


def flattened(result: Any) -> Any:
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list):
        for item in result:
            yield from flattened(item)
    else:
        yield result.item() if hasattr(result, "item") else result
