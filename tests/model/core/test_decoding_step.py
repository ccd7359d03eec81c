"""A decoding step as a function of tensors: what the model gives with its own cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perceiver.model.core.decoding_step import DecodingStep
from perceiver.model.text.clm import CausalLanguageModelConfig
from tests.model.clm_helpers import CONFIGS, ONE_LAYER, clm_config, clm_model
from tests.model.helpers import token_ids

EVERY = {**CONFIGS, "one latent, token shift": clm_config(max_latents=1, token_shift=True, **ONE_LAYER)}


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
@torch.no_grad()
def test_equals_the_model_with_a_cache(config: CausalLanguageModelConfig) -> None:
    """From a prefix of any length until everything slides."""
    model = clm_model(config)
    step = DecodingStep(model).eval()
    for prefix_len in sorted({0, config.max_seq_len - config.max_latents}):
        x = token_ids(1, prefix_len + 4 + config.max_seq_len)
        cache, past = model.new_cache(), step.empty_past()
        assert len(step.past_names) == len(past) == 2 * len(model.windows) - model.token_shift
        start = 0
        for end in range(prefix_len + 1, x.shape[1] + 1):
            expected = model(x[:, start:end], prefix_len if start == 0 else 0, None, cache)[:, -1]
            logits, *new = step(x[:, end - 1 : end], x[:, start : end - 1], torch.tensor([start]), *past)
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
            past, start = step.in_windows(new), end
        lengths = [window - 1 for window in step.past_windows.values()]
        assert [y.shape[2] for y in past] == lengths
        assert lengths[:-1] == [window - 1 for window in model.windows for _ in range(2)][: len(past) - 1]


@torch.no_grad()
def test_gives_back_what_it_was_given() -> None:
    """And one position more: whoever calls it may keep the old ones, for beams say."""
    model = clm_model()
    step, x = DecodingStep(model).eval(), token_ids(1, 4)
    _, *past = step(x[:, 2:3], x[:, :2], torch.tensor([0]), *step.empty_past())
    copies: list[Tensor] = [y.clone() for y in past]
    _, *new = step(x[:, 3:], x[:, :0], torch.tensor([3]), *past)
    for old, copy, longer in zip(past, copies, new, strict=True):
        assert torch.equal(old, copy) and torch.equal(longer[:, :, :-1], copy)
