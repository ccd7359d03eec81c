"""The base of the text data modules.

A leaf says where raw text comes from (`identity` and `load`). Everything else is here, in this order:

1. `prepare_data` tokenises the splits once, into `<dataset_dir>/<key>/` (`corpus.py`). The key covers everything that
   changes the result: the leaf's `identity`, the tokenizer's content, `add_special_tokens`, the format version.
   A second run finds the folder and starts at once; a folder exists only if it is complete.
2. `setup` maps the splits as chunks of `max_seq_len` tokens.
3. The loaders serve batches `(labels, input_ids, pad_mask)` (`collator.py`), masked when they are loaded: anew in each
   epoch, or always the same with `static_masking` and in validation and test, whose losses stay comparable.

Batches depend on `seed` and the epoch, not on the number of workers (`loader.py`, `collator.py`).
"""

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from perceiver.data.text.collator import MaskingCollator, TokenMaskingCollator, WordMaskingCollator
from perceiver.data.text.corpus import FORMAT_VERSION, TokenChunks, write_corpus
from perceiver.data.text.loader import EpochSampler, ResumableLoader
from perceiver.data.text.preprocessor import TextPreprocessor, check_text_arguments
from perceiver.data.text.tokenization import check_tokenizer, tokenizer_fingerprint


class Task(Enum):
    """What the batches are for. Published checkpoints hold this class under this name, with these values."""

    mlm = 0
    clm = 1
    clf = 2


class TextDataModule(pl.LightningDataModule):
    """Serves text for masked language modelling.

    Args:
        dataset_dir: folder for preprocessed text.
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: tokens per example; only the last example of a split may be shorter.
        task: what the batches are for; `mlm` is the one that exists.
        mask_prob: share of words (or tokens) to predict, in (0, 1).
        mask_words: mask whole words; otherwise single tokens.
        static_masking: give each training example the same mask in every epoch.
        add_special_tokens: add what the tokenizer adds around a document, for example [CLS] and [SEP].
        padding_side: "right" or None, which is the same: masked language models count positions from the left.
        preproc_batch_size: documents that a preprocessing worker holds in memory.
        preproc_workers: preprocessing processes.
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of order and masks, not negative.

    Raises:
        ValueError: if an argument is out of range or the task is not supported.
    """

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
        padding_side: Literal["left", "right"] | None = None,
        preproc_batch_size: int = 1000,
        preproc_workers: int = 1,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        check_text_arguments(max_seq_len, padding_side)
        if task is not Task.mlm:
            raise ValueError(f"task={task} is not supported by {type(self).__name__}, only {Task.mlm}")
        if padding_side == "left":
            raise ValueError(
                f"padding_side='left' is not possible with task={task}: masked language models count positions from "
                "the left, so padding there would change their outputs"
            )
        if not 0 < mask_prob < 1:
            raise ValueError(f"mask_prob={mask_prob} must be in (0, 1)")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.dataset_dir = Path(dataset_dir)
        self.tokenizer_source = tokenizer
        self.max_seq_len = max_seq_len
        self.task = task
        self.mask_prob = mask_prob
        self.mask_words = mask_words
        self.static_masking = static_masking
        self.add_special_tokens = add_special_tokens
        self.padding_side: Literal["right"] = "right"
        self.preproc_batch_size = preproc_batch_size
        self.preproc_workers = preproc_workers
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.chunks: dict[str, TokenChunks] = {}

    def identity(self) -> dict[str, Any]:
        """What tells this raw text from other raw text, as JSON values: part of the cache key."""
        raise NotImplementedError

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        """Reads the raw text.

        Args:
            work_dir: for intermediate files; deleted afterwards.

        Returns:
            Splits "train", "valid" and possibly "test", each with a document per row in column `text`.
        """
        raise NotImplementedError

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.tokenizer_source)
        check_tokenizer(tokenizer)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)  # `tokenizer.vocab_size` leaves out PerceiverTokenizer's special tokens

    def text_preprocessor(self) -> TextPreprocessor:
        """Preprocesses text for inference with the settings of this module."""
        return TextPreprocessor(self.tokenizer, self.max_seq_len, self.add_special_tokens, self.padding_side)

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "data": {"class": type(self).__name__, **self.identity()},
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "add_special_tokens": self.add_special_tokens,
        }

    @property
    def cache_dir(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.cache_key, sort_keys=True).encode()).hexdigest()
        return self.dataset_dir / digest[:16]

    def prepare_data(self) -> None:
        self.collator(static=True)  # an unfit tokenizer is an error now, not after preprocessing
        if not self.cache_dir.is_dir():
            write_corpus(
                self.cache_dir,
                self.cache_key,
                self.load,
                self.tokenizer,
                add_special_tokens=self.add_special_tokens,
                batch_size=self.preproc_batch_size,
                num_workers=self.preproc_workers,
            )

    def setup(self, stage: str | None = None) -> None:
        if not self.cache_dir.is_dir():
            raise ValueError(f"{self.cache_dir} does not exist: call prepare_data() before setup()")
        splits = [path.name.removesuffix(".tokens.npy") for path in self.cache_dir.glob("*.tokens.npy")]
        self.chunks = {split: TokenChunks(self.cache_dir, split, self.max_seq_len) for split in splits}

    def collator(self, static: bool) -> MaskingCollator:
        collator = WordMaskingCollator if self.mask_words else TokenMaskingCollator
        return collator(self.tokenizer, self.mask_prob, seed=self.seed, static=static)

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._fixed_dataloader("train", self.batch_size)  # the same few batches in every epoch
        chunks = self._split("train")
        sampler = EpochSampler(
            chunks,
            num_replicas=trainer.world_size if trainer is not None else 1,
            rank=trainer.global_rank if trainer is not None else 0,
            seed=self.seed,
        )
        return ResumableLoader(
            chunks,
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=self.collator(self.static_masking),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self._fixed_dataloader("valid", self.valid_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._fixed_dataloader("test", self.valid_batch_size)

    def _fixed_dataloader(self, split: str, batch_size: int) -> DataLoader[Any]:
        """Examples in the order of the text, always with the same masks."""
        return DataLoader(
            self._split(split),
            batch_size=batch_size,
            collate_fn=self.collator(static=True),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
        )

    def _split(self, split: str) -> TokenChunks:
        if split not in self.chunks:
            raise ValueError(f"{type(self).__name__} has no split {split!r}, only {sorted(self.chunks)}")
        return self.chunks[split]
