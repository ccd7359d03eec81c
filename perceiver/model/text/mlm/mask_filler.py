"""Fills masks in text: what a masked language model says, for training logs and for users of the backend model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from perceiver.model.text.common.backend import labelled_positions
from perceiver.model.text.mlm.backend import MaskedLanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK = "<mask>"


@torch.no_grad()
def fill_masks(
    model: MaskedLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[str],
    num_predictions: int = 3,
    *,
    add_special_tokens: bool = False,
) -> list[list[str]]:
    """Fills the masks in each of `samples`, decoding masked positions only.

    Args:
        model: Masked language model, used in the mode (training or not) that it is in.
        tokenizer: The model's tokenizer.
        samples: Texts in which `<mask>`, or the tokenizer's own mask token, stands for a masked token.
        num_predictions: Number of filled texts per sample. The i-th has the i-th best token at every mask.
        add_special_tokens: Whether the model was trained with the tokenizer's special tokens around its texts.

    Returns:
        For each sample its `num_predictions` filled texts, best first, without special tokens.

    Raises:
        ValueError: if the tokenizer has no mask token or `num_predictions` is not in [1, vocabulary size].
    """
    if tokenizer.mask_token is None:
        raise ValueError(f"{type(tokenizer).__name__} has no mask token")
    vocab_size = model.config.decoder.vocab_size
    if not 1 <= num_predictions <= vocab_size:
        raise ValueError(f"num_predictions={num_predictions} must be in [1, {vocab_size}]")
    if not samples:
        return []
    texts = [sample.replace(MASK, tokenizer.mask_token) for sample in samples]
    encoding = tokenizer(
        texts, padding=True, padding_side="right", add_special_tokens=add_special_tokens, return_tensors="pt"
    )
    device = next(model.parameters()).device
    input_ids, pad_mask = encoding["input_ids"].to(device), ~encoding["attention_mask"].bool().to(device)
    masked = input_ids == tokenizer.mask_token_id
    positions, labels = labelled_positions(torch.where(masked, input_ids, -100), input_ids)  # B P
    logits = model(input_ids, pad_mask, output_positions=positions)
    best = logits.topk(num_predictions, dim=-1).indices  # B P predictions
    filled: list[list[str]] = [[] for _ in samples]
    for i in range(num_predictions):
        predicted = torch.where(labels != -100, best[..., i], input_ids.gather(1, positions))
        completed = tokenizer.batch_decode(input_ids.scatter(1, positions, predicted), skip_special_tokens=True)
        for texts_of_sample, text in zip(filled, completed, strict=True):
            texts_of_sample.append(text)
    return filled
