"""What data modules with a cache share (`common.py`, `words.py`): preprocess once, serve batches.

1. `prepare_data` tokenises the splits once, into `<dataset_dir>/<key>/` (`corpus.py`). The key covers everything that
   changes the result: the leaf's `identity`, the tokenizer's content, what kind of corpus it is, the format version.
   A second run finds the folder and starts at once; a folder exists only if it is complete.
2. `setup` maps the splits as examples.
3. The loaders serve batches `(labels, input_ids, pad_mask)` (`collator.py`). What is random in them is drawn when they
   are loaded, and depends on `seed` and the epoch, not on the number of workers (`perceiver.data.loader`).
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import datasets
import pytorch_lightning as pl
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from perceiver.data.module import SplitLoaders
from perceiver.data.text.collator import Batch
from perceiver.data.text.corpus import FORMAT_VERSION, Encoder, Examples, check_corpus, write_corpus
from perceiver.processing.text import PaddingSide, TextPreprocessor, check_text_arguments
from perceiver.processing.tokenization import check_tokenizer, tokenizer_fingerprint

ExamplesT = TypeVar("ExamplesT", bound=Examples)
Collate = Callable[[Sequence[Any]], Batch]


class TokenizerDataModule(pl.LightningDataModule):
    """The tokenizer of a data module and what depends on it alone.

    Args:
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: inputs per example.
        add_special_tokens: add what the tokenizer adds around a document, for example [CLS] and [SEP].
        padding_side: "left" or "right".

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, tokenizer: str, max_seq_len: int, add_special_tokens: bool, padding_side: PaddingSide):
        super().__init__()
        check_text_arguments(max_seq_len, padding_side)
        self.tokenizer_source = tokenizer
        self.max_seq_len = max_seq_len
        self.add_special_tokens = add_special_tokens
        self.padding_side = padding_side

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


class CachedTextDataModule(SplitLoaders, TokenizerDataModule, Generic[ExamplesT]):
    """Preprocesses text once and serves batches of it.

    Args:
        dataset_dir: folder for preprocessed text.
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: inputs per example.
        add_special_tokens: add what the tokenizer adds around a document, for example [CLS] and [SEP].
        padding_side: "left" or "right".
        preproc_batch_size: documents that a preprocessing worker holds in memory.
        preproc_workers: preprocessing processes.
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        chunks: examples by split, after `setup`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        dataset_dir: str,
        tokenizer: str,
        max_seq_len: int,
        *,
        add_special_tokens: bool,
        padding_side: PaddingSide,
        preproc_batch_size: int,
        preproc_workers: int,
        batch_size: int,
        valid_batch_size: int | None,
        num_workers: int,
        pin_memory: bool,
        seed: int,
    ):
        super().__init__(tokenizer, max_seq_len, add_special_tokens, padding_side)
        for name, value in {"preproc_batch_size": preproc_batch_size, "preproc_workers": preproc_workers}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.dataset_dir = Path(dataset_dir)
        self.preproc_batch_size = preproc_batch_size
        self.preproc_workers = preproc_workers
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.chunks: dict[str, ExamplesT] = {}
        self.num_bytes: dict[str, int] = {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this raw text from other raw text, as JSON values: part of the cache key."""

    @abstractmethod
    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        """Reads the raw text.

        Args:
            work_dir: for intermediate files; deleted afterwards.

        Returns:
            Splits "train", "valid" and possibly "test", each with a document per row, in the columns of the encoder.
        """

    @abstractmethod
    def corpus_kind(self) -> dict[str, Any]:
        """What besides the raw text decides what is in the cache, as JSON values."""

    @abstractmethod
    def encoder(self, splits: Mapping[str, datasets.Dataset]) -> Encoder:
        """Makes what tokenises the documents."""

    @abstractmethod
    def examples(self, split: str) -> ExamplesT:
        """Examples of a split in the cache."""

    @abstractmethod
    def collator(self, static: bool) -> Collate:
        """Makes batches of examples; `static` repeats what is random in the first epoch."""

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "data": {"class": type(self).__name__, **self.identity()},
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            **self.corpus_kind(),
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
                self.encoder,
                batch_size=self.preproc_batch_size,
                num_workers=self.preproc_workers,
            )

    def setup(self, stage: str | None = None) -> None:
        if not self.cache_dir.is_dir():
            raise ValueError(f"{self.cache_dir} does not exist: call prepare_data() before setup()")
        check_corpus(self.cache_dir, self.cache_key)
        self.num_bytes = json.loads((self.cache_dir / "num_bytes.json").read_text())
        self.chunks = {split: self.examples(split) for split in self.num_bytes}

    def cached_label_names(self) -> list[str]:
        """Names of the labels in the cache, which is made if there is none yet: a model needs their number early."""
        self.prepare_data()
        check_corpus(self.cache_dir, self.cache_key)
        names: list[str] = json.loads((self.cache_dir / "label_names.json").read_text())
        return names

    def split_examples(self, split: str, *, training: bool) -> ExamplesT:
        return self.named_split(self.chunks, split)

    def collate_function(self, *, training: bool) -> Collate:
        return self.train_collator() if training else self.collator(static=True)

    def train_collator(self) -> Collate:
        return self.collator(static=False)
