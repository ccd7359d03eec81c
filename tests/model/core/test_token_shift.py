"""Token shift: the token before, wherever padding, dropout, packing or a cache put it.

What holds for every model, causality, padding and caches among it, is tested with a configuration of token shift by the
tests of Perceiver AR.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.core import perceiver_ar
from perceiver.model.core.cache import KeyValueCache
from perceiver.model.core.perceiver_ar import drop_prefix
from perceiver.model.core.token_shift import TokenShiftInputAdapter, last_token, remember, with_previous
from tests.model.clm_helpers import (
    CONFIGS,
    MAX_LATENTS,
    MAX_SEQ_LEN,
    ONE_LAYER,
    clm_config,
    clm_model,
    reference_logits,
)
from tests.model.helpers import token_ids

TIGHT: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
PADS = torch.tensor([[1, 0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)


def adapter() -> TokenShiftInputAdapter:
    return TokenShiftInputAdapter(vocab_size=11, max_seq_len=7, num_input_channels=5)


def test_embeddings_by_hand() -> None:
    made = adapter()
    embedding, shift = made.txt_embedding.weight, made.token_shift.weight
    assert made.pos_embedding is not None
    position = made.pos_embedding.weight
    expected = torch.stack(
        [embedding[3] + position[0]]
        + [embedding[b] + shift @ embedding[a] + position[i] for i, (a, b) in enumerate([(3, 9), (9, 4)], start=1)]
    )
    pairs = with_previous(torch.tensor([[3, 9, 4]]))
    torch.testing.assert_close(made(pairs)[0], expected)
    torch.testing.assert_close(made(embedding[pairs], torch.arange(3)[None])[0], expected)
    later = made(pairs, torch.tensor([[2, 3, 4]]))[0, 0]  # a first token that is not at position 0 has one before it
    torch.testing.assert_close(later, embedding[3] + shift @ embedding[3] + position[2])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"pairs of tokens have shape \(2, 3\), expected \(.*, 2\)"):
        adapter()(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"token embeddings have shape \(2, 3, 4\), expected \(.*, 5\)"):
        adapter()(with_previous(torch.zeros(2, 3, 4)))


@pytest.mark.parametrize("embedded", [False, True])
def test_the_token_before_is_the_last_one_that_is_no_padding(embedded: bool) -> None:
    x = torch.arange(14).reshape(2, 7)
    inputs = torch.stack([x, -x], dim=2).float() if embedded else x
    pairs = with_previous(inputs, PADS)
    assert pairs.shape == (2, 7, 2, 2) if embedded else (2, 7, 2)
    pairs = pairs[..., 0] if embedded else pairs
    real = [[pair for pair, pad in zip(*row, strict=True) if not pad] for row in zip(pairs.tolist(), PADS, strict=True)]
    assert [pair[1] for pair in real[0][1:]] == [1, 2] and [pair[1] for pair in real[1][1:]] == [7, 8, 10, 11, 12]
    assert torch.equal(pairs[..., 0].long(), x)


@pytest.mark.parametrize("embedded", [False, True])
def test_tokens_in_any_parts_have_the_same_tokens_before_them(embedded: bool) -> None:
    x = torch.randn(2, 7, 3) if embedded else token_ids(2, 7)
    for pad_mask in (None, PADS):
        whole = with_previous(x, pad_mask)
        for sizes in ([3, 4], [1, 1, 1, 1, 3], [4, 2, 1]):
            cache, parts = KeyValueCache(window=2), []
            for part, pads in zip(x.split(sizes, 1), PADS.split(sizes, 1), strict=True):
                mask = None if pad_mask is None else pads
                parts.append(with_previous(part, mask, last_token(cache, part)))
                remember(cache, parts[-1], mask)
            real = slice(None) if pad_mask is None else ~PADS
            first = torch.cat(parts, dim=1)[real]
            # what is paired with the first token of all, and with padding before it, has no effect
            compared = slice(1, None) if pad_mask is not None else (slice(None), slice(1, None))
            assert torch.equal(first[compared], whole[real][compared])


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
def test_padding_anywhere_between_cached_tokens(static: bool) -> None:
    """While all fit into the windows, where a cache changes nothing."""
    model, x = clm_model(CONFIGS["token shift"]), token_ids(3, 11)
    pad_mask = torch.rand(3, 11) < 0.4
    pad_mask[:, 5] = False
    expected, real = model(x, 6, pad_mask), ~pad_mask[:, 6:]
    for sizes in ([8, 1, 1, 1], [7, 3, 1], [9, 2]):
        cache: Any = model.new_static_cache() if static else model.new_cache()
        parts, end = [], 0
        for part in x.split(sizes, 1):
            end += part.shape[1]
            parts.append(model(part, 0 if parts else 6, pad_mask[:, :end], cache))
        torch.testing.assert_close(torch.cat(parts, dim=1)[real], expected[real], **TIGHT)


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
def test_a_window_of_one_latent_forgets_no_token_before(static: bool) -> None:
    model, x = clm_model(clm_config(max_latents=1, token_shift=True, **ONE_LAYER)), token_ids(1, 150)
    expected = reference_logits(model, x[0], 3)
    cache: Any = model.new_static_cache() if static else model.new_cache()
    parts = [model(x[:, :4], 3, None, cache), *(model(x[:, i : i + 1], 0, None, cache) for i in range(4, 150))]
    torch.testing.assert_close(torch.cat(parts, dim=1)[0], expected, **TIGHT)


def test_dropped_tokens_are_still_the_ones_before_those_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, kept = clm_model(CONFIGS["token shift"]).train(), token_ids(2, MAX_SEQ_LEN), []

    def drop(*args: Any) -> Any:
        kept.append(drop_prefix(*args))
        return kept[-1]

    monkeypatch.setattr(perceiver_ar, "drop_prefix", drop)
    model(x, MAX_SEQ_LEN - MAX_LATENTS)
    pairs, pos, _ = kept[0]
    assert pairs.shape == (2, MAX_SEQ_LEN - 6, 2)
    assert torch.equal(pairs[..., 0], x.gather(1, pos))
    before = x.gather(1, (pos - 1).clamp(min=0))
    assert torch.equal(pairs[..., 1][pos > 0], before[pos > 0])


def test_a_cache_holds_an_id_of_each_latent_besides_keys_and_values() -> None:
    plain, shifted = clm_model(), clm_model(CONFIGS["token shift"])
    assert shifted.windows == [*plain.windows, MAX_LATENTS]
    for new in ("new_cache", "new_static_cache"):
        cache: Any = getattr(shifted, new)()
        x = token_ids(2, 9)
        shifted(x, 6, None, cache)
        keys, values = cache[-1].keys, cache[-1].values
        assert keys.dtype == torch.int64 and values.numel() == 0 and cache[-1].num_seen == 3
        assert torch.equal(keys[:, 0, :3, 0], x[:, 6:])
        assert len(getattr(plain, new)()) == len(cache) - 1


def test_ids_and_embeddings_do_not_share_a_cache() -> None:
    model, x = clm_model(CONFIGS["token shift"]), token_ids(2, 4)
    for first, second, message in (
        (x, model.txt_embedding(x), "holds token ids: token embeddings can't follow"),
        (model.txt_embedding(x), x, "holds token embeddings: token ids can't follow"),
    ):
        cache = model.new_cache()
        model(first, 0, None, cache)
        with pytest.raises(ValueError, match=message):
            model(second, 0, None, cache)
        with pytest.raises(ValueError, match="batch size 1 differs from that of the cache, 2"):
            model(first[:1], 0, None, cache)
        assert [layer.num_seen for layer in cache] == [4] * 4  # a refused call leaves the cache as it was


@torch.no_grad()
def test_embeddings_are_as_good_as_ids() -> None:
    model, x = clm_model(CONFIGS["token shift"]), token_ids(2, 13)
    embedded, expected = model.txt_embedding(x), model(x, 8)
    torch.testing.assert_close(model(embedded, 8), expected, **TIGHT)
    cache = model.new_cache()
    parts = [model(embedded[:, :10], 8, None, cache), model(embedded[:, 10:], 0, None, cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **TIGHT)


def test_no_gradient_reaches_the_token_before_the_first() -> None:
    """The first token has none, whatever it is paired with: neither padding nor the document before it."""
    model = clm_model(CONFIGS["token shift"])
    x = model.txt_embedding(token_ids(1, 6)).detach().requires_grad_()

    def reached(logits: Tensor) -> list[bool]:
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        return (gradient[0].abs().sum(dim=1) > 0).tolist()

    pad_mask = torch.tensor([[True, True, False, False, True, False]])
    assert reached(model(x, 3, pad_mask)[:, [0, 2]]) == [False, False, True, True, False, True]
    assert reached(model.forward_packed(x, [2, 4])[:, 2:]) == [False, False, True, True, True, True]
