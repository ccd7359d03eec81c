"""Sampling from a causal sequence model, without transformers (Perceiver AR, arXiv 2202.07765, appendix E).

A small loop for training logs and for users of the backend alone: a key/value cache, temperature, top-k and top-p
(nucleus) sampling. Beam search and all else is what the Hugging Face models are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from perceiver.checks import check_least
from perceiver.model.core.causal import CausalSequenceModel, prompt_prefix_len
from perceiver.model.core.mask import check_pad_mask


def sample(model: CausalSequenceModel, prompt: Tensor, max_new_tokens: int, **sampling: object) -> Tensor:
    """Continues prompts. Arguments and errors as in `sample_tokens`.

    Returns:
        Token ids (B, n + max_new_tokens)
    """
    tokens = list(sample_tokens(model, prompt, max_new_tokens, **sampling))  # type: ignore[arg-type]
    return torch.cat([prompt, torch.stack(tokens, dim=1)], dim=1)


def sample_tokens(
    model: CausalSequenceModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    num_latents: int | None = None,
    pad_mask: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continues prompts, a token at a time.

    Args:
        model: The model, which is in evaluation mode while it is used.
        prompt: Token ids (B, n). Of a longer prompt the last `max_seq_len` ones are used.
        max_new_tokens: Number of tokens.
        num_latents: Number of last prompt tokens that start as latents, see `prompt_prefix_len`.
        pad_mask: Boolean (B, n), True where there is padding, which must be on the left.
        temperature: Logits are divided by it. 0: always the most probable token.
        top_k: Only the k most probable tokens are sampled.
        top_p: Only the most probable tokens are sampled that make up this probability.
        generator: Source of random numbers.

    Yields:
        Next token ids (B,).

    Raises:
        ValueError: if an argument is out of range.
    """
    check_least(1, max_new_tokens=max_new_tokens)
    if top_k is not None:
        check_least(1, top_k=top_k)
    if not temperature >= 0.0 or (top_p is not None and not 0.0 < top_p <= 1.0):
        raise ValueError(f"temperature={temperature} must be at least 0, top_p={top_p} in (0, 1]")
    if not isinstance(prompt, Tensor) or prompt.ndim != 2:
        found = tuple(prompt.shape) if isinstance(prompt, Tensor) else type(prompt).__name__
        raise ValueError(f"prompt is {found}, expected a tensor (batch size, sequence length)")
    check_pad_mask(pad_mask, prompt.shape)
    if pad_mask is not None and pad_mask.all(dim=1).any():
        raise ValueError("a prompt is empty, every one must have at least one token besides padding")
    if pad_mask is not None and pad_mask[:, -1].any():
        raise ValueError("prompts are padded on the right, they must be padded on the left")
    max_seq_len, max_latents = model.max_seq_len, model.max_latents
    prefix_len = prompt_prefix_len(prompt.shape[1], num_latents, max_seq_len=max_seq_len, max_latents=max_latents)
    num_skipped = max(prefix_len - (max_seq_len - max_latents), 0)
    return _tokens(
        model,
        prompt[:, num_skipped:],
        max_new_tokens,
        prefix_len - num_skipped,
        None if pad_mask is None else pad_mask[:, num_skipped:],
        lambda logits: _next(logits, temperature, top_k, top_p, generator),
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of every module as it was afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _tokens(
    model: CausalSequenceModel,
    x: Tensor,
    max_new_tokens: int,
    prefix_len: int,
    pad_mask: Tensor | None,
    next_tokens: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    cache = model.new_cache(x.shape[1] + max_new_tokens - 1)
    for _ in range(max_new_tokens):
        # not around the yield: what the caller does in between is its own business
        with torch.no_grad(), evaluation_mode(model):
            logits = model(x, prefix_len, pad_mask, cache)[:, -1]
        tokens = next_tokens(logits.float())
        yield tokens
        x, prefix_len = tokens[:, None], 0
        if pad_mask is not None:
            pad_mask = torch.cat([pad_mask, pad_mask.new_zeros(len(x), 1)], dim=1)


def _next(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """Logits (B, vocabulary) -> token ids (B,)"""
    if temperature < torch.finfo(logits.dtype).tiny:  # 0 to a division
        return logits.argmax(dim=-1)
    logits, tokens = logits.sort(dim=-1, descending=True)
    logits, tokens = logits[:, :top_k], tokens[:, :top_k]
    probs = ((logits - logits[:, :1]) / temperature).softmax(dim=-1)  # of differences: quotients may be infinite
    if top_p is not None:
        probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= top_p, 0.0)  # the first one always stays
    return tokens.gather(1, torch.multinomial(probs, 1, generator=generator))[:, 0]
