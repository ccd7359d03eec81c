"""Filling masks: recorded texts, only masked positions are decoded, and errors that say what is wrong."""

from __future__ import annotations

import pytest
import torch
from transformers import PerceiverTokenizer

from perceiver.model.text.mlm.backend import MaskedLanguageModel
from perceiver.model.text.mlm.mask_filler import fill_masks
from tests.model.helpers import MODELS, golden_cases, mlm_model, text_config
from tests.model.text.mlm.test_backend import golden_model


@pytest.fixture
def tokenizer() -> PerceiverTokenizer:
    return PerceiverTokenizer()


@pytest.fixture
def model() -> MaskedLanguageModel:
    return mlm_model(text_config())


@pytest.mark.parametrize("name", MODELS)
def test_recorded_texts(tokenizer: PerceiverTokenizer, name: str) -> None:
    (case,) = golden_cases(name, "mask_filler")
    assert tokenizer(case.data["masked"][0])["input_ids"] == case.inputs["input_ids"][0].tolist()
    filled = fill_masks(
        golden_model(name), tokenizer, case.data["samples"], case.kwargs["num_predictions"], add_special_tokens=True
    )
    assert filled == case.data["filled"]


def test_own_mask_token_and_placeholder_are_the_same(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    first, second = fill_masks(model, tokenizer, ["a<mask>b <mask>", "a[MASK]b [MASK]"], num_predictions=3)
    assert first == second and len(first) == 3


def test_prediction_i_has_the_ith_best_token_at_every_mask(
    model: MaskedLanguageModel, tokenizer: PerceiverTokenizer
) -> None:
    text = "ab[MASK]d[MASK]"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    best = model(ids)[0, [2, 4]].topk(4).indices.T
    expected = [tokenizer.decode([*ids[0, :2], a, ids[0, 3], b], skip_special_tokens=True) for a, b in best]
    assert fill_masks(model, tokenizer, [text], num_predictions=4) == [expected]


def test_samples_of_different_lengths_are_filled_as_alone(
    model: MaskedLanguageModel, tokenizer: PerceiverTokenizer
) -> None:
    samples = ["<mask>", "no mask", "a much longer one with<mask>two <mask>", ""]
    together = fill_masks(model, tokenizer, samples, 2)
    assert together == [fill_masks(model, tokenizer, [sample], 2)[0] for sample in samples if sample] + [["", ""]]
    assert together[1] == ["no mask", "no mask"]


def test_no_samples(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    assert fill_masks(model, tokenizer, [], 2) == []


def test_decodes_masked_positions_only(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    decoded: list[tuple[int, ...]] = []
    model.decoder.register_forward_hook(lambda module, args, output: decoded.append(tuple(output.shape)))
    fill_masks(model, tokenizer, ["a<mask>b <mask>c d e f", "<mask>"], 3)
    assert decoded == [(2, 2, 262)]


def test_needs_no_gradients(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    outputs: list[torch.Tensor] = []
    model.decoder.register_forward_hook(lambda module, args, output: outputs.append(output))
    fill_masks(model, tokenizer, ["<mask>"])
    assert not outputs[0].requires_grad


def test_keeps_the_mode(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    for training in (True, False):
        fill_masks(model.train(training), tokenizer, ["<mask>"])
        assert model.training == training


def test_tokenizer_without_mask_token(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="PerceiverTokenizer has no mask token"):
        fill_masks(model, tokenizer, ["<mask>"])


def test_a_text_is_no_list_of_texts(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    with pytest.raises(TypeError, match="samples is a string, it must be a sequence of strings"):
        fill_masks(model, tokenizer, "<mask>")


@pytest.mark.parametrize("num_predictions", [0, -1, 263])
def test_number_of_predictions_out_of_range(
    model: MaskedLanguageModel, tokenizer: PerceiverTokenizer, num_predictions: int
) -> None:
    with pytest.raises(ValueError, match=rf"num_predictions={num_predictions} must be in \[1, 262\]"):
        fill_masks(model, tokenizer, ["<mask>"], num_predictions)


def test_sample_that_is_too_long(model: MaskedLanguageModel, tokenizer: PerceiverTokenizer) -> None:
    with pytest.raises(ValueError, match="sequence length 65 exceeds max_seq_len=64"):
        fill_masks(model, tokenizer, ["a" * 64 + "<mask>"])
