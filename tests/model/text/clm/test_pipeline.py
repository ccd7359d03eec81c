"""The text-generation pipeline continues prompts of our models as they are, and is transformers' own for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    TextGenerationPipeline,
    pipeline,
)

from perceiver.model.text import clm
from tests.tokenizers import XLNET_VOCAB_SIZE, byte_tokenizer, xlnet_tokenizer

PROMPT = "Recently, I started to work on my"
TOKENIZERS = {"bytes": (byte_tokenizer, 262), "XLNet": (xlnet_tokenizer, XLNET_VOCAB_SIZE)}


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_tokenizer, vocab_size = TOKENIZERS[request.param]
    result = tmp_path_factory.mktemp(request.param)
    make_tokenizer(result)
    torch.manual_seed(0)
    config = clm.CausalLanguageModelConfig(
        vocab_size=vocab_size, max_seq_len=80, max_latents=11, num_channels=24, num_heads=2, num_self_attention_layers=2
    )
    model = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config))
    model.save_pretrained(result)
    return result


def continued(folder: Path, prompt: str, **kwargs: Any) -> list[int]:
    """Token ids of prompt and continuation, without special tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    encoding = tokenizer(prompt, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
    result: list[int] = model.generate(**encoding, max_new_tokens=6, do_sample=False, **kwargs)[0].tolist()
    return result


def test_prompt_is_continued_as_it_is(folder: Path) -> None:
    generator = pipeline("text-generation", model=str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer(PROMPT)["input_ids"]) > len(tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    (result,) = generator(PROMPT, num_latents=2, max_new_tokens=6, do_sample=False, return_tensors=True)
    assert result["generated_token_ids"] == continued(folder, PROMPT, num_latents=2)
    (result,) = generator(PROMPT, num_latents=2, max_new_tokens=16, do_sample=True, top_k=20)
    assert result["generated_text"].startswith(PROMPT)


def test_batches_and_arguments_of_the_constructor(folder: Path) -> None:
    generator = pipeline("text-generation", model=str(folder), num_latents=3, max_new_tokens=6, do_sample=False)
    prompts = [PROMPT, "Once", "It was a"]
    results = generator(prompts, batch_size=2, return_tensors=True)
    for prompt, (result,) in zip(prompts, results, strict=True):
        expected = continued(folder, prompt, num_latents=3)
        assert result["generated_token_ids"][-6:] == expected[-6:]


@pytest.mark.parametrize("search", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}], ids=["beams", "contrastive"])
def test_a_search_that_is_asked_for_is_what_runs(folder: Path, search: dict[str, Any]) -> None:
    generator = pipeline("text-generation", model=str(folder), num_latents=2, max_new_tokens=6)
    expected = continued(folder, PROMPT, num_latents=2, **search)
    for seed in range(2):
        torch.manual_seed(seed)
        (result,) = generator(PROMPT, return_tensors=True, **search)
        assert result["generated_token_ids"] == expected


def test_special_tokens_if_asked_for(folder: Path) -> None:
    generator = pipeline("text-generation", model=str(folder), max_new_tokens=1, do_sample=False)
    (plain,), (special,) = (
        generator(PROMPT, return_tensors=True, **kwargs) for kwargs in ({}, {"add_special_tokens": True})
    )
    assert len(special["generated_token_ids"]) == len(plain["generated_token_ids"]) + 2


def test_an_empty_prompt_is_the_token_that_texts_begin_with(folder: Path) -> None:
    generator = pipeline("text-generation", model=str(folder), max_new_tokens=6, do_sample=False)
    (result,) = generator("", return_tensors=True)
    bos_token_id = generator.tokenizer.bos_token_id
    expected = generator.model.generate(torch.tensor([[bos_token_id]]), max_new_tokens=6, do_sample=False)
    assert result["generated_token_ids"] == expected[0].tolist()
    (text,) = generator("")
    assert text["generated_text"] == generator.tokenizer.decode(expected[0], skip_special_tokens=True)


def test_stop_sequence(folder: Path) -> None:
    generator = pipeline("text-generation", model=str(folder), do_sample=False, num_latents=2)
    (result,) = generator(PROMPT, max_new_tokens=6, return_full_text=False)
    stop = result["generated_text"][:1]
    (stopped,) = generator(PROMPT, max_new_tokens=6, return_full_text=False, stop_sequence=stop)
    assert stopped["generated_text"].startswith(stop) and len(stopped["generated_text"]) <= len(
        result["generated_text"]
    )


def test_other_models_keep_the_tokenizer_default(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=24, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = None
    model = GPT2LMHeadModel(config).eval()
    ours = pipeline("text-generation", model=model, tokenizer=tokenizer)
    theirs = TextGenerationPipeline(model=model, tokenizer=tokenizer)
    arguments = {"max_new_tokens": 5, "do_sample": False, "return_tensors": True}
    assert type(ours) is not TextGenerationPipeline and ours(PROMPT, **arguments) == theirs(PROMPT, **arguments)
