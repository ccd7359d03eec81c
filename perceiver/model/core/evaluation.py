"""Scoring whole sequences with a causal sequence model (Perceiver AR, arXiv 2202.07765), longer ones than it can see.

A window of `max_seq_len` tokens slides over a sequence (arXiv 2012.15832, section 3.1: sliding window inference). Each
window scores its last `stride` tokens, which no window before it has scored:

    tokens    0 1 2 3 4 5 6 7 8 9        max_seq_len 6, max_latents 3, stride 2
    window 1  s s s                      prefix and latents grow while there are few tokens
    window 2  p p l s s                  p prefix, l latent, s latent whose prediction is scored
    window 3    p p p l s s
    window 4        p p p l s s

So every token but the first, which nothing precedes, is scored once. All windows have as many latents and then as much
prefix as the model allows. A token is predicted from `max_seq_len` - `stride` + 1 tokens or more, if there are so many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import check_range
from perceiver.model.core.perceiver_ar import CausalSequenceModel
from perceiver.model.core.sampling import evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """Score of one or more sequences.

    Attributes:
        nats: Sum of the cross-entropies of all scored tokens.
        num_tokens: Number of scored tokens.
    """

    nats: float
    num_tokens: int

    @property
    def bits_per_token(self) -> float:
        return self.nats / math.log(2) / self.num_tokens

    @property
    def perplexity_per_token(self) -> float:
        return perplexity(self.nats, self.num_tokens)


def perplexity(nats: float, num_units: int) -> float:
    """exp(nats / num_units), infinite where no float is large enough or there are no units."""
    try:
        return math.exp(nats / num_units)
    except (OverflowError, ZeroDivisionError):
        return math.inf


def evaluate_tokens(
    model: CausalSequenceModel,
    sequences: Iterable[Tensor],
    *,
    stride: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Scores all tokens of `sequences` but the first of each. Arguments and errors as in `score_tokens`.

    Args:
        progress: Called after each window with the number of tokens scored so far.
    """
    nats, num_tokens = 0.0, 0
    for scores in score_tokens(model, sequences, stride=stride, batch_size=batch_size):
        nats += scores.sum(dtype=torch.float64).item()
        num_tokens += len(scores)
        if progress is not None:
            progress(num_tokens)
    if num_tokens == 0:
        raise ValueError("there is nothing to score: no sequence has two tokens or more")
    return Evaluation(nats, num_tokens)


def score_tokens(
    model: CausalSequenceModel, sequences: Iterable[Tensor], *, stride: int | None = None, batch_size: int = 8
) -> Iterator[Tensor]:
    """Cross-entropy in nats of each token but the first of each sequence.

    Args:
        model: The model, which is in evaluation mode while it is used.
        sequences: Token ids (n,), on any device, of any integer dtype. They are read one after the other.
        stride: Number of tokens that a window scores. Default and maximum: `max_latents`. Smaller ones take longer, and
            their tokens are predicted from more.
        batch_size: Number of windows that the model sees at once. The scores don't depend on it.

    Yields:
        Scores (k,) of the next k <= `max_latents` tokens of a sequence, in the order of the text, on the CPU.
    """
    stride = model.max_latents if stride is None else stride
    if not 1 <= stride <= model.max_latents:
        raise ValueError(f"stride={stride} must be in [1, max_latents={model.max_latents}]")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    windows = (
        (tokens[window.start : window.end + 1], window.num_scored)
        for tokens in sequences
        for window in sequence_windows(_num_tokens(tokens) - 1, model.max_seq_len, model.max_latents, stride)
    )
    while batch := list(islice(windows, batch_size)):
        yield from _score(model, batch)


def _num_tokens(tokens: Tensor) -> int:
    if tokens.ndim != 1 or tokens.is_floating_point():
        raise ValueError(f"a sequence is {tokens.dtype} {tuple(tokens.shape)}, expected integers (sequence length,)")
    return len(tokens)


@dataclass(frozen=True)
class Window:
    """Input positions `start` to `end` - 1, of which the last `num_scored` predict tokens that are scored."""

    start: int
    end: int
    num_scored: int


def sequence_windows(num_inputs: int, max_seq_len: int, max_latents: int, stride: int) -> Iterator[Window]:
    """The windows that score each of `num_inputs` positions once, in order."""
    end = 0
    while end < num_inputs:
        # without a prefix, what a position sees does not depend on where the window ends
        num_scored = min(stride if end else max_latents, num_inputs - end)
        end += num_scored
        yield Window(max(end - max_seq_len, 0), end, num_scored)


@torch.no_grad()
def _score(model: CausalSequenceModel, batch: list[tuple[Tensor, int]]) -> list[Tensor]:
    """Windows, each its inputs and one more token, and how many of their last tokens to score -> their scores"""
    width = max(len(tokens) for tokens, _ in batch) - 1
    x = torch.zeros(len(batch), width, dtype=torch.int64)  # B M+N
    pad_mask = torch.ones_like(x, dtype=torch.bool)
    labels = []
    for i, (tokens, num_scored) in enumerate(batch):
        tokens = tokens.to("cpu", torch.int64)
        check_range("tokens", tokens, model.config.vocab_size)
        x[i, width - len(tokens) + 1 :] = tokens[:-1]
        pad_mask[i, width - len(tokens) + 1 :] = False
        labels.append(tokens[-num_scored:])
    device = model.txt_embedding.weight.device
    with evaluation_mode(model):
        latents = model.latents(
            x.to(device), max(width - model.max_latents, 0), pad_mask.to(device) if pad_mask.any() else None
        )  # B N D
    scores = []
    for i, targets in enumerate(labels):  # one window after the other: logits are large
        logits = model.logits(latents[i : i + 1, -len(targets) :])[0].float()
        scores.append(nn.functional.cross_entropy(logits, targets.to(device), reduction="none").cpu())
    return scores
