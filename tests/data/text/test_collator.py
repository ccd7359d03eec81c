"""What masking does to words, how often, and that it depends on (seed, epoch, example) alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from transformers import PerceiverTokenizer

from perceiver.data.text.collator import DefaultCollator, TokenMaskingCollator, WordMaskingCollator
from perceiver.processing.tokenization import encode, word_ids

BYTES = PerceiverTokenizer()
COLLATORS = [WordMaskingCollator, TokenMaskingCollator]
TEXT = " ".join(f"word{i}" for i in range(40))  # the text of the recorded case `word_masking`


def example(text: str, index: int = 0, epoch: int = 0, add_special_tokens: bool = False) -> dict:
    encoded = encode(BYTES, [text], add_special_tokens)
    ids = encoded.tokens.astype(np.int64)
    return {"input_ids": ids, "word_ids": word_ids(encoded.marks), "index": index, "epoch": epoch}


def equal(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_binomial(successes: int, trials: int, p: float) -> None:
    """Within five standard deviations."""
    assert abs(successes - trials * p) < 5 * math.sqrt(trials * p * (1 - p))


def test_word_masking_rates():
    """As recorded from the published library: 12000 words, 1766 selected; all mask 1425, unchanged 167, random 174."""
    examples = [example(TEXT, index) for index in range(300)]
    labels, input_ids, pad_mask = WordMaskingCollator(BYTES, 0.15)(examples)
    assert not pad_mask.any()
    words, counts = examples[0]["word_ids"], {"mask": 0, "unchanged": 0, "random": 0}
    originals = torch.from_numpy(examples[0]["input_ids"])
    for row_labels, row in zip(labels, input_ids, strict=True):
        for word in np.unique(words):
            span = torch.from_numpy(words == word)
            original = originals[span]
            if (row_labels[span] == -100).all():
                assert torch.equal(row[span], original)
                continue
            assert torch.equal(row_labels[span], original)
            if (row[span] == BYTES.mask_token_id).all():
                counts["mask"] += 1
            else:
                assert (row[span] >= 6).all()
                counts["unchanged" if torch.equal(row[span], original) else "random"] += 1
    selected = sum(counts.values())
    assert_binomial(selected, 12000, 0.15)
    assert_binomial(counts["mask"], selected, 0.8)
    assert_binomial(counts["random"], selected, 0.1)
    assert_binomial(counts["unchanged"], selected, 0.1)


@pytest.mark.parametrize("mask_prob", [0.05, 0.15, 0.5])
def test_token_masking_rates(mask_prob):
    labels, input_ids, _ = TokenMaskingCollator(BYTES, mask_prob)([example("a" * 2000, index) for index in range(20)])
    selected, a = labels != -100, ord("a") + 6
    assert (labels[selected] == a).all()
    assert (input_ids[~selected] == a).all()
    n = int(selected.sum())
    assert_binomial(n, 40000, mask_prob)
    assert_binomial(int((input_ids[selected] == 3).sum()), n, 0.8)
    assert_binomial(int((input_ids[selected] == a).sum()), n, 0.1 + 0.1 / 256)


def test_random_tokens_are_every_token_but_the_special_ones(fast_tokenizer):
    ids = np.full(4000, 8)
    item = {"input_ids": ids, "word_ids": np.arange(4000), "index": 0, "epoch": 0}
    for collator in COLLATORS:
        _, input_ids, _ = collator(fast_tokenizer, 0.9)([item])
        assert set(input_ids.unique().tolist()) == {4, *range(5, 18)}  # the mask token and what is not special


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.sampled_from(COLLATORS), st.integers(0, 2**63))
@settings(max_examples=40)
def test_what_holds_for_every_batch(texts, collator, seed):
    examples = [example(text, index, add_special_tokens=True) for index, text in enumerate(texts)]
    labels, input_ids, pad_mask = collator(BYTES, 0.3, seed=seed)(examples)
    assert labels.dtype == input_ids.dtype == torch.int64
    assert pad_mask.dtype == torch.bool
    assert labels.shape == input_ids.shape == pad_mask.shape == (len(texts), max(len(e["input_ids"]) for e in examples))
    for i, one in enumerate(examples):
        n = len(one["input_ids"])
        assert pad_mask[i].tolist() == [False] * n + [True] * (pad_mask.shape[1] - n)
        assert (input_ids[i, n:] == BYTES.pad_token_id).all()
        original, selected = torch.from_numpy(one["input_ids"]), labels[i, :n] != -100
        assert (labels[i, n:] == -100).all()
        assert torch.equal(labels[i, :n][selected], original[selected])
        assert torch.equal(input_ids[i, :n][~selected], original[~selected])
        assert not selected[torch.from_numpy(one["word_ids"] < 0)].any()  # special tokens
        if collator is WordMaskingCollator:
            for word in np.unique(one["word_ids"]):
                assert len(selected[torch.from_numpy(one["word_ids"] == word)].unique()) == 1


def test_words_do_not_merge_between_examples():
    """Examples without a word start at their first token, each the rest of a cut word."""
    ids = np.full(3, 70)
    examples = [{"input_ids": ids, "word_ids": np.zeros(3, np.int64), "index": i, "epoch": 0} for i in range(500)]
    labels, _, _ = WordMaskingCollator(BYTES, 0.5)(examples)
    selected = (labels != -100).sum(dim=1)
    assert set(selected.tolist()) == {0, 3}
    assert_binomial(int((selected == 3).sum()), 500, 0.5)


@pytest.mark.parametrize("collator", COLLATORS)
def test_masks_depend_on_seed_epoch_and_example_only(collator):
    a, b = example(TEXT, index=7, epoch=2), example(TEXT, index=8, epoch=2)
    mask = collator(BYTES)
    first = mask([a, b])
    assert equal(mask([a, b]), first)
    assert equal(mask([b, a]), tuple(tensor.flip(0) for tensor in first))
    assert not torch.equal(first[0][0], first[0][1])
    for other in (mask([{**a, "epoch": 3}]), mask([{**a, "index": 9}]), collator(BYTES, seed=1)([a])):
        assert not torch.equal(other[0][0], first[0][0])


def test_static_masks_are_those_of_epoch_0():
    static, dynamic = WordMaskingCollator(BYTES, static=True), WordMaskingCollator(BYTES)
    assert equal(static([example(TEXT, 7, epoch=5)]), dynamic([example(TEXT, 7, epoch=0)]))


@pytest.mark.parametrize("collator", COLLATORS)
def test_masks_do_not_depend_on_batching(collator):
    """With two words per example, most examples have no label."""
    mask, examples = collator(BYTES, 0.05), [example("two words", index) for index in range(50)]
    alone = [torch.cat(tensors) for tensors in zip(*(mask([one]) for one in examples), strict=True)]
    assert equal(mask(examples), tuple(alone))
    assert 0 < int((alone[0] != -100).any(dim=1).sum()) < 40


@pytest.mark.parametrize("side", ["left", "right"])
def test_default_collator_pads(side):
    """Shapes as in the recorded cases `default_collator_clm` and `default_collator_clf`; padded labels are ignored."""
    examples = [{"input_ids": [10, 11, 12], "label_ids": [11, 12, 13]}, {"input_ids": [4, 5], "label_ids": [5, 6]}]
    labels, input_ids, pad_mask = DefaultCollator(BYTES, side)(examples)
    assert input_ids.tolist() == [[10, 11, 12], [0, 4, 5] if side == "left" else [4, 5, 0]]
    assert labels.tolist() == [[11, 12, 13], [-100, 5, 6] if side == "left" else [5, 6, -100]]
    assert pad_mask[1].tolist() == ([True, False, False] if side == "left" else [False, False, True])


@pytest.mark.parametrize("side", ["left", "right"])
def test_recorded_causal_batches(side):
    """The recorded cases `default_collator_clm` and `default_collator_clm_left`, but that padded labels are ignored."""
    starts = {10: 3, 20: 10}
    examples = [
        {"input_ids": list(range(start, start + n)), "label_ids": list(range(start + 1, start + n + 1))}
        for start, n in starts.items()
    ]
    labels, input_ids, pad_mask = DefaultCollator(BYTES, side)(examples)
    pads, recorded = [0] * 7, {"input_ids": [10, 11, 12], "labels": [11, 12, 13], "attention_mask": [1, 1, 1]}
    rows = {name: [*pads, *row] if side == "left" else [*row, *pads] for name, row in recorded.items()}
    assert input_ids.tolist() == [rows["input_ids"], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]]
    assert (~pad_mask).long().tolist() == [rows["attention_mask"], [1] * 10]
    assert labels.where(~pad_mask, 0).tolist() == [rows["labels"], [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]]
    assert (labels[pad_mask] == -100).all()


def test_min_width():
    examples = [{"input_ids": [10], "label_ids": [11]}, {"input_ids": [4, 5, 6], "label_ids": [5, 6, 7]}]
    pad = DefaultCollator(BYTES, "left", min_width=2)
    assert pad(examples[:1])[0].tolist() == [[-100, 11]]
    assert pad(examples[:1])[1].tolist() == [[0, 10]]
    assert pad(examples[:1])[2].tolist() == [[True, False]]
    assert pad(examples)[1].tolist() == [[0, 0, 10], [4, 5, 6]]


def test_padding_side_is_the_tokenizers_by_default():
    examples = [{"input_ids": [10, 11], "label_ids": [11, 12]}, {"input_ids": [4], "label_ids": [5]}]
    for side, row in (("left", [0, 4]), ("right", [4, 0])):
        assert DefaultCollator(PerceiverTokenizer(padding_side=side))(examples)[1][1].tolist() == row


@pytest.mark.parametrize("collator", COLLATORS)
def test_masked_batches_are_padded_on_the_right(collator):
    _, _, pad_mask = collator(PerceiverTokenizer(padding_side="left"))([example("abc"), example("a", 1)])
    assert pad_mask.tolist() == [[False, False, False], [False, True, True]]


def test_bad_input(fast_tokenizer):
    for mask_prob in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"mask_prob={mask_prob} must be in \(0, 1\)"):
            WordMaskingCollator(BYTES, mask_prob)
    with pytest.raises(ValueError, match="seed=-1 must be at least 0"):
        WordMaskingCollator(BYTES, seed=-1)
    fast_tokenizer.mask_token = None
    fast_tokenizer.name_or_path = "my/tokenizer"
    with pytest.raises(ValueError, match="'my/tokenizer' has no mask token"):
        WordMaskingCollator(fast_tokenizer)
    fast_tokenizer.pad_token = None
    with pytest.raises(ValueError, match="'my/tokenizer' has no padding token"):
        DefaultCollator(fast_tokenizer)
