"""The data modules of texts: masked and causal language modelling, and classification.

`prepare_data` tokenises the raw text once (`corpus.py`), `setup` maps what is there as examples, and the loaders serve
batches `(labels, input_ids, pad_mask)` (`collator.py`). The tasks differ in their examples:

    mlm  chunks of `max_seq_len` tokens, masked
    clm  chunks of `max_seq_len` + 1 tokens; labels are the next tokens; or documents, packed (`packing.py`)
    clf  documents, each cut to `max_seq_len` tokens, with a label each

What is random in examples (masks, shifts, lengths) is new in each epoch of training, but for masks with
`static_masking`, and always the same in validation and test, whose losses stay comparable.
"""

from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, from_numpy
from transformers import PreTrainedTokenizerBase

from perceiver.checks import check_least, check_range, check_share
from perceiver.data.cache import Cache, source_key
from perceiver.data.module import DataModule
from perceiver.data.packing import PackedRows, packing_collator
from perceiver.data.text.collator import DefaultCollator, TokenMaskingCollator, WordMaskingCollator
from perceiver.data.text.corpus import DocumentChunks, LabelledDocuments, TokenChunks, write_corpus
from perceiver.data.text.encoders import DocumentEncoder, TextEncoder
from perceiver.moved import moved_names
from perceiver.processing.text import (
    PaddingSide,
    TextPreprocessor,
    check_text_arguments,
    load_tokenizer as tokenizer_by_name,
)
from perceiver.processing.tokenization import check_tokenizer, end_of_text_id, special_ids, tokenizer_fingerprint

__getattr__ = moved_names(__name__)


class Task(Enum):
    """What the batches are for. Published checkpoints hold this class under this name, with these values."""

    mlm = 0
    clm = 1
    clf = 2


# Of the data modules of tokens, three kinds with no base of their own in common; `data` is one of them.


def load_tokenizer(data: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that `data.tokenizer_source` names."""
    tokenizer = tokenizer_by_name(data.tokenizer_source)
    check_tokenizer(tokenizer)
    return tokenizer


def count_tokens(data: Any) -> int:
    """Size of the vocabulary. `tokenizer.vocab_size` leaves out PerceiverTokenizer's special tokens."""
    return len(data.tokenizer)


def make_preprocessor(data: Any) -> TextPreprocessor:
    """Preprocesses text for inference with the settings of the data module."""
    return TextPreprocessor(data.tokenizer, data.max_seq_len, data.add_special_tokens, data.padding_side)


def masking_collator(data: Any, static: bool = False) -> WordMaskingCollator:
    """Masks words or tokens; `static` repeats the masks of the first epoch."""
    masking = WordMaskingCollator if data.mask_words else TokenMaskingCollator
    return masking(data.tokenizer, data.mask_prob, seed=data.seed, static=static)


def task_padding_side(data: Any, task: Task, padding_side: PaddingSide | None) -> PaddingSide:
    """The padding side that is given, or else that of the task.

    Raises:
        ValueError: if the data module has no such task, or the task not this side.
    """
    names = " and ".join(map(str, data.tasks))
    if not isinstance(task, Task):
        raise ValueError(f"{task=} is no member of perceiver.data.text.Task, {type(data).__name__} takes {names}")
    if task not in data.tasks:
        raise ValueError(f"{task=!s} is not supported by {type(data).__name__}, only {names}")
    if task is not Task.clm and padding_side == "left":  # would change the outputs
        raise ValueError(
            f"{padding_side=} is not possible with task={task}: its models count positions from the left, so that an "
            "example would get other outputs in another batch. Leave padding_side out, or say 'right'"
        )
    return padding_side or ("left" if task is Task.clm else "right")


class TextDataModule(DataModule):
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
        add_eos_token: add the tokenizer's end-of-text token after each document, after its special tokens if it gets
            them, too.
        padding_side: clm: "left", which is the default, or "right". mlm, clf: "right", because these models count
            positions from the left.
        random_train_shift: start each training example at a random token of its chunk; it goes on in the next chunk.
        random_valid_shift: the same for validation examples, with the same shifts in every epoch.
        random_train_truncation: cut each training example on the right to a random length from `random_min_seq_len`
            to `max_seq_len` - 1.
        random_valid_truncation: the same for validation examples, with the same lengths in every epoch.
        random_min_seq_len: the shortest of these lengths, at least 1 and less than `max_seq_len`.
        packing: clm: a document is an example, cut into several if it is longer than `max_seq_len`. Several share a row
            of that length, know nothing of each other, and are not padded: batches are `(labels, input_ids, lengths)`.
        preproc_batch_size: documents that a preprocessing worker holds in memory.
        preproc_workers: preprocessing processes.
        **kwargs: see `DataModule`.

    Attributes:
        raw_data: source of documents, in a column `text`; for clf they have a `label`, too.

    Raises:
        ValueError: if an argument is out of range, arguments contradict each other or the task is not supported.
    """

    tasks: ClassVar[tuple[Task, ...]] = (Task.mlm, Task.clm)
    given_label_names: list[str] | None = None  # of a leaf that knows them
    cache: Cache
    tokenizer, vocab_size = cached_property(load_tokenizer), property(count_tokens)
    text_preprocessor = make_preprocessor

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
        add_eos_token: bool = False,
        padding_side: PaddingSide | None = None,
        random_train_shift: bool = False,
        random_valid_shift: bool = False,
        random_train_truncation: bool = False,
        random_valid_truncation: bool = False,
        random_min_seq_len: int = 16,
        packing: bool = False,
        preproc_batch_size: int = 1000,
        preproc_workers: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_text_arguments(max_seq_len, padding_side)
        check_least(1, preproc_batch_size=preproc_batch_size, preproc_workers=preproc_workers)
        check_share(mask_prob=mask_prob)
        self.padding_side = task_padding_side(self, task, padding_side)
        truncation = random_train_truncation or random_valid_truncation
        if truncation:
            check_range(1, max_seq_len - 1, random_min_seq_len=random_min_seq_len)
        if task is Task.mlm and static_masking and (random_train_shift or random_train_truncation):
            raise ValueError(
                "static_masking=True gives each example the same mask in every epoch, and random_train_shift and "
                "random_train_truncation change the examples"
            )
        if task is Task.clf and (random_train_shift or random_valid_shift or truncation):
            raise ValueError(f"random shift and truncation are for chunks of text, and task={task} has documents")
        if packing and task is not Task.clm:
            raise ValueError(f"packing=True is for next tokens, task={Task.clm}, not for task={task}")
        if packing and (random_train_shift or random_valid_shift):
            raise ValueError("packing=True keeps documents apart, and a random shift takes text across their ends")
        self.tokenizer_source, self.max_seq_len, self.task = tokenizer, max_seq_len, task
        self.packing = packing
        self.mask_prob, self.mask_words, self.static_masking = mask_prob, mask_words, static_masking
        self.add_special_tokens, self.add_eos_token = add_special_tokens, add_eos_token
        self.random_min_seq_len = random_min_seq_len
        self.random_shift = {"train": random_train_shift, "valid": random_valid_shift}
        self.random_truncation = {"train": random_train_truncation, "valid": random_valid_truncation}
        self.preproc_batch_size, self.preproc_workers = preproc_batch_size, preproc_workers
        self.cache = Cache(dataset_dir, self._cache_key, self._fill_cache)

    @property
    def chunks(self) -> dict[str, Any]:
        """Examples by split, after `setup`: `TokenChunks`, for clf `LabelledDocuments`; with packing, its documents."""
        return self.examples

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the classes 0, 1, ... The text is preprocessed if the cache has to say what they are.

        Raises:
            ValueError: if the task is another than clf.
        """
        if self.task is not Task.clf:
            raise ValueError(f"task={self.task} has no classes, only {Task.clf} has")
        return self.given_label_names or self.cache.read("label_names.json")

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the validation text per token, None before `setup`.

        A loss of x nats per token is x / ln 2 / bytes_per_token bits per byte, which compare between tokenizers. They
        flatter a tokenizer that drops something, as XLNet's does with line breaks and accents.
        """
        valid = self.chunks.get("valid")
        return valid.num_bytes / len(valid.tokens) if valid is not None else None

    def validation_record(self, index: int = -1) -> Tensor:
        """Inputs (n,) of a validation example, int64, without padding: a prompt whose continuation is logged.

        Args:
            index: number of the example, or -1 for a random one, which is a function of `seed` and the trainer's step.

        Raises:
            ValueError: if there is no such example.
        """
        return from_numpy(self.chunks["valid"][self.validation_index(index)]["input_ids"])

    def collator(self, static: bool) -> WordMaskingCollator | DefaultCollator:
        """Makes batches of examples; `static` repeats the masks of the first epoch."""
        if self.task is Task.mlm:
            return masking_collator(self, static)
        # A causal model needs as many positions as it has latents, also where all examples of a batch are short.
        min_width = self.max_seq_len if self.task is Task.clm else 1
        return DefaultCollator(self.tokenizer, self.padding_side, min_width=min_width)

    def collate_function(self, *, training: bool) -> Any:
        if self.packing:
            return packing_collator
        return self.collator(static=self.static_masking or not training)

    def load_examples(self) -> dict[str, Any]:
        return {split: self._examples(split) for split in self.cache.splits()}

    def split_examples(self, split: str, *, training: bool) -> Any:
        examples = self.named_split(split)
        return PackedRows(examples, self.max_seq_len, self.seed) if self.packing else examples

    def _examples(self, split: str) -> TokenChunks | LabelledDocuments:
        if self.task is Task.clf:
            before, after = special_ids(self.tokenizer) if self.add_special_tokens else ([], [])
            after = [*after, end_of_text_id(self.tokenizer)] if self.add_eos_token else after
            return LabelledDocuments(self.cache_dir, split, self.max_seq_len, (before, after))
        min_seq_len = self.random_min_seq_len if self.random_truncation.get(split) else None
        kind = DocumentChunks if self.packing else TokenChunks
        chunks = partial(kind, self.cache_dir, split, self.max_seq_len, next_token=self.task is Task.clm)
        return chunks(shift=self.random_shift.get(split, False), min_seq_len=min_seq_len, seed=self.seed)

    def _cache_key(self) -> dict[str, Any]:
        kind: dict[str, Any] = {"labels": None, "add_special_tokens": self.add_special_tokens}
        if self.add_eos_token:
            kind["add_eos_token"] = True
        if self.packing:
            kind["keep_documents"] = True
        if self.task is Task.clf:  # special tokens are added to examples
            kind = {"labels": "documents", "label_names": self.given_label_names}
        return {"data": source_key(self.raw_data), "tokenizer": tokenizer_fingerprint(self.tokenizer), **kind}

    def _fill_cache(self, work: Path, result: Path) -> None:
        self.collator(static=True)  # an unfit tokenizer is an error now, not after preprocessing
        splits = self.raw_data.load(work)
        encode = TextEncoder(self.tokenizer, splits, self.add_special_tokens, self.add_eos_token, self.packing)
        if self.task is Task.clf:
            encode = DocumentEncoder(self.tokenizer, splits, self.given_label_names)
        write_corpus(result, splits, encode, self.preproc_batch_size, self.preproc_workers)
