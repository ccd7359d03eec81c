"""Sampling without transformers: equal to greedy generation with it, and to distributions by counting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.sampling import sample, sample_tokens
from perceiver.model.text import clm
from tests.model.clm_helpers import (
    CONFIGS,
    MAX_LATENTS,
    MAX_SEQ_LEN,
    VOCAB,
    clm_config,
    clm_model,
    reference_logits,
)
from tests.model.helpers import token_ids

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


class FakeModel(CausalSequenceModel):
    """Gives the same logits whatever comes in."""

    def __init__(self, probs: list[float]):
        super().__init__(
            clm_config(vocab_size=len(probs), num_self_attention_layers=1, num_self_attention_rotary_layers=1)
        )
        self.fixed = nn.Parameter(torch.tensor(probs).log())

    def logits(self, latents: Tensor) -> Tensor:
        return self.fixed.expand(*latents.shape[:2], -1)


PROBS = [0.05, 0.4, 0.15, 0.3, 0.1]


@every_config
def test_temperature_0_is_greedy_generation(config: clm.CausalLanguageModelConfig) -> None:
    """Through all phases, from prompts of 1 token to more than the window."""
    model: Any = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config))
    model.eval()
    model.backend_model.load_state_dict(clm_model(config).state_dict())
    for length in sorted({1, 6, config.max_seq_len, config.max_seq_len + 5}):
        x = token_ids(2, length)
        result = sample(model.backend_model, x, 2 * config.max_seq_len, temperature=0.0)
        assert torch.equal(result, model.generate(x, do_sample=False, max_new_tokens=2 * config.max_seq_len))


def test_number_of_latents() -> None:
    model, x = clm_model(), token_ids(1, 8)
    for num_latents in (1, 3, MAX_LATENTS):
        expected = x[0]
        for _ in range(20):
            logits = reference_logits(model, expected, 8 - num_latents)
            expected = torch.cat([expected, logits[-1].argmax()[None]])
        assert torch.equal(sample(model, x, 20, num_latents=num_latents, temperature=0.0)[0], expected)
    results = [sample(model, x, 20, num_latents=n, temperature=0.0) for n in (None, 1, 5)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("lengths, num_latents", [([7, 3, 5], 3), ([1, 9, 4], 5), ([17, 6, 16], 5), ([22, 5, 13], 5)])
def test_a_left_padded_batch_equals_each_prompt_alone(lengths: list[int], num_latents: int) -> None:
    model, x = clm_model(), token_ids(3, max(lengths))
    pad_mask = torch.arange(x.shape[1]) < x.shape[1] - torch.tensor(lengths)[:, None]
    result = sample(model, x, 25, num_latents=num_latents, pad_mask=pad_mask, temperature=0.0)
    for row, prompt, n in zip(result, x, lengths, strict=True):
        alone = sample(model, prompt[None, -n:], 25, num_latents=num_latents, temperature=0.0)
        assert torch.equal(row[x.shape[1] :], alone[0, n:])


def test_a_longer_prompt_is_its_last_tokens() -> None:
    model, x = clm_model(), token_ids(2, MAX_SEQ_LEN + 9)
    for num_latents in (None, MAX_LATENTS):
        long = sample(model, x, 20, num_latents=num_latents, temperature=0.0)
        short = sample(model, x[:, 9:], 20, num_latents=num_latents, temperature=0.0)
        assert torch.equal(long[:, 9:], short) and torch.equal(long[:, :9], x[:, :9])


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, PROBS),
        ({"temperature": 0.5}, [p**2 / 0.285 for p in PROBS]),
        ({"temperature": 2.0}, [p**0.5 / sum(q**0.5 for q in PROBS) for p in PROBS]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 100}, PROBS),
        ({"top_p": 1.0}, PROBS),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),  # the most probable one always stays
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7, 0]),  # the smallest set that makes up as much
        ({"top_p": 0.8}, [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        ({"top_p": 0.97}, PROBS),
        ({"top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),  # of what top_k leaves: 0.82 are two tokens
        ({"temperature": 1e-6}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-50}, [0, 1, 0, 0, 0]),  # 0 in float32
        ({"temperature": 1e-50, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
    ids=str,
)
def test_distributions(kwargs: dict[str, Any], expected: list[float]) -> None:
    tokens = sample(FakeModel(PROBS), torch.zeros(4000, 1, dtype=torch.long), 5, **kwargs)[:, 1:]
    frequencies = tokens.flatten().bincount(minlength=5) / tokens.numel()
    torch.testing.assert_close(frequencies, torch.tensor(expected).float(), atol=0.012, rtol=0)
    assert (frequencies[torch.tensor(expected) == 0] == 0).all()
    assert len(set(map(tuple, tokens.tolist()))) > 1 or max(expected) == 1  # examples draw independently


def test_a_temperature_by_which_quotients_are_infinite() -> None:
    model = FakeModel([1e20, 1e25, 1e22])  # logits 46, 58 and 51
    assert sample(model, torch.zeros(4, 1, dtype=torch.long), 3, temperature=1e-37)[:, 1:].eq(1).all()


def test_every_draw_is_from_the_model_s_probabilities() -> None:
    model, x, generator = clm_model(clm_config(init_scale=0.15)), token_ids(1, 6), torch.Generator().manual_seed(5)
    expected = x[0]
    for _ in range(30):
        probs, tokens = reference_logits(model, expected, 5)[-1].softmax(-1).sort(descending=True)
        drawn = torch.multinomial(probs[None], 1, generator=generator)[0]
        expected = torch.cat([expected, tokens[drawn]])
    result = sample(model, x, 30, generator=torch.Generator().manual_seed(5))
    assert torch.equal(result[0], expected)


def test_a_generator_makes_it_reproducible() -> None:
    model, x = clm_model(clm_config(init_scale=0.15)), token_ids(2, 6)
    state = torch.get_rng_state()
    results = [sample(model, x, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state)  # the global one is not touched
    torch.manual_seed(3)
    first = sample(model, x, 20)
    torch.manual_seed(3)
    assert torch.equal(sample(model, x, 20), first)


def test_tokens_come_one_at_a_time() -> None:
    model, x = clm_model(), token_ids(2, 6)
    tokens = sample_tokens(model, x, 20, temperature=0.0)
    first = next(tokens)
    assert first.shape == (2,)
    rest = list(tokens)
    assert len(rest) == 19
    assert torch.equal(torch.stack([first, *rest], dim=1), sample(model, x, 20, temperature=0.0)[:, 6:])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_evaluation_mode_while_it_is_used_only(training: bool) -> None:
    model, x = clm_model(clm_config(post_attention_dropout=0.5, residual_dropout=0.5)), token_ids(2, 9)
    expected = sample(model, x, 20, temperature=0.0)
    model.train(training)
    modes: list[bool] = []
    model.cross_attention.register_forward_hook(lambda module, args, output: modes.append(module.training))
    tokens = []
    for token in sample_tokens(model, x, 20, temperature=0.0):
        assert model.training == training and torch.is_grad_enabled()
        assert not token.requires_grad
        tokens.append(token)
    assert torch.equal(torch.stack(tokens, dim=1), expected[:, 9:])
    assert modes == [False] * 20 and all(module.training == training for module in model.modules())


def test_a_failure_leaves_the_mode_as_it_was() -> None:
    model = clm_model().train()
    with pytest.raises(ValueError, match="token ids span"):
        sample(model, torch.full((1, 3), VOCAB), 2)
    assert model.training


def test_bfloat16() -> None:
    model, x = clm_model().bfloat16(), token_ids(2, 6)
    result = sample(model, x, 30, temperature=0.0)
    assert result.shape == (2, 36) and torch.equal(result, sample(model, x, 30, temperature=0.0))
    assert sample(model, x, 30, top_k=5, top_p=0.9).shape == (2, 36)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0 must be an integer"),
        ({"top_k": 2.0}, "top_k=2.0 must be an integer"),
        ({"num_latents": 2.0}, "num_latents=2.0 must be an integer"),
        ({"prompt": [[1, 2]]}, "prompt is list, expected a tensor"),
        ({"temperature": -0.1}, "temperature=-0.1 must be at least 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p=1.1 in \(0, 1\]"),
        ({"num_latents": 0}, r"num_latents=0 must be in \[1, 5\] for a prompt of 6 tokens"),
        ({"num_latents": 6}, r"num_latents=6 must be in \[1, 5\]"),
        ({"prompt": torch.zeros(1, 16, dtype=torch.long), "num_latents": 3}, r"num_latents=3 must be in \[4, 5\]"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, "the prompt is empty"),
        ({"prompt": torch.zeros(6, dtype=torch.long)}, r"prompt is \(6,\), expected a tensor \(batch size"),
        ({"pad_mask": torch.tensor([[False] * 5 + [True]] * 2)}, "prompts are padded on the right"),
        ({"pad_mask": torch.tensor([[False] * 6, [True] * 6])}, "padded on the right|a prompt is empty"),
    ],
    ids=str,
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    """Refused at once, not when the first token is asked for."""
    arguments = {"prompt": torch.zeros(2, 6, dtype=torch.long), "max_new_tokens": 3, **kwargs}
    with pytest.raises(ValueError, match=message):
        sample_tokens(clm_model(), arguments.pop("prompt"), **arguments)


def test_pad_mask_of_another_shape_or_dtype() -> None:
    for pad_mask, found in (
        (torch.zeros(2, 4, dtype=torch.bool), r"torch.bool \(2, 4\)"),
        (torch.zeros(6, dtype=torch.bool), r"torch.bool \(6,\)"),
        (torch.zeros(2, 6, dtype=torch.long), r"torch.int64 \(2, 6\)"),
    ):
        with pytest.raises(ValueError, match=rf"pad_mask is {found}, expected torch.bool \(2, 6\)"):
            sample(clm_model(), token_ids(2, 6), 3, pad_mask=pad_mask)
