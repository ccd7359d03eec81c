"""Fills masks in text: what a masked language model says, for training logs and for users of the backend model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perceiver.model.text.common.backend import labelled_positions
from perceiver.model.text.mlm.backend import MaskedLanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from perceiver.processing.text import TextPreprocessor

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
    vocab_size = model.config.decoder.vocab_size
    if not 1 <= num_predictions <= vocab_size:
        raise ValueError(f"num_predictions={num_predictions} must be in [1, {vocab_size}]")
    texts = with_mask_tokens(samples, tokenizer)
    if not texts:
        return []
    encoding = tokenizer(
        texts, padding=True, padding_side="right", add_special_tokens=add_special_tokens, return_tensors="pt"
    )
    device = next(model.parameters()).device
    input_ids, pad_mask = encoding["input_ids"].to(device), ~encoding["attention_mask"].bool().to(device)
    masked = input_ids == tokenizer.mask_token_id
    positions, labels = labelled_positions(torch.where(masked, input_ids, -100), input_ids)  # B P
    logits = model(input_ids, pad_mask, output_positions=positions)
    best = logits.topk(num_predictions, dim=-1).indices  # B P predictions
    best = torch.where((labels != -100)[..., None], best, input_ids.gather(1, positions)[..., None])
    filled = [input_ids.scatter(1, positions, best[..., i]) for i in range(num_predictions)]
    return _texts(filled, tokenizer)


class MaskFiller:
    """Fills masks with any model of (input_ids, pad_mask), each (B, n), that returns logits (B, n, vocabulary).

    `fill_masks` does the same with less work, for a `MaskedLanguageModel`.

    Args:
        preprocessor: The model's.
    """

    def __init__(self, preprocessor: TextPreprocessor):
        self.preprocessor = preprocessor

    @torch.no_grad()
    def fill(
        self, model: Callable[[Tensor, Tensor], Tensor], samples: Sequence[str], num_predictions: int
    ) -> tuple[list[str], list[list[str]]]:
        """Fills the masks in each of `samples`, in which `<mask>` or the tokenizer's own mask token stands for one.

        Returns:
            The samples with the tokenizer's mask token, and for each its `num_predictions` filled texts, best first.

        Raises:
            ValueError: if the tokenizer has no mask token.
        """
        tokenizer = self.preprocessor.tokenizer
        texts = with_mask_tokens(samples, tokenizer)
        input_ids, pad_mask = self.preprocessor.preprocess_batch(texts)
        parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
        device = next((parameter.device for parameter in parameters), input_ids.device)
        input_ids, pad_mask = input_ids.to(device), pad_mask.to(device)
        best = model(input_ids, pad_mask).topk(num_predictions, dim=-1).indices  # B n predictions
        masked = input_ids == tokenizer.mask_token_id
        filled = [torch.where(masked, best[..., i], input_ids) for i in range(num_predictions)]
        return texts, _texts(filled, tokenizer)


def with_mask_tokens(samples: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The samples with the tokenizer's mask token in place of `<mask>`.

    Raises:
        TypeError: if `samples` is a text, which would be as many samples as it has characters.
        ValueError: if the tokenizer has no mask token.
    """
    if isinstance(samples, str):
        raise TypeError("samples is a string, it must be a sequence of strings")
    if tokenizer.mask_token is None:
        raise ValueError(f"{type(tokenizer).__name__} has no mask token")
    return [sample.replace(MASK, tokenizer.mask_token) for sample in samples]


def _texts(filled: Sequence[Tensor], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """For each sample its texts, one of each (B, n) in `filled`."""
    texts = [tokenizer.batch_decode(input_ids, skip_special_tokens=True) for input_ids in filled]
    return [list(of_sample) for of_sample in zip(*texts, strict=True)]
