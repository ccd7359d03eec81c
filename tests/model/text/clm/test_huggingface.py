"""The Hugging Face causal language model: loading, losses, and generation in every mode.

Each mode of generation has a reference of its own that is written out here: `reference_logits` is independent of the
model's code, the loops over it independent of transformers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from perceiver.model.huggingface.generation import PerceiverARCache
from perceiver.model.text import clm
from tests.model.clm_helpers import (
    CLM_MODELS,
    CONFIGS,
    MAX_LATENTS,
    MAX_SEQ_LEN,
    ONE_LAYER,
    VOCAB,
    clm_config,
    clm_model,
    golden_clm,
    reference_logits,
)
from tests.model.helpers import (
    GOLDEN,
    assert_close,
    assert_same_parameters,
    golden_cases,
    gradients,
    token_ids,
)

TIGHT: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
NUM_NEW = 24  # from short prompts: latents grow, the prefix grows, then all windows slide
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}
LIT_CKPTS = [GOLDEN / "clm_1" / f"{name}.ckpt" for name in ("lit", "lit_080", "lit_cli")]
every_golden = pytest.mark.parametrize("name", CLM_MODELS)
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
with_and_without_token_shift = pytest.mark.parametrize(
    "config", ["absolute", pytest.param("token shift", marks=pytest.mark.slow)]
)


def hf_model(config: clm.CausalLanguageModelConfig | None = None, seed: int = 0) -> Any:  # not as transformers types it
    config = config or clm_config()
    model: Any = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).eval()
    model.backend_model.load_state_dict(clm_model(config, seed).state_dict())
    return model


def golden_hf(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / name / "hub")


def generate(model: Any, x: Tensor, **kwargs: Any) -> Any:
    return model.generate(x, **{"do_sample": False, "max_new_tokens": NUM_NEW, **kwargs})


def left_padded(lengths: list[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Prompts of these lengths: ids, attention mask, and each prompt (1, n) alone."""
    ids = token_ids(len(lengths), max(lengths))
    attention_mask = (torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor(lengths)[:, None]).long()
    return ids, attention_mask, [row[None, -n:] for row, n in zip(ids, lengths, strict=True)]


# --- loading and saving ---


@every_golden
def test_published_folder(name: str, tmp_path: Path) -> None:
    model = golden_hf(name)
    assert type(model) is clm.PerceiverCausalLanguageModel and type(model.backend_model) is clm.CausalLanguageModel
    assert not model.training
    config = AutoConfig.from_pretrained(GOLDEN / name / "hub")
    assert type(config) is clm.PerceiverCausalLanguageModelConfig
    assert config.backend_config == model.backend_model.config and config.vocab_size == config.backend_config.vocab_size
    assert_same_parameters(model.backend_model.state_dict(), golden_clm(name).state_dict())
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same_parameters(again.state_dict(), model.state_dict())
    assert again.config.backend_config == config.backend_config
    published, saved = (json.loads((f / "config.json").read_text()) for f in (GOLDEN / name / "hub", tmp_path))
    for key in ("model_config", "model_type", "architectures", "is_decoder"):
        assert saved[key] == published[key]
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert len(AutoModelForCausalLM.from_config(config).state_dict()) == len(model.state_dict())


@every_golden
def test_recorded_logits(name: str) -> None:
    model, case = golden_hf(name), golden_cases(name, "forward")[0]
    output = model(case.inputs["input_ids"], prefix_len=case.kwargs["prefix_len"], output_hidden_states=True)
    torch.testing.assert_close(output.logits, case.outputs["logits"], **TIGHT)
    torch.testing.assert_close(output.hidden_states[-1], case.outputs["last_hidden_state"], **TIGHT)


@pytest.mark.parametrize("file", LIT_CKPTS, ids=lambda file: file.name)
def test_checkpoints_are_read_and_converted(file: Path, tmp_path: Path) -> None:
    model = clm.PerceiverCausalLanguageModel.from_checkpoint(file)
    assert_same_parameters(model.backend_model.state_dict(), golden_clm("clm_1").state_dict())
    assert not model.training
    clm.convert_checkpoint(tmp_path / "out", file, str(GOLDEN / "clm_1" / "hub"))
    converted: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_same_parameters(converted.state_dict(), model.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    encoding = tokenizer(["ab", "abcd"], padding=True, return_tensors="pt", add_special_tokens=False)
    assert set(encoding) == {"input_ids", "attention_mask"}
    assert encoding["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert converted.generate(**encoding, max_new_tokens=3).shape == (2, 7)


def test_conversion_warns_of_tokens_that_the_model_does_not_know(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "clm_1" / "hub")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.warns(UserWarning, match="has 263 ids, the model's vocabulary only 262"):
        clm.convert_checkpoint(tmp_path / "out", LIT_CKPTS[0], str(tmp_path / "tokenizer"))


def test_token_shift_is_saved_and_named_only_where_it_is_on(tmp_path: Path) -> None:
    model, x = hf_model(CONFIGS["token shift"]), token_ids(2, 9)
    assert "token_shift" not in hf_model().config.model_config
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_config"]["token_shift"] is True
    assert "backend_model.input_adapter.token_shift.weight" in load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(x).logits, model(x).logits, **TIGHT)


# --- forward ---


@every_config
def test_forward(config: clm.CausalLanguageModelConfig) -> None:
    model, x = hf_model(config), token_ids(2, config.max_seq_len)
    prefix_len = config.max_seq_len - config.max_latents
    output = model(x, prefix_len=prefix_len, use_cache=False, output_hidden_states=True)
    torch.testing.assert_close(output.logits, model.backend_model(x, prefix_len), **TIGHT)
    torch.testing.assert_close(output.hidden_states[-1], model.backend_model.latents(x, prefix_len), **TIGHT)
    assert output.loss is None and output.past_key_values is None
    (last,) = model(x, prefix_len=prefix_len, use_cache=False, logits_to_keep=1, return_dict=False)
    torch.testing.assert_close(last, output.logits[:, -1:], **TIGHT)
    if prefix_len:
        shorter = model(x[:, 1:], prefix_len=prefix_len - 1).logits
        torch.testing.assert_close(shorter, model.backend_model(x[:, 1:], prefix_len - 1), **TIGHT)
    loss, logits, cache, hidden_states = model(
        x, labels=x, use_cache=True, output_hidden_states=True, return_dict=False
    )
    assert loss.ndim == 0 and type(cache) is PerceiverARCache
    torch.testing.assert_close(logits, output.logits, **TIGHT)
    torch.testing.assert_close(hidden_states[0], output.hidden_states[0], **TIGHT)


def test_forward_with_a_cache() -> None:
    model, x = hf_model(), token_ids(2, 41)
    attention_mask = (torch.arange(41) >= torch.tensor([[0], [4]])).long()
    for mask in (None, attention_mask):
        output = model(x[:, :6], prefix_len=3, attention_mask=None if mask is None else mask[:, :6], use_cache=True)
        logits = [output.logits]
        for i in range(6, 41):
            cached_mask = None if mask is None else mask[:, : i + 1]
            output = model(
                x[:, i : i + 1],
                prefix_len=3,  # has no effect any more
                attention_mask=cached_mask,
                past_key_values=output.past_key_values,
            )
            logits.append(output.logits)
        found = torch.cat(logits, dim=1)
        for b in range(2):
            num_pads = 0 if mask is None else 4 * b
            expected = reference_logits(model.backend_model, x[b, num_pads:], max(3 - num_pads, 0))
            torch.testing.assert_close(found[b, -len(expected) :], expected, **TIGHT)


@pytest.mark.parametrize("length", [3, MAX_LATENTS, 11, MAX_SEQ_LEN])
def test_labels_are_shifted_inside(length: int) -> None:
    model, x, labels = hf_model(), token_ids(2, length), token_ids(2, length)
    labels[0, -1] = -100
    loss = model(x, labels=labels).loss
    prefix_len = max(length - MAX_LATENTS, 0)
    logits = model.backend_model(x, prefix_len)
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, prefix_len + 1 :].flatten())
    torch.testing.assert_close(loss, expected, **TIGHT)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("length", [MAX_LATENTS, MAX_SEQ_LEN])
def test_labels_of_padding_do_not_count(length: int, left: bool) -> None:
    """Neither where padding would be predicted nor where it would predict: an example gives what it gives alone."""
    model, x = hf_model(), token_ids(1, length)
    for num_pads in range(1, length - 1):
        mask = (torch.arange(length) >= num_pads)[None]
        alone = x[:, num_pads:]
        if not left:
            if length > MAX_LATENTS:
                continue  # other tokens are prefix
            mask, alone = mask.flip(1), x[:, : length - num_pads]
        output, expected = model(x, attention_mask=mask.long(), labels=x), model(alone, labels=alone)
        torch.testing.assert_close(output.loss, expected.loss, **TIGHT)


def test_loss_is_that_of_the_backend() -> None:
    """Labels that are shifted before, as the data modules give them, and labels that the model shifts."""
    model, x = hf_model().train(False), token_ids(3, MAX_SEQ_LEN)
    labels = torch.cat([x[:, 1:], torch.full((3, 1), -100)], dim=1)
    torch.testing.assert_close(model(x, labels=x).loss, model.backend_model.loss(labels, x), **TIGHT)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able.* is deprecated:FutureWarning")
def test_activation_checkpointing_changes_no_gradient() -> None:
    model, x = hf_model(clm_config(cross_attention_dropout=0.0)).train(), token_ids(3, MAX_SEQ_LEN)
    model(x, labels=x).loss.backward()
    expected = gradients(model)
    model.gradient_checkpointing_enable()  # its name before transformers 5.23, too
    model(x, labels=x).loss.backward()
    assert_close(gradients(model), expected)


def test_bad_forward_arguments() -> None:
    model, x = hf_model(), token_ids(2, 6)
    with pytest.raises(ValueError, match="past_key_values is a DynamicCache, it must be a PerceiverARCache"):
        model(x, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match=r"prefix_len=6 must be in \[0, 5\]"):
        model(x, prefix_len=6)
    with pytest.raises(ValueError, match="6 tokens with prefix_len=0 make 6 latents, max_latents=5"):
        model(x, prefix_len=0)
    with pytest.raises(ValueError, match=r"pad_mask is torch.bool \(2, 4\), expected torch.bool \(2, 6\)"):
        model(x, attention_mask=torch.ones(2, 4))


# --- modes, against loops written out ---


Choice = Callable[[Tensor], Tensor]


@torch.no_grad()
def continued(prompt: Tensor, num_new: int, next_logits: Callable[[Tensor], Tensor], choose: Choice) -> Tensor:
    """Appends tokens to a prompt (n,), one by one: `next_logits` takes all tokens so far."""
    x = prompt
    for _ in range(num_new):
        x = torch.cat([x, choose(next_logits(x))[None]])
    return x


def cached_reference(
    model: clm.CausalLanguageModel, prompt: Tensor, prefix_len: int, num_new: int, choose: Choice = torch.argmax
) -> Tensor:
    first = max(prefix_len - (model.max_seq_len - model.max_latents), 0)
    return continued(prompt, num_new, lambda x: reference_logits(model, x[first:], prefix_len - first)[-1], choose)


def uncached_reference(
    model: clm.CausalLanguageModel, prompt: Tensor, prefix_len: int, num_new: int, choose: Choice = torch.argmax
) -> Tensor:
    def next_logits(x: Tensor) -> Tensor:
        window = x[-model.max_seq_len :]
        num_latents = min(len(x) - prefix_len, model.max_latents)
        return model(window[None], len(window) - num_latents)[0, -1]

    return continued(prompt, num_new, next_logits, choose)


def reset_reference(
    model: clm.CausalLanguageModel, prompt: Tensor, prefix_len: int, num_new: int, choose: Choice = torch.argmax
) -> Tensor:
    """A plain computation at every step, with half of the latents when there would be too many."""

    def next_logits(x: Tensor) -> Tensor:
        nonlocal prefix_len
        if len(x) - prefix_len > model.max_latents:
            prefix_len = len(x) - max(model.max_latents // 2, 1)
        first = max(prefix_len - (model.max_seq_len - model.max_latents), 0)
        return model(x[None, first:], prefix_len - first)[0, -1]

    return continued(prompt, num_new, next_logits, choose)


MODES: dict[str, tuple[dict[str, Any], Callable[..., Tensor]]] = {
    "cached": ({}, cached_reference),
    "uncached": ({"use_cache": False}, uncached_reference),
    "reset": ({"reset_latents": True}, reset_reference),
}
every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
@every_config
def test_every_mode_equals_its_loop(config: clm.CausalLanguageModelConfig, mode: str) -> None:
    """Through growing latents, growing prefix and sliding windows, from prompts of 1 token to more than the window."""
    model, (kwargs, reference) = hf_model(config), MODES[mode]
    max_prefix_len = config.max_seq_len - config.max_latents
    for length in sorted({1, 6, config.max_seq_len, config.max_seq_len + 4}):
        num_seen = min(length, config.max_seq_len)
        for num_latents in sorted({max(num_seen - max_prefix_len, 1), config.max_latents}):
            x = token_ids(1, length)
            prefix_len, num_new = max(length - num_latents, 0), max(config.max_seq_len + 4 - length, 6)
            result = generate(model, x, num_latents=num_latents, max_new_tokens=num_new, **kwargs)
            expected = reference(model.backend_model, x[0], prefix_len, num_new)
            assert torch.equal(result[0], expected), (length, num_latents)


@every_mode
def test_a_longer_prompt_is_continued_as_its_last_tokens(mode: str) -> None:
    model, x = hf_model(), token_ids(2, MAX_SEQ_LEN + 9)
    for num_latents in (None, MAX_LATENTS):
        long = generate(model, x, num_latents=num_latents, **MODES[mode][0])
        short = generate(model, x[:, 9:], num_latents=num_latents, **MODES[mode][0])
        assert torch.equal(long[:, 9:], short) and torch.equal(long[:, :9], x[:, :9])


def test_modes_are_equal_until_latents_are_full_and_differ_then() -> None:
    model, x = hf_model(), token_ids(3, 6)
    results = [generate(model, x, **kwargs) for kwargs, _ in MODES.values()]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert torch.equal(one[:, : 6 + MAX_LATENTS], other[:, : 6 + MAX_LATENTS])
            assert not torch.equal(one, other)


def test_default_number_of_latents_is_one_or_what_is_needed() -> None:
    model = hf_model()
    for length, num_latents in ((1, 1), (8, 1), (13, 1), (14, 2), (17, 5), (23, 5)):
        x = token_ids(2, length)
        results = [generate(model, x, num_latents=n, max_new_tokens=4) for n in (None, num_latents)]
        assert torch.equal(*results)


@every_mode
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "config, lengths, num_latents",
    [
        *(("absolute", *lengths) for lengths in (([7, 3, 5], 3), ([1, 9, 4], None), ([17, 6, 16], 5))),
        *((config, [22, 5, 13], 5) for config in ("absolute", "token shift")),
    ],
)
def test_a_left_padded_batch_equals_each_prompt_alone(
    mode: str, num_beams: int, config: str, lengths: list[int], num_latents: int | None
) -> None:
    model = hf_model(CONFIGS[config])
    x, attention_mask, alone = left_padded(lengths)
    kwargs = {"num_latents": num_latents, "num_beams": num_beams, "max_new_tokens": 12, **MODES[mode][0]}
    result = generate(model, x, attention_mask=attention_mask, **kwargs)
    for row, prompt in zip(result, alone, strict=True):
        assert torch.equal(row[x.shape[1] :], generate(model, prompt, **kwargs)[0, prompt.shape[1] :])


@with_and_without_token_shift
@pytest.mark.parametrize("mode", ["cached", "uncached"])
def test_padding_among_the_latents(mode: str, config: str) -> None:
    model = hf_model(CONFIGS[config])
    x, attention_mask, alone = left_padded([9, 1, 4, 2])
    kwargs = {"num_latents": 5, **MODES[mode][0]}
    result = generate(model, x, attention_mask=attention_mask, **kwargs)
    for row, prompt in zip(result, alone, strict=True):
        assert torch.equal(row[9:], generate(model, prompt, **kwargs)[0, prompt.shape[1] :])


def test_padding_by_pad_tokens_without_attention_mask() -> None:
    model = hf_model()
    x, attention_mask, _ = left_padded([9, 3, 6])
    x = x.clamp(min=1).where(attention_mask == 1, 0)
    expected = generate(model, x, attention_mask=attention_mask, pad_token_id=0)
    assert torch.equal(generate(model, x, pad_token_id=0), expected)
    assert not torch.equal(generate(model, x), expected)


# --- beams ---


@pytest.mark.parametrize("mode, length", [("cached", 8), ("cached", 17), ("reset", 17)])
def test_enough_beams_find_the_most_probable_sequence(mode: str, length: int) -> None:
    config = clm_config(vocab_size=4, max_latents=3, init_scale=0.5)
    model, x = hf_model(config), torch.randint(0, 4, (1, length))
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    prefix_len = min(length - 1, 14)
    scores = []
    for continuation in every:
        tokens = torch.cat([x[0], continuation])
        log_probs, prefix = [], prefix_len
        for t in range(3):
            if mode == "reset" and length + t - prefix > 3:
                prefix = length + t - 1
            first = max(prefix - 14, 0)
            logits = reference_logits(model.backend_model, tokens[first : length + t], prefix - first)
            log_probs.append(logits[-1].log_softmax(-1)[continuation[t]])
        scores.append(torch.stack(log_probs).sum())
    result = generate(
        model,
        x,
        num_beams=16,
        max_new_tokens=3,
        num_latents=length - prefix_len,
        num_return_sequences=4,
        reset_latents=mode == "reset",
    )
    best = torch.stack(scores).topk(4).indices
    assert torch.equal(result[:, length:], every[best])


@with_and_without_token_shift
def test_beams_with_and_without_cache_while_latents_grow(config: str) -> None:
    model, x = hf_model(CONFIGS[config]), token_ids(2, 6)
    kwargs = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": MAX_LATENTS}
    result = generate(model, x, **kwargs)
    assert result.shape == (6, 6 + MAX_LATENTS)
    assert torch.equal(result, generate(model, x, use_cache=False, **kwargs))


# --- sampling ---


@every_mode
def test_sampling_is_by_the_model_s_probabilities(mode: str) -> None:
    """With the same seed, it draws what a loop draws from the softmax of logits / temperature over the best k."""
    model, x = hf_model(clm_config(init_scale=0.15)), token_ids(1, 6)
    kwargs, reference = MODES[mode]

    def draw(logits: Tensor) -> Tensor:
        best = (logits / 0.7).topk(7)
        probs = torch.zeros(VOCAB).scatter(0, best.indices, best.values.softmax(0))
        return torch.multinomial(probs, 1)[0]

    torch.manual_seed(3)
    expected = reference(model.backend_model, x[0], 5, 25, draw)
    torch.manual_seed(3)
    result = generate(model, x, do_sample=True, temperature=0.7, top_k=7, max_new_tokens=25, **kwargs)
    assert torch.equal(result[0], expected)
    assert not torch.equal(result, generate(model, x, max_new_tokens=25, **kwargs))


@pytest.mark.parametrize("num_beams", [1, 3])
@every_mode
def test_same_seed_same_sample(mode: str, num_beams: int) -> None:
    model, x = hf_model(clm_config(init_scale=0.15)), token_ids(2, 6)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(generate(model, x, do_sample=True, num_beams=num_beams, max_new_tokens=12, **MODES[mode][0]))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_num_return_sequences() -> None:
    model, x = hf_model(clm_config(init_scale=0.15)), token_ids(2, 6)
    results = []
    for prompt, n in ((x, 3), (x.repeat_interleave(3, dim=0), 1)):
        torch.manual_seed(1)
        results.append(generate(model, prompt, do_sample=True, num_return_sequences=n))
    assert torch.equal(*results) and len({tuple(row.tolist()) for row in results[0]}) == 6


# --- contrastive search ---


@torch.no_grad()
def contrastive_reference(
    model: clm.CausalLanguageModel, prompt: Tensor, prefix_len: int, num_new: int, alpha: float, k: int
) -> Tensor:
    """Every candidate is computed from scratch."""

    def latents(x: Tensor) -> Tensor:
        return model.latents(x[None], prefix_len, None, model.new_cache())[0]

    first = max(prefix_len - (model.max_seq_len - model.max_latents), 0)
    prefix_len -= first
    x = prompt[first:]
    for _ in range(num_new):
        probs, candidates = model.logits(latents(x)[-1]).softmax(-1).topk(k)
        scores = []
        for prob, candidate in zip(probs, candidates, strict=True):
            hidden = nn.functional.normalize(latents(torch.cat([x, candidate[None]])), dim=-1)
            scores.append((1 - alpha) * prob - alpha * (hidden[:-1] @ hidden[-1]).max())
        x = torch.cat([x, candidates[torch.stack(scores).argmax()][None]])
    return torch.cat([prompt[:first], x])


@pytest.mark.parametrize("config", ["absolute", "rotary", "one latent", "token shift"])
@pytest.mark.parametrize("length, num_latents", [(1, 1), (15, 3), (23, 5)])
def test_contrastive_search_equals_a_loop(config: str, length: int, num_latents: int) -> None:
    model, x = hf_model(CONFIGS[config]), token_ids(1, length)
    num_latents = min(num_latents, model.backend_model.max_latents)
    num_new = 20 if length == 1 else 6
    result = generate(model, x, num_latents=num_latents, max_new_tokens=num_new, **CONTRASTIVE)
    expected = contrastive_reference(model.backend_model, x[0], length - num_latents, num_new, 0.6, 4)
    assert torch.equal(result[0], expected)


@pytest.mark.parametrize("lengths, num_latents", [([7, 3, 5], 3), ([17, 6, 16], 5)])
@with_and_without_token_shift
def test_contrastive_search_in_a_left_padded_batch(config: str, lengths: list[int], num_latents: int) -> None:
    model, (x, attention_mask, alone) = hf_model(CONFIGS[config]), left_padded(lengths)
    result = generate(
        model, x, attention_mask=attention_mask, num_latents=num_latents, max_new_tokens=12, **CONTRASTIVE
    )
    for row, prompt in zip(result, alone, strict=True):
        expected = contrastive_reference(model.backend_model, prompt[0], prompt.shape[1] - num_latents, 12, 0.6, 4)
        assert torch.equal(row[x.shape[1] :], expected[prompt.shape[1] :])


def test_padding_is_like_no_token_for_contrastive_search() -> None:
    """However unlike a candidate the only real token is: no similarity to padding, 0 for example, may be larger."""
    config = clm_config(init_scale=1.0, **ONE_LAYER)
    model, (x, attention_mask, alone) = hf_model(config), left_padded([4] + [1] * 16)
    kwargs = {"num_latents": 4, "max_new_tokens": 2, "penalty_alpha": 0.99, "top_k": 12}
    result = generate(model, x, attention_mask=attention_mask, **kwargs)
    for row, prompt in zip(result, alone, strict=True):
        expected = contrastive_reference(model.backend_model, prompt[0], 0, 2, 0.99, 12)
        assert torch.equal(row[4:], expected[prompt.shape[1] :])


def test_contrastive_search_ends_at_eos() -> None:
    model, x = hf_model(), token_ids(3, 6).clamp(min=1)  # 0 is for padding
    free = generate(model, x, max_new_tokens=12, **CONTRASTIVE)[:, 6:]
    eos = int(free[0, 4])
    result = generate(model, x, max_new_tokens=12, eos_token_id=eos, pad_token_id=0, **CONTRASTIVE)[:, 6:]
    for row, whole in zip(result.tolist(), free.tolist(), strict=True):
        end = whole.index(eos) + 1 if eos in whole else len(whole)
        assert row[:end] == whole[:end] and not any(row[end:])


def test_contrastive_search_returns_what_is_asked_for() -> None:
    """Logits and hidden states of each step are those of the tokens before it."""
    model, x = hf_model(), token_ids(3, 6)
    kwargs = {"num_latents": 2, "max_new_tokens": 3, "return_dict_in_generate": True, **CONTRASTIVE}
    result = generate(model, x, output_logits=True, output_hidden_states=True, **kwargs)
    assert len(result.logits) == len(result.hidden_states) == 3
    whole = model(result.sequences, prefix_len=4, output_hidden_states=True)
    for i, (logits, states) in enumerate(zip(result.logits, result.hidden_states, strict=True)):
        torch.testing.assert_close(logits, whole.logits[:, 1 + i], **TIGHT)
        for state, expected in zip(states, whole.hidden_states, strict=True):
            torch.testing.assert_close(state, expected[:, :2] if i == 0 else expected[:, 1 + i : 2 + i], **TIGHT)
    plain = generate(model, x, **kwargs)
    assert plain.logits is None and plain.hidden_states is None


# --- assisted generation ---

ASSISTANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "itself": lambda: {"assistant_model": hf_model()},
    "another": lambda: {"assistant_model": hf_model(seed=1)},
    "smaller": lambda: {"assistant_model": hf_model(clm_config(**ONE_LAYER))},
    "smaller windows": lambda: {"assistant_model": hf_model(clm_config(max_seq_len=7, max_latents=3), seed=2)},
    "token shift": lambda: {"assistant_model": hf_model(clm_config(token_shift=True), seed=2)},
    "larger windows": lambda: {"assistant_model": hf_model(clm_config(max_seq_len=41, max_latents=11), seed=2)},
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize(
    "config, assistant, length, num_latents, num_new",
    [
        *(("absolute", assistant, 23, 5, 9) for assistant in ASSISTANTS),
        *(("absolute", assistant, 1, 1, 20) for assistant in ("smaller windows", "prompt lookup")),
        *(("token shift", assistant, 23, 5, 9) for assistant in ("token shift", "another", "prompt lookup")),
    ],
)
def test_assisted_generation_equals_greedy(
    config: str, assistant: str, length: int, num_latents: int, num_new: int
) -> None:
    model, x = hf_model(CONFIGS[config]), token_ids(1, length)
    expected = generate(model, x, num_latents=num_latents, max_new_tokens=num_new)
    result = generate(model, x, num_latents=num_latents, max_new_tokens=num_new, **ASSISTANTS[assistant]())
    assert torch.equal(result, expected)


@with_and_without_token_shift
@pytest.mark.parametrize("seed", [0, 1])
def test_assistant_with_many_candidates(seed: int, config: str) -> None:
    """More than the margin of the cache, all of which may have to be taken back."""
    model, assistant, x = hf_model(CONFIGS[config]), hf_model(CONFIGS[config], seed), token_ids(1, 6)
    config = assistant.generation_config
    config.num_assistant_tokens, config.assistant_confidence_threshold = 120, 0.0
    config.num_assistant_tokens_schedule = "constant"

    def enough(ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([ids.shape[1] >= 9])

    result = generate(
        model,
        x,
        max_new_tokens=200,
        assistant_model=assistant,
        stopping_criteria=StoppingCriteriaList([enough]),
    )
    assert result.shape[1] >= 9 and torch.equal(result, generate(model, x, max_new_tokens=result.shape[1] - 6))


def test_assisted_sampling_same_seed_same_sample() -> None:
    model, x = hf_model(clm_config(init_scale=0.15)), token_ids(1, 6)
    results, assistant = [], hf_model(clm_config(init_scale=0.15), seed=1)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(generate(model, x, do_sample=True, max_new_tokens=12, assistant_model=assistant))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# --- outputs and lengths ---


@pytest.mark.parametrize("mode", [*MODES, "contrastive", "prompt lookup"])
def test_streamer_gets_every_token(mode: str) -> None:
    class Streamer(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.calls = 0
            self.ended = False

        def put(self, value: Tensor) -> None:
            assert not self.ended
            self.calls += 1
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    kwargs = {**{name: kwargs for name, (kwargs, _) in MODES.items()}, "contrastive": CONTRASTIVE}
    model, x, streamer = hf_model(), token_ids(1, 6), Streamer()
    result = generate(model, x, streamer=streamer, **kwargs.get(mode, {"prompt_lookup_num_tokens": 2}))
    assert streamer.tokens == result[0].tolist() and streamer.ended
    assert streamer.calls == 1 + NUM_NEW or mode == "prompt lookup"


@pytest.mark.parametrize("kwargs", [{}, {"use_cache": False}, {"reset_latents": True}, CONTRASTIVE], ids=str)
def test_scores_are_the_logits(kwargs: dict[str, Any]) -> None:
    model, x = hf_model(), token_ids(2, 6)
    output = generate(model, x, return_dict_in_generate=True, output_scores=True, **kwargs)
    assert len(output.scores) == NUM_NEW and output.scores[0].shape == (2, VOCAB)
    assert torch.equal(output.sequences, generate(model, x, **kwargs))
    if "use_cache" in kwargs:
        assert output.past_key_values is None
    else:
        assert type(output.past_key_values) is PerceiverARCache
    for b in range(2):
        expected = reference_logits(model.backend_model, output.sequences[b, :-1], 5)
        num_equal = MAX_LATENTS if kwargs in ({"use_cache": False}, {"reset_latents": True}) else NUM_NEW
        for score, logits in list(zip(output.scores, expected, strict=True))[:num_equal]:
            torch.testing.assert_close(score[b], logits, **TIGHT)
        if kwargs != CONTRASTIVE:
            assert torch.equal(torch.stack(output.scores).argmax(-1)[:, b], output.sequences[b, 6:])


def test_hidden_states() -> None:
    model, x = hf_model(), token_ids(2, 6)
    output = generate(model, x, num_latents=3, return_dict_in_generate=True, output_hidden_states=True)
    expected = model.backend_model.latents(output.sequences[:, :-1], 3, None, model.backend_model.new_cache())
    hidden = torch.cat([states[-1] for states in output.hidden_states], dim=1)
    torch.testing.assert_close(hidden, expected, **TIGHT)


@every_mode
def test_lengths(mode: str) -> None:
    model, x = hf_model(), token_ids(2, 6).clamp(min=1)  # 0 is for padding
    kwargs = MODES[mode][0]
    assert generate(model, x, max_length=11, max_new_tokens=None, **kwargs).shape == (2, 11)
    whole = generate(model, x, max_new_tokens=20, **kwargs)
    eos = int(whole[0, 8])
    result = generate(model, x[:1], max_new_tokens=20, eos_token_id=eos, pad_token_id=0, **kwargs)
    assert result[0].tolist() == whole[0, : 6 + whole[0, 6:].tolist().index(eos) + 1].tolist()
    longer = generate(model, x[:1], max_new_tokens=20, min_new_tokens=9, eos_token_id=eos, pad_token_id=0, **kwargs)
    assert longer.shape[1] >= 15 and eos not in longer[0, 6:14]


def test_a_generation_config_is_as_good_as_arguments() -> None:
    model, x = hf_model(), token_ids(2, 6)
    config = GenerationConfig(max_new_tokens=9, num_beams=2)
    assert torch.equal(
        model.generate(x, config, num_latents=3), generate(model, x, max_new_tokens=9, num_beams=2, num_latents=3)
    )
    assert model.generate(input_ids=x, max_new_tokens=3).shape == (2, 9)


@pytest.mark.parametrize(
    "kwargs", [{}, {"use_cache": False}, {"reset_latents": True}, CONTRASTIVE, {"num_beams": 2}], ids=str
)
def test_bfloat16(kwargs: dict[str, Any]) -> None:
    model = hf_model().bfloat16()
    x, attention_mask, _ = left_padded([7, 3])
    output = generate(model, x, attention_mask=attention_mask, return_dict_in_generate=True, **kwargs)
    assert output.sequences.shape == (2, 7 + NUM_NEW)
    assert torch.equal(output.sequences, generate(model, x, attention_mask=attention_mask, **kwargs))
    if output.past_key_values is not None:
        assert {layer.keys.dtype for layer in output.past_key_values.layers} == {torch.bfloat16}


# --- continuing from a returned cache ---


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize("lengths", [[6], [7, 3, 5], [23, 9]])
@with_and_without_token_shift
def test_continuing_equals_uninterrupted(config: str, lengths: list[int], only_new: bool) -> None:
    model = hf_model(CONFIGS[config])
    x, attention_mask, _ = left_padded(lengths)
    first = generate(model, x, attention_mask=attention_mask, max_new_tokens=9, return_dict_in_generate=True)
    ids, cache = first.sequences, first.past_key_values
    mask = torch.cat([attention_mask, torch.ones(len(x), 9, dtype=torch.long)], dim=1)
    assert cache.get_seq_length() == ids.shape[1] - 1
    expected = generate(model, x, attention_mask=attention_mask)
    new_ids = ids[:, cache.get_seq_length() :] if only_new else ids
    result = generate(model, new_ids, attention_mask=mask, past_key_values=cache, max_new_tokens=NUM_NEW - 9)
    assert torch.equal(result, expected[:, -result.shape[1] :]) and result.shape[1] == new_ids.shape[1] + NUM_NEW - 9


@pytest.mark.parametrize("config, only_new", [("absolute", False), ("absolute", True), ("token shift", True)])
def test_continuing_with_more_new_tokens(config: str, only_new: bool) -> None:
    """A second turn of a conversation: several new tokens at once."""
    model, x, more = hf_model(CONFIGS[config]), token_ids(2, 6), token_ids(2, 8)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    ids, n = torch.cat([first.sequences, more], dim=1), first.past_key_values.get_seq_length()
    mask = torch.ones_like(ids)
    result = generate(
        model, ids[:, n:] if only_new else ids, attention_mask=mask, past_key_values=first.past_key_values
    )
    for b in range(2):
        expected = cached_reference(model.backend_model, ids[b], 5, NUM_NEW)
        assert torch.equal(result[b], expected[-result.shape[1] :])


def test_continuing_in_reset_mode() -> None:
    model, x = hf_model(), token_ids(2, 6)
    expected = generate(model, x, reset_latents=True)
    first = generate(model, x, reset_latents=True, max_new_tokens=9, return_dict_in_generate=True)
    result = generate(
        model, first.sequences, past_key_values=first.past_key_values, reset_latents=True, max_new_tokens=NUM_NEW - 9
    )
    assert torch.equal(result, expected)
    # A reset computes latents of earlier tokens again, so it must know them.
    n = first.past_key_values.get_seq_length()
    with pytest.raises(ValueError, match="reset_latents"):
        generate(
            model,
            result[:, n:],
            attention_mask=torch.ones(2, result.shape[1], dtype=torch.long),
            past_key_values=first.past_key_values,
            reset_latents=True,
        )


@with_and_without_token_shift
def test_continuing_after_contrastive_search(config: str) -> None:
    """Its cache, too, is without the last token, so that any other search may continue."""
    model, x = hf_model(CONFIGS[config]), token_ids(2, 6)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True, **CONTRASTIVE)
    assert first.past_key_values.get_seq_length() == 14
    result = generate(model, first.sequences, past_key_values=first.past_key_values)
    for b in range(2):
        assert torch.equal(result[b], cached_reference(model.backend_model, first.sequences[b], 5, NUM_NEW))


def test_contrastive_search_does_not_continue_from_a_cache() -> None:
    """It compares with the hidden states of all tokens, and a cache has none."""
    model, x = hf_model(), token_ids(2, 6)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    with pytest.raises(ValueError, match=r"contrastive search .*cache"):
        generate(model, first.sequences, past_key_values=first.past_key_values, **CONTRASTIVE)


@pytest.mark.parametrize("assistant", ["another", "prompt lookup"])
def test_assisted_generation_continues_from_a_cache_with_new_tokens(assistant: str) -> None:
    model, x, kwargs = hf_model(), token_ids(1, 6), ASSISTANTS[assistant]()
    expected = generate(model, x)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    ids, cache = first.sequences, first.past_key_values
    result = generate(model, ids, past_key_values=copy.deepcopy(cache), max_new_tokens=NUM_NEW - 9, **kwargs)
    assert torch.equal(result, expected)
    n, mask = cache.get_seq_length(), torch.ones_like(ids)
    result = generate(
        model, ids[:, n:], attention_mask=mask, past_key_values=cache, max_new_tokens=NUM_NEW - 9, **kwargs
    )
    assert torch.equal(result, expected[:, n:])


def test_ids_that_do_not_fit_the_cache() -> None:
    """All of them cached, or new ones without the mask that says so: nothing is left to compute."""
    model, x = hf_model(), token_ids(1, 6)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    for ids in (first.sequences[:, :-1], first.sequences[:, :3], first.sequences[:, -1:]):
        with pytest.raises(ValueError, match=r"14 .*cached"):
            generate(model, ids, past_key_values=first.past_key_values)
    with pytest.raises(ValueError, match="use_cache"):
        generate(model, first.sequences, past_key_values=first.past_key_values, use_cache=False)


def test_an_empty_cache_may_be_given() -> None:
    model, x = hf_model(), token_ids(2, 23)
    cache = model.new_cache()
    assert torch.equal(generate(model, x, past_key_values=cache), generate(model, x))
    assert cache.get_seq_length() == 22 + NUM_NEW and cache.num_skipped == 6
    cache.reset()
    assert cache.get_seq_length() == cache.num_seen == cache.num_latents == 0
    assert torch.equal(generate(model, x, past_key_values=cache), generate(model, x))


# --- constant work per token ---


@pytest.mark.parametrize("given, kwargs", [(False, {}), (True, {}), (True, {"num_beams": 2}), (True, CONTRASTIVE)])
def test_buffers_are_bounded_and_seldom_replaced(given: bool, kwargs: dict[str, Any]) -> None:
    model, x, num_new = hf_model(clm_config(max_seq_len=41, max_latents=23)), token_ids(2, 6), 160
    cache = model.new_cache() if given else None
    seen: list[list[tuple[int, int]]] = []

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        layers = output.past_key_values.layers
        seen.append([(layer.keys.data_ptr(), layer.keys.shape[2]) for layer in layers])

    model.register_forward_hook(look, with_kwargs=True)
    generate(model, x, max_new_tokens=num_new, past_key_values=cache, **kwargs)
    for window, steps in zip((41, 23, 23), zip(*seen, strict=True), strict=True):
        num_replaced = sum(a != b for (a, _), (b, _) in pairwise(steps))
        assert num_replaced <= num_new / (window // 4) + 1 and max(size for _, size in steps) < 2 * window + 200


def test_continuing_does_not_replace_buffers_at_each_step() -> None:
    """The room that the first generation asked for is used up."""
    model, x = hf_model(), token_ids(1, 6)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    pointers: list[int] = []
    model.register_forward_hook(
        lambda module, args, output: pointers.append(output.past_key_values.layers[0].keys.data_ptr())
    )
    generate(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=60)
    assert sum(a != b for a, b in pairwise(pointers)) <= 3


# --- arguments that make no sense ---

PROMPT = torch.arange(12).reshape(2, 6)
BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "static cache, not used": (
        {"cache_implementation": "static", "use_cache": False},
        "cache_implementation='static' with use_cache=False",
    ),
    "quantized cache": ({"cache_implementation": "quantized"}, "cache_implementation='quantized' is not supported"),
    "offloaded cache": ({"cache_implementation": "offloaded"}, "cache_implementation='offloaded' is not supported"),
    "paged cache": ({"cache_implementation": "paged"}, "cache_implementation='paged' is not supported"),
    "chunks": ({"prefill_chunk_size": 2}, "prefill_chunk_size=2 is not supported"),
    "no latents": ({"num_latents": 0}, r"num_latents=0 must be in \[1, 5\] for a prompt of 6 tokens"),
    "negative": ({"num_latents": -3}, r"num_latents=-3 must be in \[1, 5\]"),
    "too many latents": ({"num_latents": 6}, r"num_latents=6 must be in \[1, 5\]"),
    "too few latents": (
        {"inputs": torch.zeros(1, 15, dtype=torch.long), "num_latents": 2},
        r"num_latents=2 must be in \[3, 5\] for a prompt of 15 tokens",
    ),
    "float latents": ({"num_latents": 2.0}, "num_latents=2.0 must be an integer"),
    "float prefix": ({"prefix_len": 2.0}, "prefix_len=2.0 must be an integer"),
    "float tokens": ({"max_new_tokens": 2.0}, "max_new_tokens=2.0 must be an integer"),
    "tiny temperature": ({"do_sample": True, "temperature": 1e-40}, "temperature=1e-40 must be at least 1e-30"),
    "both": ({"num_latents": 2, "prefix_len": 3}, "give either num_latents=2 or prefix_len=3"),
    "right padding": ({"attention_mask": torch.tensor([[1] * 6, [1] * 5 + [0]])}, "padded on the right"),
    "right padding by tokens": ({"pad_token_id": 5}, "padded on the right"),
    "padding only": ({"attention_mask": torch.tensor([[1] * 6, [0] * 6])}, "a prompt is empty"),
    "padding only by tokens": (
        {"inputs": torch.tensor([[3, 1], [3, 3]]), "pad_token_id": 3},
        "a prompt is empty",
    ),
    "mask in 3D": ({"attention_mask": torch.ones(2, 1, 6)}, r"attention_mask has shape \(2, 1, 6\), expected \(B, n\)"),
    "short mask": ({"attention_mask": torch.ones(2, 3)}, r"attention_mask has shape \(2, 3\)"),
    "long mask": ({"attention_mask": torch.ones(2, 9)}, r"attention_mask has shape \(2, 9\)"),
    "empty": ({"inputs": PROMPT[:, :0]}, "the prompt is empty"),
    "no batch": ({"inputs": PROMPT[0]}, r"shape \(B, n\)"),
    "no prompt": ({"inputs": None}, "the prompt is empty"),
    "another cache": (
        {"past_key_values": DynamicCache()},
        "past_key_values is a DynamicCache, it must be a PerceiverARCache",
    ),
    "DoLa": ({"dola_layers": "low"}, "dola_generation is not supported"),
    "beam groups": (
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        "group_beam_search is not supported",
    ),
    "reset without cache": ({"reset_latents": True, "use_cache": False}, "reset_latents=True needs use_cache=True"),
    "reset, assisted": (
        {"reset_latents": True, "prompt_lookup_num_tokens": 2},
        "reset_latents=True is not supported by assisted_generation",
    ),
    "reset, contrastive": (
        {"reset_latents": True, **CONTRASTIVE},
        "reset_latents=True is not supported by contrastive_search",
    ),
    "contrastive without cache": ({**CONTRASTIVE, "use_cache": False}, "contrastive search needs use_cache=True"),
    "contrastive, no mixture": ({"penalty_alpha": 1.5, "top_k": 3}, r"penalty_alpha=1.5 .* must be in \(0, 1\]"),
    "contrastive, many candidates": ({"penalty_alpha": 0.6, "top_k": 38}, r"top_k=38 .*37"),
    "assisted without cache": ({"prompt_lookup_num_tokens": 2, "use_cache": False}, "requires `use_cache=True`"),
    "unknown": ({"foo": 1}, "foo"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_arguments_that_make_no_sense(name: str) -> None:
    kwargs, message = BAD_ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        hf_model().generate(**{"inputs": PROMPT, "max_new_tokens": 3, "do_sample": False, **kwargs})


def test_number_of_latents_with_a_filled_cache() -> None:
    model, x = hf_model(), token_ids(1, 6)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="num_latents=2 has no effect with a filled cache"):
        generate(model, first.sequences, past_key_values=first.past_key_values, num_latents=2)


def test_cache_of_beams_is_not_continued() -> None:
    """Its rows are beams, not the sequences that are returned."""
    model, x = hf_model(), token_ids(1, 6)
    first = generate(model, x, max_new_tokens=5, num_beams=3, num_return_sequences=3, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="beam search can't be continued"):
        generate(model, first.sequences, past_key_values=first.past_key_values)


def test_cache_of_another_model() -> None:
    model, x = hf_model(), token_ids(1, 6)
    other = clm.CausalLanguageModel(replace(model.backend_model.config, max_latents=3))
    with pytest.raises(ValueError, match="another model"):
        model(x, past_key_values=PerceiverARCache(other.new_cache()))


def test_labels_that_do_not_fit() -> None:
    model, x = hf_model(), token_ids(2, 6)
    with pytest.raises(ValueError, match=r"labels have shape \(2, 5\), inputs \(2, 6\)"):
        model(x, labels=x[:, 1:])
    with pytest.raises(ValueError, match="logits_to_keep=1"):
        model(x, labels=x, logits_to_keep=1)


def test_labels_of_next_tokens_of_a_cache() -> None:
    model, x = hf_model(), token_ids(1, 9)
    mask = torch.ones_like(x)
    mask[:, :2] = 0
    with torch.no_grad():
        cache = model(x[:, :5], prefix_len=3, attention_mask=mask[:, :5], use_cache=True).past_key_values
        output = model(x[:, 5:], attention_mask=mask, past_key_values=cache, labels=x[:, 5:])
    expected = nn.functional.cross_entropy(output.logits[0, :-1], x[0, 6:])
    torch.testing.assert_close(output.loss, expected, **TIGHT)
