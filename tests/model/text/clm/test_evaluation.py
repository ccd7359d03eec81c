"""Scoring of whole texts: what counts as token, byte and word, for bytes and for SentencePiece."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PerceiverTokenizer, PreTrainedTokenizerBase

from perceiver.model.core.evaluation import evaluate_tokens
from perceiver.model.text.clm.backend import CausalLanguageModel
from perceiver.model.text.clm.evaluation import evaluate_text, tokenized
from tests.model.clm_helpers import clm_config, clm_model
from tests.tokenizers import XLNET_VOCAB_SIZE, byte_tokenizer, xlnet_tokenizer

TEXT = "Ein Märchen:\n\n  日本語のテキスト and a naïve café.\tThe end "
BYTES = PerceiverTokenizer()


@pytest.fixture(scope="module")
def xlnet(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return xlnet_tokenizer(tmp_path_factory.mktemp("xlnet"))


def model_of(tokenizer: PreTrainedTokenizerBase) -> CausalLanguageModel:
    return clm_model(clm_config(vocab_size=len(tokenizer)))


def uniform_model_of(tokenizer: PreTrainedTokenizerBase) -> CausalLanguageModel:
    model = model_of(tokenizer)
    with torch.no_grad():
        model.txt_embedding.weight.zero_()
        model.output_adapter.bias.zero_()
    return model


def test_bytes() -> None:
    result = evaluate_text(uniform_model_of(BYTES), BYTES, TEXT, stride=2)
    assert result.num_tokens == result.num_bytes == len(TEXT.encode()) - 1 > len(TEXT)
    assert result.num_words == len(TEXT.split()) == 9
    assert result.bits_per_byte == result.bits_per_token == pytest.approx(math.log2(262))
    assert result.perplexity_per_token == pytest.approx(262, rel=1e-5)
    assert math.log(result.perplexity_per_word) == pytest.approx(math.log(262) * result.num_bytes / result.num_words)


def test_sentencepiece(xlnet: PreTrainedTokenizerBase) -> None:
    text = "The value of the expression, naïve or not, is returned."
    ids = xlnet(text, add_special_tokens=False)["input_ids"]
    result = evaluate_text(uniform_model_of(xlnet), xlnet, text)
    assert xlnet.convert_ids_to_tokens(ids)[:3] == ["▁The", "▁value", "▁of"]
    assert result.num_tokens == len(ids) - 1
    assert result.num_bytes == len(text.encode()) - len("The")
    assert result.num_words == len(text.split()) - 1
    assert result.bits_per_token == pytest.approx(math.log2(XLNET_VOCAB_SIZE))
    assert result.bits_per_byte == pytest.approx(result.bits_per_token * result.num_tokens / result.num_bytes)


@pytest.mark.parametrize(
    "text, num_scored",
    [
        ("Zebra", 5),  # "▁", "Z", ...: the space has no character of its own
        ("  the end ", 5),  # " end ": what the tokenizer drops before the first token is gone with it
        ("the\n\nend", 5),  # it drops line breaks, whose bytes count all the same
        ("日本語 the", 13),
        ("the é", 3),
    ],
)
def test_what_stands_after_the_first_token_counts(xlnet: PreTrainedTokenizerBase, text: str, num_scored: int) -> None:
    ((tokens, scored),) = tokenized([text], xlnet)
    assert tokens.tolist() == xlnet(text, add_special_tokens=False)["input_ids"]
    assert len(scored) == num_scored and text.encode().endswith(scored)


def test_the_model_does_not_see_words_but_tokens(xlnet: PreTrainedTokenizerBase) -> None:
    for tokenizer in (BYTES, xlnet):
        model, text = model_of(tokenizer), TEXT * 3
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        expected = evaluate_tokens(model, [ids], stride=4)
        result = evaluate_text(model, tokenizer, text, stride=4)
        assert (result.nats, result.num_tokens) == (pytest.approx(expected.nats), expected.num_tokens)


def test_texts_are_scored_apart() -> None:
    model, texts = model_of(BYTES), [TEXT, "", "x", "a b"]
    together = evaluate_text(model, BYTES, iter(texts), batch_size=3)
    first, last = (evaluate_text(model, BYTES, text) for text in (TEXT, "a b"))
    assert together.nats == pytest.approx(first.nats + last.nats)
    for name in ("num_tokens", "num_bytes", "num_words"):
        assert getattr(together, name) == getattr(first, name) + getattr(last, name)
    assert (last.num_tokens, last.num_bytes, last.num_words) == (2, 2, 1)


@pytest.mark.parametrize("special", ["[MASK]", "[CLS]", "<mask>", "<sep>", "<eop>"])
def test_nothing_in_a_text_is_a_special_token(xlnet: PreTrainedTokenizerBase, special: str) -> None:
    for tokenizer in (BYTES, xlnet):
        ((tokens, _),) = tokenized([f"a {special} b"], tokenizer)
        assert not set(tokens.tolist()) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


def test_progress() -> None:
    seen: list[int] = []
    evaluate_text(model_of(BYTES), BYTES, "eleven text", progress=seen.append)
    assert seen == [5, 10]


@pytest.mark.parametrize(
    "texts, kwargs, message",
    [
        ("", {}, "nothing to score"),
        (["x", ""], {}, "nothing to score"),
        (TEXT, {"stride": 6}, r"stride=6 must be in \[1, max_latents=5\]"),
        (TEXT, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_errors(texts: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_text(model_of(BYTES), BYTES, texts, **kwargs)


def test_tokenizer_of_another_model() -> None:
    with pytest.raises(ValueError, match=r"tokens span .*, allowed is \[0, 36\]"):
        evaluate_text(clm_model(), BYTES, TEXT)


def test_tokenizer_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    byte_tokenizer(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), model_of(BYTES)
    found, expected = evaluate_text(model, tokenizer, TEXT), evaluate_text(model, BYTES, TEXT)
    assert asdict(found) == pytest.approx(asdict(expected))
