"""The base of the text data modules.

A leaf says where raw text comes from (`identity` and `load`). Everything else is here, in this order:

1. `prepare_data` tokenises the splits once, into `<dataset_dir>/<key>/` (`corpus.py`). The key covers everything that
   changes the result: the leaf's `identity`, the tokenizer's content, `add_special_tokens`, the format version.
   A second run finds the folder and starts at once; a folder exists only if it is complete.
2. `setup` maps the splits as chunks of `max_seq_len` tokens, plus one where the next token is to be predicted.
3. The loaders serve batches `(labels, input_ids, pad_mask)` (`collator.py`). What is random in them (masks, shifts,
   lengths) is drawn when they are loaded: anew in each epoch of training, but for masks with `static_masking`; always
   the same in validation and test, whose losses stay comparable.

Batches depend on `seed` and the epoch, not on the number of workers (`loader.py`, `streams.py`).
"""

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from perceiver.data.text.collator import (
    DefaultCollator,
    MaskingCollator,
    PaddingSide,
    TokenMaskingCollator,
    WordMaskingCollator,
)
from perceiver.data.text.corpus import FORMAT_VERSION, TokenChunks, write_corpus
from perceiver.data.text.loader import EpochSampler, ResumableLoader
from perceiver.data.text.preprocessor import TextPreprocessor, check_text_arguments
from perceiver.data.text.streams import RECORDS, stream
from perceiver.data.text.tokenization import check_tokenizer, tokenizer_fingerprint


class Task(Enum):
    """What the batches are for. Published checkpoints hold this class under this name, with these values."""

    mlm = 0
    clm = 1
    clf = 2


class TextDataModule(pl.LightningDataModule):
    """Serves text for masked (task mlm) or causal (task clm) language modelling.

    Args:
        dataset_dir: folder for preprocessed text.
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: inputs per example; only the last example of a split may be shorter.
        task: what the batches are for: mlm, words to fill in, or clm, the next token at each position.
        mask_prob: mlm: share of words (or tokens) to predict, in (0, 1).
        mask_words: mlm: mask whole words; otherwise single tokens.
        static_masking: mlm: give each training example the same mask in every epoch.
        add_special_tokens: add what the tokenizer adds around a document, for example [CLS] and [SEP].
        padding_side: clm: "left", which is the default, or "right". mlm: "right", because masked language models count
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
        super().__init__()
        check_text_arguments(max_seq_len, padding_side)
        if task not in (Task.mlm, Task.clm):
            raise ValueError(f"task={task} is not supported by {type(self).__name__}, only {Task.mlm} and {Task.clm}")
        if task is Task.mlm and padding_side == "left":
            raise ValueError(
                f"padding_side='left' is not possible with task={task}: masked language models count positions from "
                "the left, so padding there would change their outputs"
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
        self.padding_side: PaddingSide = padding_side or ("left" if task is Task.clm else "right")
        # (random shift, random truncation) by split
        self.random_windows = {
            "train": (random_train_shift, random_train_truncation),
            "valid": (random_valid_shift, random_valid_truncation),
        }
        self.random_min_seq_len = random_min_seq_len
        self.preproc_batch_size = preproc_batch_size
        self.preproc_workers = preproc_workers
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.chunks: dict[str, TokenChunks] = {}
        self.num_bytes: dict[str, int] = {}

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
        self.num_bytes = json.loads((self.cache_dir / "num_bytes.json").read_text())
        self.chunks = {split: self._chunks(split) for split in self.num_bytes}

    def _chunks(self, split: str) -> TokenChunks:
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
        chunks = self._split("valid")
        if not -1 <= index < len(chunks):
            raise ValueError(f"validation record {index} must be in [0, {len(chunks)}), or -1 for a random one")
        if index == -1:
            step = self.trainer.global_step if self.trainer is not None else 0
            index = int(stream(RECORDS, self.seed, step, 0).integers(len(chunks)))
        return torch.from_numpy(chunks[index]["input_ids"])

    def collator(self, static: bool) -> MaskingCollator | DefaultCollator:
        """Makes batches of examples; `static` repeats the masks of the first epoch."""
        if self.task is Task.clm:
            # A model needs as many positions as it has latents, also where the short last example is alone.
            truncation = any(truncation for _, truncation in self.random_windows.values())
            min_width = self.random_min_seq_len if truncation else self.max_seq_len
            return DefaultCollator(self.tokenizer, self.padding_side, min_width=min_width)
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
        """Examples in the order of the text, always the same."""
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
