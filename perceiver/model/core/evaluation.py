"""Scoring whole sequences with a causal sequence model (Perceiver AR, arXiv 2202.07765), longer ones than it can see.

A window of `max_seq_len` tokens slides over a sequence (arXiv 2012.15832, section 3.1: sliding window inference). Each
window scores its last `stride` tokens, which no window before it has scored:

    tokens    0 1 2 3 4 5 6 7 8 9        max_seq_len 6, max_latents 3, stride 2
    window 1  s s s                      prefix and latents grow while there are few tokens
    window 2  p p l s s                  p prefix, l latent, s latent whose prediction is scored
    window 3    p p p l s s
    window 4        p p p l s s

So every token but the first, which nothing precedes, is scored once. All windows have as many latents and then as much
prefix as the model allows; the last one is cut off where the sequence ends. So a score depends on what precedes the
token and on nothing that follows it, not even on the length of the sequence. A token is predicted from
`max_seq_len` - `stride` + 1 tokens or more, if there are so many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from perceiver.checks import check_integer, check_least
from perceiver.model.core.adapter import check_indices
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.mask import check_pad_mask
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
    check_integer(stride=stride)
    if not 1 <= stride <= model.max_latents:
        raise ValueError(f"stride={stride} must be in [1, max_latents={model.max_latents}]")
    check_least(1, batch_size=batch_size)
    windows = (
        (tokens[window.start : window.end + 1], window)
        for tokens in sequences
        for window in sequence_windows(_num_tokens(tokens) - 1, model.max_seq_len, model.max_latents, stride)
    )
    while batch := list(islice(windows, batch_size)):
        yield from _score(model, batch)


def _num_tokens(tokens: Tensor) -> int:
    if not isinstance(tokens, Tensor):
        raise ValueError(f"a sequence is a {type(tokens).__name__}, it must be a tensor")
    if tokens.ndim != 1 or tokens.is_floating_point():
        raise ValueError(f"a sequence is {tokens.dtype} {tuple(tokens.shape)}, expected integers (sequence length,)")
    return len(tokens)


@dataclass(frozen=True)
class Window:
    """Input positions `start` to `end` - 1. The first `prefix_len` are prefix; what the last `num_scored` predict is
    scored."""

    start: int
    end: int
    prefix_len: int
    num_scored: int


def sequence_windows(num_inputs: int, max_seq_len: int, max_latents: int, stride: int) -> Iterator[Window]:
    """The windows that score each of `num_inputs` positions once, in order. `num_inputs` only cuts off the last one."""
    num_scored, end = 0, max_latents  # without a prefix, what a position sees does not depend on where the window ends
    while num_scored < num_inputs:
        start, stop = max(end - max_seq_len, 0), min(end, num_inputs)
        yield Window(start, stop, end - max_latents - start, stop - num_scored)
        num_scored, end = stop, end + stride


def sequence_latents(
    model: CausalSequenceModel,
    x: Tensor,
    pad_mask: Tensor | None = None,
    run: Callable[[Tensor, int, Tensor | None], tuple[Tensor, ...]] | None = None,
) -> tuple[Tensor, ...]:
    """Latents of all positions of a sequence of any length, a window of `max_latents` ones after the other.

    They are those that `score_tokens` makes scores of: a latent depends on the tokens up to its own and on its number,
    and on nothing that follows. Padding, anywhere, changes nothing.

    Args:
        model: The model.
        x: Tokens (B, n), or their embeddings (B, n, D).
        pad_mask: Boolean (B, n), True where `x` is padding.
        run: What to do with a window, its prefix length and its padding, in place of `model.latents`. All results have
            the shape of latents.

    Returns:
        The results of `run`, those of all windows together: (B, n, D) each.

    Raises:
        ValueError: if `pad_mask` has another shape than `x`, or is not boolean.
    """
    run = run or (lambda *window: (model.latents(*window),))
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    check_pad_mask(pad_mask, x.shape[:2])
    if pad_mask is not None:  # windows are counted from the first token: padding goes behind the last one
        order = pad_mask.to(torch.uint8).argsort(dim=1, stable=True)
        x, pad_mask = x[rows, order], pad_mask.gather(1, order)
    parts = []
    for window in sequence_windows(x.shape[1], model.max_seq_len, model.max_latents, model.max_latents):
        seen = slice(window.start, window.end)
        results = run(x[:, seen], window.prefix_len, None if pad_mask is None else pad_mask[:, seen])
        parts.append([result[:, -window.num_scored :] for result in results])
    whole = tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return whole if pad_mask is None else tuple(result[rows, order.argsort(dim=1)] for result in whole)


@torch.no_grad()
def _score(model: CausalSequenceModel, batch: list[tuple[Tensor, Window]]) -> list[Tensor]:
    """The tokens of windows, each with the one that follows -> their scores"""
    prefix_len = max(window.prefix_len for _, window in batch)
    width = prefix_len + max(window.end - window.start - window.prefix_len for _, window in batch)
    x = torch.zeros(len(batch), width, dtype=torch.int64)  # B M+N
    pad_mask = torch.ones_like(x, dtype=torch.bool)
    scored = []
    for i, (tokens, window) in enumerate(batch):
        tokens = tokens.to("cpu", torch.int64)
        check_indices("tokens", tokens, model.config.vocab_size)
        start = prefix_len - window.prefix_len  # all windows have their first latent in the same place
        end = start + len(tokens) - 1
        x[i, start:end] = tokens[:-1]
        pad_mask[i, start:end] = False
        scored.append((end - prefix_len, tokens[-window.num_scored :]))
    device = model.txt_embedding.weight.device
    with evaluation_mode(model):
        latents = model.latents(x.to(device), prefix_len, pad_mask.to(device) if pad_mask.any() else None)  # B N D
    scores = []
    for i, (end, targets) in enumerate(scored):  # one window after the other: logits are large
        logits = model.logits(latents[i : i + 1, end - len(targets) : end])[0].float()
        scores.append(nn.functional.cross_entropy(logits, targets.to(device), reduction="none").cpu())
    return scores
