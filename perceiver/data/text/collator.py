"""Collators: a list of examples -> a batch `(labels, input_ids, pad_mask)`, each (B, n); labels of documents are (B,).

`input_ids` and `labels` are int64, labels are -100 where nothing is predicted; `pad_mask` is True at padding. Examples
that are `repeated` have no labels: they count in another process (`loader.py`).

Masking is a pure function of (seed, epoch, index of the example): each example has its own stream of random numbers
(`streams.py`), so its mask depends neither on the number of workers, nor on what was loaded before, nor on the other
examples of its batch.
A static collator takes epoch 0 for every epoch: every example keeps the mask it was given first. That is masking once
in preprocessing, without storing the result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from perceiver.checks import check_least, check_share
from perceiver.data.examples import IGNORE
from perceiver.data.streams import MASKS, stream
from perceiver.moved import moved_names
from perceiver.processing.text import PaddingSide
from perceiver.processing.tokenization import tokenizer_name

__getattr__ = moved_names(__name__)

# Of what is selected; the rest stays as it is (BERT, arXiv 1810.04805, section 3.1).
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1

Example = Mapping[str, Any]
Batch = tuple[Tensor, Tensor, Tensor]
Ids = npt.NDArray[np.int64]


class DefaultCollator:
    """Pads `input_ids` and `label_ids` of the examples to the longest one, or stacks their `label`.

    Args:
        tokenizer: gives the padding token and, unless `padding_side` does, the padding side.
        padding_side: "left" or "right".
        min_width: pads to at least that many positions.

    Raises:
        ValueError: if the tokenizer has no padding token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, padding_side: PaddingSide | None = None, *, min_width: int = 0
    ):
        if tokenizer.pad_token_id is None:
            raise ValueError(f"{tokenizer_name(tokenizer)} has no padding token")
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.padding_side, self.min_width = padding_side or tokenizer.padding_side, min_width

    def __call__(self, examples: Sequence[Example]) -> Batch:
        lengths = np.array([len(example["input_ids"]) for example in examples])
        width = max(int(lengths.max()), self.min_width)
        first = width - lengths if self.padding_side == "left" else np.zeros_like(lengths)
        columns = np.arange(width) - first[:, None]  # B n: position in the example
        real = (columns >= 0) & (columns < lengths[:, None])

        input_ids = np.full(real.shape, self.pad_token_id, np.int64)
        input_ids[real] = np.concatenate([example["input_ids"] for example in examples])
        if "label" in examples[0]:
            labels = np.array([example["label"] for example in examples], np.int64)
        else:
            labels = np.full(real.shape, IGNORE, np.int64)
            labels[real] = np.concatenate([example["label_ids"] for example in examples])
        labels[[bool(example.get("repeated")) for example in examples]] = IGNORE
        return torch.from_numpy(labels), torch.from_numpy(input_ids), torch.from_numpy(~real)


class WordMaskingCollator:
    """Masks whole words.

    Each word is selected with `mask_prob`. Of the selected words 80 % become mask tokens, 10 % get a random token at
    each position, 10 % stay as they are; labels are set on all tokens of a selected word. Special tokens are never
    selected and never drawn. In a small batch chance may select nothing: all labels are -100.

    Batches are padded on the right, whatever the tokenizer's default is: masked language models count positions from
    the left, so padding there would change their outputs.

    Args:
        tokenizer: gives mask token, special tokens, vocabulary size, padding.
        mask_prob: in (0, 1).
        seed: of the random numbers, not negative.
        static: the same masks in every epoch.

    Raises:
        ValueError: if the tokenizer has no mask or padding token, or an argument is out of range.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, mask_prob: float = 0.15, *, seed: int = 0, static: bool = False
    ):
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{tokenizer_name(tokenizer)} has no mask token, which masking needs")
        check_share(mask_prob=mask_prob)
        check_least(0, seed=seed)
        self.pad = DefaultCollator(tokenizer, "right")
        self.mask_token_id = int(tokenizer.mask_token_id)
        self.ordinary_ids = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        self.mask_prob, self.seed, self.static = mask_prob, seed, static

    def units(self, word_ids: Ids) -> Ids:
        """Equal numbers for neighbours that are masked together, -1 for tokens that never are. (T,) -> (T,)."""
        return word_ids

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Examples are dicts of `input_ids` (n,), `word_ids` (n,) with -1 for special tokens, `index` and `epoch`."""
        # All arrays are flat: the T tokens of the batch, one example after the other.
        lengths = [len(example["input_ids"]) for example in examples]
        ends = np.cumsum(lengths)
        input_ids = np.concatenate([example["input_ids"] for example in examples])
        units = self.units(np.concatenate([example["word_ids"] for example in examples]))
        choice, kind, token = np.concatenate([self._draw(example) for example in examples], axis=1)

        starts = np.ones(len(units), bool)
        starts[1:] = units[1:] != units[:-1]
        starts[ends[:-1]] = True
        starts &= units >= 0

        # The first token's numbers decide for its unit. Tokens in no unit look up the last entry, by index -1.
        unit_of = np.where(units >= 0, np.cumsum(starts) - 1, -1)
        selected = np.append(choice[starts] < self.mask_prob, False)[unit_of]
        kind = np.append(kind[starts], 1.0)[unit_of]

        masked = selected & (kind < MASK_SHARE)
        randomised = selected & (kind >= MASK_SHARE) & (kind < MASK_SHARE + RANDOM_SHARE)
        random_ids = self.ordinary_ids[(token * len(self.ordinary_ids)).astype(np.int64)]
        labels = np.where(selected, input_ids, IGNORE)
        input_ids = np.where(masked, self.mask_token_id, np.where(randomised, random_ids, input_ids))

        rows = zip(examples, np.split(input_ids, ends[:-1]), np.split(labels, ends[:-1]), strict=True)
        return self.pad([{**example, "input_ids": ids, "label_ids": label_ids} for example, ids, label_ids in rows])

    def _draw(self, example: Example) -> npt.NDArray[np.float64]:
        """Three uniform numbers per token, (3, n)."""
        epoch = 0 if self.static else example["epoch"]
        return stream(MASKS, self.seed, epoch, example["index"]).random((3, len(example["input_ids"])))


class TokenMaskingCollator(WordMaskingCollator):
    """Masks single tokens."""

    def units(self, word_ids: Ids) -> Ids:
        return np.where(word_ids >= 0, np.arange(len(word_ids)), -1)
