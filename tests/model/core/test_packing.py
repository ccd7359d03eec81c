"""Packed documents: what the model makes of each is what it makes of it alone, and none knows of another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perceiver.model.core import attention as attention_module
from perceiver.model.core.attention import attention
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.packing import Documents, Packing, latent_indices
from perceiver.model.text.clm.backend import CausalLanguageModel
from tests.model.clm_helpers import CONFIGS, MAX_LATENTS, MAX_SEQ_LEN, clm_config, clm_model
from tests.model.helpers import assert_close, gradients, token_ids

LENGTHS = [4, 17, 1, 9, 5, 6]  # at most as many as there are latents, one more, the longest, a single token


def lengths_for(model: CausalLanguageModel) -> list[int]:
    return [min(length, model.max_seq_len) for length in LENGTHS]


def alone(model: CausalLanguageModel, x: Tensor, lengths: list[int]) -> list[Tensor]:
    """Logits (n, vocabulary) of the latents of each document."""
    return [model(part, max(part.shape[1] - model.max_latents, 0))[0] for part in x.split(lengths, dim=1)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_gradients_are_those_of_each_document_alone(config) -> None:
    model = clm_model(replace(config, cross_attention_dropout=0.0)).train()
    lengths = lengths_for(model)
    x = token_ids(1, sum(lengths))
    packed, expected = model.forward_packed(x, lengths)[0], torch.cat(alone(model, x, lengths))
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(packed)
    (packed * weights).sum().backward()
    found = gradients(model)
    (expected * weights).sum().backward()
    assert_close(found, gradients(model))


def test_the_loss_is_the_mean_over_the_labels_of_all_documents() -> None:
    model = clm_model()
    x, labels = token_ids(1, sum(LENGTHS)), token_ids(1, sum(LENGTHS))
    labels[:, [3, 40]] = -100
    logits, targets = alone(model, x, LENGTHS), [part[0, -MAX_LATENTS:] for part in labels.split(LENGTHS, dim=1)]
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    assert (torch.cat(targets) == -100).sum() == 2
    torch.testing.assert_close(model.loss_packed(labels, x, LENGTHS), expected, atol=1e-5, rtol=1e-5)
    # a batch of padded documents, as it is without packing
    rows = zip(x.split(LENGTHS, dim=1), labels.split(LENGTHS, dim=1), LENGTHS, strict=True)
    left = [torch.nn.functional.pad(torch.stack([a[0], b[0]]), (MAX_SEQ_LEN - n, 0)) for a, b, n in rows]
    pad_mask = torch.stack([torch.arange(MAX_SEQ_LEN) < MAX_SEQ_LEN - n for n in LENGTHS])
    padded_x, padded_labels = torch.stack(left).unbind(dim=1)
    torch.testing.assert_close(model.loss(padded_labels, padded_x, pad_mask), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", ["absolute", "token shift"])
def test_no_gradient_crosses_documents(config) -> None:
    model, ends = clm_model(CONFIGS[config]), torch.tensor(LENGTHS).cumsum(0).tolist()
    x = model.txt_embedding(token_ids(1, sum(LENGTHS))).detach().requires_grad_()
    parts = model.latents_packed(x, LENGTHS).split([min(n, MAX_LATENTS) for n in LENGTHS], dim=1)
    for part, length, end in zip(parts, LENGTHS, ends, strict=True):
        (gradient,) = torch.autograd.grad(part.square().sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(dim=1)
        assert (reached[end - length : end] > 0).all()
        assert (reached[: end - length] == 0).all() and (reached[end:] == 0).all()


def test_the_mask_of_other_devices_is_the_loop_over_documents() -> None:
    """Prefixes and latents of three documents, of which the second has no prefix."""
    documents = Documents([3, 0, 4], [2, 1, 3], torch.tensor([0, 0, 0, 2, 2, 2, 2, 0, 0, 1, 2, 2, 2]))
    q, k, v = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 13, 8), torch.randn(1, 2, 13, 5)
    for part, keys in ((documents, slice(None)), (documents.latents(), slice(-6, None))):
        mask = AttentionMask(causal=True, documents=part)
        looped = attention(q, k[:, :, keys], v[:, :, keys], mask=mask)
        dense = mask.dense(6, k[:, :, keys].shape[2], q.device)
        assert dense is not None
        torch.testing.assert_close(looped, attention(q, k[:, :, keys], v[:, :, keys], mask=dense))
        assert not mask.is_only_causal(6, 13)
    expected = [[0, 1, 2, 7], [0, 1, 2, 7, 8], [9], [3, 4, 5, 6, 10], [3, 4, 5, 6, 10, 11], [3, 4, 5, 6, 10, 11, 12]]
    seen = AttentionMask(causal=True, documents=documents).dense(6, 13, q.device)
    assert seen is not None and [row.nonzero()[:, 0].tolist() for row in seen] == expected


def test_prefixes_come_first_and_latents_after_them() -> None:
    packing = Packing.of([5, 2, 4], 3)
    assert packing.order.tolist() == [0, 1, 7, 2, 3, 4, 5, 6, 8, 9, 10]
    assert packing.positions.tolist() == [[0, 1, 0, 2, 3, 4, 0, 1, 1, 2, 3]]
    assert packing.documents.numbers.tolist() == [0, 0, 2, 0, 0, 0, 1, 1, 2, 2, 2]
    assert packing.prefix_len == 3
    assert latent_indices([5, 2, 4], 3).tolist() == packing.order[3:].tolist()


def test_dropout_leaves_out_as_much_of_each_prefix_as_of_a_document_alone() -> None:
    lengths = [29, 3, 13, 9]  # prefixes of 25, 0, 9 and 5
    kept = set()
    for _ in range(20):
        packing = Packing.of(lengths, 4, prefix_dropout=0.5)
        assert packing.documents.prefix_lens == [13, 0, 5, 3]
        prefix = packing.order[:21].tolist()
        assert prefix == sorted(prefix)
        assert packing.order[21:].tolist() == latent_indices(lengths, 4).tolist()
        number = torch.arange(4).repeat_interleave(torch.tensor(lengths))
        assert number[packing.order].tolist() == packing.documents.numbers.tolist()
        kept.update(prefix)
    assert len(kept) == 39  # each of the 25 + 9 + 5 is kept sometimes
    assert Packing.of([101], 1, prefix_dropout=0.29).prefix_len == 100 - int(100 * 0.29) == 72
    model = clm_model(clm_config(cross_attention_dropout=0.5)).train()
    x = token_ids(1, sum(LENGTHS))
    first, second = model.forward_packed(x, LENGTHS), model.forward_packed(x, LENGTHS)
    assert first.shape == (1, 25, 37)
    torch.testing.assert_close(first[:, :4], second[:, :4])  # the first document has no prefix
    assert not torch.allclose(first, second)


def test_the_attention_probabilities_of_documents_are_dropped(monkeypatch) -> None:
    model = clm_model(clm_config(post_attention_dropout=0.9, cross_attention_dropout=0.0)).train()
    x = token_ids(1, sum(LENGTHS))
    assert not torch.allclose(model.forward_packed(x, LENGTHS), model.eval().forward_packed(x, LENGTHS))
    calls = []
    monkeypatch.setattr(
        attention_module, "_unfused_attention", lambda *args: calls.append(args[-1]) or args[2][:, :, :1]
    )
    attention(*torch.randn(3, 1, 1, 2, 4), mask=AttentionMask(causal=True, documents=two_documents()), dropout=0.3)
    assert calls == [0.3, 0.3]


def two_documents() -> Documents:
    return Documents([0, 0], [1, 1], torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((2, 6), [6, 6], r"packed documents have shape \(2, 6\), expected \(1, number of tokens\)"),
        ((6,), [6], r"packed documents have shape \(6,\)"),
        ((1, 6), [5], r"must be positive and add up to 6, not \[5\]"),
        ((1, 6), [6, 0], r"must be positive and add up to 6, not \[6, 0\]"),
        ((1, 6), [7, -1], "must be positive"),
        ((1, 6), [2.0, 4.0], r"must be a list of integers, not \[2.0, 4.0\]"),
        ((1, 6), torch.tensor([2, 4]), r"must be a list of integers, not tensor\(\[2, 4\]\)"),
        ((1, 0), [], r"must be positive and add up to 0, not \[\]"),
        ((1, 20), [2, 18], "a document has 18 tokens, which exceeds max_seq_len=17 of the model"),
    ],
)
def test_what_is_wrong_with_the_lengths(shape, lengths, message) -> None:
    with pytest.raises(ValueError, match=message):
        clm_model().forward_packed(token_ids(*shape), lengths)


def test_labels_must_be_those_of_the_tokens() -> None:
    with pytest.raises(ValueError, match=r"labels have shape \(1, 5\), inputs \(1, 6\)"):
        clm_model().loss_packed(token_ids(1, 5), token_ids(1, 6), [6])
