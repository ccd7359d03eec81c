"""Scoring of whole sequences: against a loop over single tokens, and every token once whatever the sizes are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.evaluation import (
    Evaluation,
    evaluate_tokens,
    perplexity,
    score_tokens,
    sequence_latents,
    sequence_windows,
)
from tests.model.clm_helpers import CONFIGS, MAX_LATENTS, MAX_SEQ_LEN, VOCAB, clm_config, clm_model, reference_logits
from tests.model.helpers import randomise_vectors

CLOSE = {"atol": 1e-4, "rtol": 1e-5}  # scores are of size 10
LENGTHS = [2, 3, MAX_LATENTS, MAX_LATENTS + 1, MAX_LATENTS + 2, MAX_SEQ_LEN, MAX_SEQ_LEN + 1, MAX_SEQ_LEN + 2, 53]


def sequence(length: int) -> Tensor:
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length))


def scores(model: CausalSequenceModel, *sequences: Tensor, **kwargs: Any) -> Tensor:
    return torch.cat(list(score_tokens(model, sequences, **kwargs)))


def token_by_token(model: CausalSequenceModel, tokens: Tensor) -> Tensor:
    """A forward pass of its own for each token, with as many latents and then as much prefix as the model allows."""
    result = []
    for i in range(1, len(tokens)):
        context = tokens[max(i - model.max_seq_len, 0) : i]
        logits = model(context[None], max(len(context) - model.max_latents, 0))[0, -1]
        result.append(-logits.log_softmax(0)[tokens[i]])
    return torch.stack(result).detach()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [2, 6, 18, 29])
def test_stride_of_one_is_a_loop_over_tokens(name: str, length: int) -> None:
    model, tokens = clm_model(CONFIGS[name]), sequence(length)
    torch.testing.assert_close(scores(model, tokens, stride=1), token_by_token(model, tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_each_window_scores_what_the_model_says_of_it(stride: int) -> None:
    """The reference is another implementation of the model, and the windows are the picture of the module docstring."""
    model, tokens = clm_model(clm_config(max_seq_len=6, max_latents=3)), sequence(10)
    expected = []
    for end in (3, *range(3 + stride, 9 + stride, stride)):  # the last window is cut off after nine inputs
        start, stop, new = max(end - 6, 0), min(end, 9), min(end, 9) - (end - stride if end > 3 else 0)
        logits = reference_logits(model, tokens[start:stop], end - 3 - start)[-new:]
        expected.append(-logits.log_softmax(1).gather(1, tokens[stop - new + 1 : stop + 1, None])[:, 0])
    torch.testing.assert_close(scores(model, tokens, stride=stride), torch.cat(expected), atol=2e-5, rtol=1e-5)


def test_the_picture() -> None:
    windows = [(w.start, w.end, w.prefix_len, w.num_scored) for w in sequence_windows(9, 6, 3, 2)]
    assert windows == [(0, 3, 0, 3), (0, 5, 2, 2), (1, 7, 3, 2), (3, 9, 3, 2)]
    shorter = [(w.start, w.end, w.prefix_len, w.num_scored) for w in sequence_windows(8, 6, 3, 2)]
    assert shorter == [*windows[:3], (3, 8, 3, 1)]


@given(st.data())
def test_windows_score_every_position_once_in_order_with_full_context(data: st.DataObject) -> None:
    max_seq_len = data.draw(st.integers(1, 40))
    max_latents = data.draw(st.integers(1, max_seq_len))
    stride = data.draw(st.integers(1, max_latents))
    num_inputs = data.draw(st.integers(0, 150))
    windows = list(sequence_windows(num_inputs, max_seq_len, max_latents, stride))
    positions = [i for w in windows for i in range(w.end - w.num_scored, w.end)]
    assert positions == list(range(num_inputs))
    for window in windows:
        length = window.end - window.start
        num_latents = length - window.prefix_len
        assert 1 <= window.num_scored <= num_latents <= max_latents
        assert num_latents == max_latents or window == windows[-1]
        whole = window.end + max_latents - num_latents  # where the last window would end
        assert length == min(whole, max_seq_len) - (whole - window.end)  # nothing that it could see is left out
        first = window.end - window.num_scored
        assert first + 1 - window.start >= min(first + 1, max_seq_len - stride + 1)
    assert len(windows) <= 1 + math.ceil(max(num_inputs - max_latents, 0) / stride)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_and_padding_change_nothing(batch_size: int) -> None:
    model = clm_model()
    sequences = [sequence(length) for length in LENGTHS]
    alone = [scores(model, tokens, stride=3, batch_size=1) for tokens in sequences]
    together = scores(model, *sequences, stride=3, batch_size=batch_size)
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)
    assert [len(s) for s in alone] == [length - 1 for length in LENGTHS]


def test_smaller_stride_is_the_same_function_until_there_is_a_prefix() -> None:
    model, tokens = clm_model(), sequence(MAX_LATENTS + 1)
    torch.testing.assert_close(scores(model, tokens, stride=1), scores(model, tokens), **CLOSE)
    tokens = sequence(MAX_SEQ_LEN)
    assert not torch.allclose(scores(model, tokens, stride=1), scores(model, tokens), atol=1e-2)


def test_a_token_is_scored_without_knowing_itself_or_what_follows() -> None:
    model, tokens = clm_model(), sequence(31)
    changed = tokens.clone()
    changed[20:] = (tokens[20:] + 1) % VOCAB
    before, after = scores(model, tokens, stride=2), scores(model, changed, stride=2)
    torch.testing.assert_close(after[:19], before[:19], **CLOSE)
    assert not torch.isclose(after[19:], before[19:], atol=1e-3).any()


@pytest.mark.parametrize("stride", [2, None])
def test_a_score_does_not_depend_on_where_the_sequence_ends(stride: int | None) -> None:
    model, tokens = clm_model(), sequence(31)
    whole = scores(model, tokens, stride=stride)
    for length in range(2, 31):
        torch.testing.assert_close(scores(model, tokens[:length], stride=stride), whole[: length - 1])


def test_latents_of_all_positions_are_those_that_are_scored() -> None:
    model, padded = clm_model(), torch.zeros(3, 31, dtype=torch.int64)
    pad_mask = torch.ones_like(padded, dtype=torch.bool)
    lengths = {0: slice(0, 31), 1: slice(4, 27), 2: slice(25, 31)}
    for i, place in lengths.items():
        padded[i, place], pad_mask[i, place] = sequence(place.stop - place.start), False
    (latents,) = sequence_latents(model, padded, pad_mask)
    (embedded,) = sequence_latents(model, model.txt_embedding(padded), pad_mask)
    torch.testing.assert_close(embedded, latents)
    for i, place in lengths.items():
        tokens = padded[i, place]
        found = -model.logits(latents[i, place][:-1]).log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        torch.testing.assert_close(found.detach(), scores(model, tokens), atol=1e-5, rtol=1e-5)


def test_totals() -> None:
    model, sequences = clm_model(), [sequence(23), sequence(1), torch.zeros(0, dtype=torch.int64), sequence(7)]
    seen: list[int] = []
    result = evaluate_tokens(model, iter(sequences), batch_size=2, progress=seen.append)
    each = scores(model, *sequences)
    assert result.num_tokens == len(each) == 22 + 6
    assert result.nats == pytest.approx(each.double().sum().item())
    assert result.bits_per_token == pytest.approx(each.mean().item() / math.log(2))
    assert result.perplexity_per_token == pytest.approx(each.mean().exp().item(), rel=1e-4)
    assert seen == [5, 10, 15, 20, 22, 27, 28]


def test_uniform_model() -> None:
    model = clm_model()
    with torch.no_grad():
        model.txt_embedding.weight.zero_()
        model.output_adapter.bias.zero_()
    result = evaluate_tokens(model, [sequence(41)])
    assert result.bits_per_token == pytest.approx(math.log2(VOCAB))
    assert result.perplexity_per_token == pytest.approx(VOCAB, rel=1e-5)


def test_perplexity_has_no_overflow() -> None:
    assert perplexity(3.0, 2) == pytest.approx(math.exp(1.5))
    assert perplexity(1e6, 2) == perplexity(1.0, 0) == math.inf
    assert Evaluation(1e6, 2).perplexity_per_token == math.inf


@pytest.mark.parametrize("training", [False, True])
def test_mode_gradients_and_random_numbers_stay(training: bool) -> None:
    model = clm_model(clm_config(cross_attention_dropout=0.5, residual_dropout=0.3)).train(training)
    state, tokens = torch.get_rng_state(), sequence(30)
    first, second = scores(model, tokens), scores(model, tokens)
    torch.testing.assert_close(first, second, **CLOSE)
    assert not first.requires_grad
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_any_integers(dtype: torch.dtype) -> None:
    model, tokens = clm_model(), sequence(30)
    torch.testing.assert_close(scores(model, tokens.to(dtype)), scores(model, tokens), **CLOSE)


def test_low_precision_model_is_scored_in_float32() -> None:
    model, tokens = clm_model(), sequence(30)
    expected = scores(model, tokens)
    result = scores(model.bfloat16(), tokens)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0.5, rtol=0.1)


def test_memory_does_not_grow_with_the_sequence() -> None:
    """Scores of the first windows are there before the rest of the text is read."""
    model, read = clm_model(), []

    def sequences() -> Any:
        for i in range(1000):
            read.append(i)
            yield sequence(MAX_SEQ_LEN)

    next(iter(score_tokens(model, sequences(), batch_size=4)))
    assert len(read) == 1


@pytest.mark.parametrize(
    "tokens, kwargs, message",
    [
        (sequence(9), {"stride": 0}, r"stride=0 must be in \[1, max_latents=5\]"),
        (sequence(9), {"batch_size": 0}, "batch_size=0 must be at least 1"),
        (sequence(9), {"stride": 2.0}, "stride=2.0 must be an integer"),
        (sequence(9), {"batch_size": 2.0}, "batch_size=2.0 must be an integer"),
        (sequence(9).tolist(), {}, "a sequence is a list, it must be a tensor"),
        (sequence(9)[None], {}, r"a sequence is torch.int64 \(1, 9\), expected integers \(sequence length,\)"),
        (sequence(9).float(), {}, r"a sequence is torch.float32 \(9,\)"),
        (torch.tensor([1, 2, VOCAB]), {}, r"tokens span \[1, 37\], allowed is \[0, 36\]"),
        (sequence(1), {}, "nothing to score"),
    ],
)
def test_errors(tokens: Tensor, kwargs: dict[str, Any], message: str) -> None:
    model = clm_model().train()
    with pytest.raises(ValueError, match=message):
        evaluate_tokens(model, [tokens], **kwargs)
    assert model.training


def test_a_model_of_another_domain() -> None:
    """Symbolic audio has the same model with other tokens."""
    torch.manual_seed(0)
    model = CausalSequenceModel(clm_config(vocab_size=389))
    randomise_vectors(model)
    tokens = torch.randint(0, 389, (30,))
    torch.testing.assert_close(
        scores(model, tokens, stride=1), token_by_token(model.eval(), tokens), atol=2e-5, rtol=1e-5
    )
