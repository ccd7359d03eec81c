"""The data modules of texts: masked and causal language modelling, and classification.

A leaf says where raw text comes from (`identity` and `load`) and for which tasks it is (`tasks`). `base.py` has the
cache and the loaders; here is what the tasks differ in:

    mlm  chunks of `max_seq_len` tokens, masked
    clm  chunks of `max_seq_len` + 1 tokens; labels are the next tokens
    clf  documents, each cut to `max_seq_len` tokens, with a label each

What is random in examples (masks, shifts, lengths) is new in each epoch of training, but for masks with
`static_masking`, and always the same in validation and test, whose losses stay comparable.
"""

from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

import datasets
import torch
from torch import Tensor

from perceiver.data.streams import RECORDS, stream
from perceiver.data.text.base import CachedTextDataModule
from perceiver.data.text.collator import (
    DefaultCollator,
    MaskingCollator,
    TokenMaskingCollator,
    WordMaskingCollator,
)
from perceiver.data.text.corpus import Encoder, LabelledDocuments, TokenChunks
from perceiver.data.text.encoders import DocumentEncoder, TextEncoder
from perceiver.processing.text import PaddingSide
from perceiver.processing.tokenization import special_ids


class Task(Enum):
    """What the batches are for. Published checkpoints hold this class under this name, with these values."""

    mlm = 0
    clm = 1
    clf = 2


class TextDataModule(CachedTextDataModule[TokenChunks | LabelledDocuments]):
    """Serves text for masked (task mlm) or causal (task clm) language modelling, or for classification (task clf).

    Args:
        dataset_dir: folder for preprocessed text.
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: inputs per example; mlm, clm: only the last example of a split may be shorter. clf: documents are
            cut to it on the right.
        task: what the batches are for: mlm, words to fill in, clm, the next token at each position, or clf, the class
            of a document.
        mask_prob: mlm: share of words (or tokens) to predict, in (0, 1).
        mask_words: mlm: mask whole words; otherwise single tokens.
        static_masking: mlm: give each training example the same mask in every epoch.
        add_special_tokens: add what the tokenizer adds around a document, for example [CLS] and [SEP].
        padding_side: clm: "left", which is the default, or "right". mlm, clf: "right", because these models count
            positions from the left.
        random_train_shift: start each training example at a random token of its chunk; it goes on in the next chunk.
        random_valid_shift: the same for validation examples, with the same shifts in every epoch.
        random_train_truncation: cut each training example on the right to a random length from `random_min_seq_len`
            to `max_seq_len` - 1.
        random_valid_truncation: the same for validation examples, with the same lengths in every epoch.
        random_min_seq_len: the shortest of these lengths, at least 1 and less than `max_seq_len`.
        preproc_batch_size: documents that a preprocessing worker holds in memory.
        preproc_workers: preprocessing processes.
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Raises:
        ValueError: if an argument is out of range, arguments contradict each other or the task is not supported.
    """

    tasks: ClassVar[tuple[Task, ...]] = (Task.mlm, Task.clm)
    given_label_names: list[str] | None = None  # of a leaf that knows them

    def __init__(
        self,
        dataset_dir: str,
        tokenizer: str,
        max_seq_len: int,
        task: Task = Task.mlm,
        mask_prob: float = 0.15,
        mask_words: bool = True,
        static_masking: bool = False,
        add_special_tokens: bool = False,
        padding_side: PaddingSide | None = None,
        random_train_shift: bool = False,
        random_valid_shift: bool = False,
        random_train_truncation: bool = False,
        random_valid_truncation: bool = False,
        random_min_seq_len: int = 16,
        preproc_batch_size: int = 1000,
        preproc_workers: int = 1,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__(
            dataset_dir,
            tokenizer,
            max_seq_len,
            add_special_tokens=add_special_tokens,
            padding_side=padding_side or ("left" if task is Task.clm else "right"),
            preproc_batch_size=preproc_batch_size,
            preproc_workers=preproc_workers,
            batch_size=batch_size,
            valid_batch_size=valid_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        if task not in self.tasks:
            names = " and ".join(str(task) for task in self.tasks)
            raise ValueError(f"task={task} is not supported by {type(self).__name__}, only {names}")
        if task is not Task.clm and padding_side == "left":
            raise ValueError(
                f"padding_side='left' is not possible with task={task}: its models count positions from the left, so "
                "padding there would change their outputs"
            )
        if not 0 < mask_prob < 1:
            raise ValueError(f"mask_prob={mask_prob} must be in (0, 1)")
        truncation = random_train_truncation or random_valid_truncation
        if truncation and not 1 <= random_min_seq_len < max_seq_len:
            raise ValueError(
                f"random_min_seq_len={random_min_seq_len} must be at least 1 and less than max_seq_len={max_seq_len}"
            )
        if task is Task.mlm and static_masking and (random_train_shift or random_train_truncation):
            raise ValueError(
                "static_masking=True gives each example the same mask in every epoch, and random_train_shift and "
                "random_train_truncation change the examples"
            )
        if task is Task.clf and (random_train_shift or random_valid_shift or truncation):
            raise ValueError(f"random shift and truncation are for chunks of text, and task={task} has documents")
        self.task = task
        self.mask_prob = mask_prob
        self.mask_words = mask_words
        self.static_masking = static_masking
        # (random shift, random truncation) by split
        self.random_windows = {
            "train": (random_train_shift, random_train_truncation),
            "valid": (random_valid_shift, random_valid_truncation),
        }
        self.random_min_seq_len = random_min_seq_len

    def corpus_kind(self) -> dict[str, Any]:
        if self.task is Task.clf:  # special tokens are added to examples
            return {"labels": "documents", "label_names": self.given_label_names}
        return {"labels": None, "add_special_tokens": self.add_special_tokens}

    def encoder(self, splits: Mapping[str, datasets.Dataset]) -> Encoder:
        if self.task is Task.clf:
            return DocumentEncoder(self.tokenizer, splits, self.given_label_names)
        return TextEncoder(self.tokenizer, splits, self.add_special_tokens)

    def examples(self, split: str) -> TokenChunks | LabelledDocuments:
        if self.task is Task.clf:
            around = special_ids(self.tokenizer) if self.add_special_tokens else ((), ())
            return LabelledDocuments(self.cache_dir, split, self.max_seq_len, around)
        shift, truncation = self.random_windows.get(split, (False, False))
        return TokenChunks(
            self.cache_dir,
            split,
            self.max_seq_len,
            next_token=self.task is Task.clm,
            shift=shift,
            min_seq_len=self.random_min_seq_len if truncation else None,
            seed=self.seed,
        )

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the classes 0, 1, ... The text is preprocessed if the cache has to say what they are.

        Raises:
            ValueError: if the task is another than clf.
        """
        if self.task is not Task.clf:
            raise ValueError(f"task={self.task} has no classes, only {Task.clf} has")
        return self.given_label_names or self.cached_label_names()

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the validation text per token, None before `setup`.

        A loss of x nats per token is x / ln 2 / bytes_per_token bits per byte, which compare between tokenizers. They
        flatter a tokenizer that drops something, as XLNet's does with line breaks and accents.
        """
        return self.num_bytes["valid"] / len(self.chunks["valid"].tokens) if "valid" in self.chunks else None

    def validation_record(self, index: int = -1) -> Tensor:
        """Inputs (n,) of a validation example, int64, without padding: a prompt whose continuation is logged.

        Args:
            index: number of the example, or -1 for a random one, which is a function of `seed` and the trainer's step.

        Raises:
            ValueError: if there is no such example.
        """
        chunks = self.split_examples("valid", training=False)
        if not -1 <= index < len(chunks):
            raise ValueError(f"validation record {index} must be in [0, {len(chunks)}), or -1 for a random one")
        if index == -1:
            step = self.trainer.global_step if self.trainer is not None else 0
            index = int(stream(RECORDS, self.seed, step, 0).integers(len(chunks)))
        return torch.from_numpy(chunks[index]["input_ids"])

    def collator(self, static: bool) -> MaskingCollator | DefaultCollator:
        if self.task is Task.clf:
            return DefaultCollator(self.tokenizer, self.padding_side, min_width=1)
        if self.task is Task.clm:
            # A model needs as many positions as it has latents, also where all examples of a batch are short.
            return DefaultCollator(self.tokenizer, self.padding_side, min_width=self.max_seq_len)
        collator = WordMaskingCollator if self.mask_words else TokenMaskingCollator
        return collator(self.tokenizer, self.mask_prob, seed=self.seed, static=static)

    def train_collator(self) -> MaskingCollator | DefaultCollator:
        return self.collator(self.static_masking)
