"""Data modules of words with a label each: named entities, parts of speech, chunks.

    TokenClassificationDataModule       a data set of the hub, or a local folder in its layout
    LocalTokenClassificationDataModule  files: CoNLL columns, JSON lines, Parquet

A sentence becomes text, its words with a space between them, and labels of words become labels of tokens
(`encoders.WordEncoder`); `word_scores` gets back to words.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perceiver.checks import check_least
from perceiver.data.cache import Cache, source_key
from perceiver.data.hub import HubSplits
from perceiver.data.module import DataModule, former_argument
from perceiver.data.text.collator import DefaultCollator
from perceiver.data.text.common import count_tokens, load_tokenizer, make_preprocessor
from perceiver.data.text.corpus import LabelledWords, write_corpus
from perceiver.data.text.encoders import TAGS, TOKENS, WordEncoder
from perceiver.data.text.files import FileSplits, file_source
from perceiver.data.text.rows import MAX_LINE_BYTES
from perceiver.processing.text import PaddingSide, check_text_arguments
from perceiver.processing.tokenization import special_ids, tokenizer_fingerprint


class WordLabelsDataModule(DataModule):
    """Serves batches `(labels, input_ids, pad_mask)`, each (B, n), with a label per token.

    Labels are -100 at special tokens, padding and spaces between words. An example is a sentence; one that is too long
    becomes several, cut between words. `chunks["valid"][i]["word_ids"]` has the words of its tokens.

    Args:
        dataset_dir: folder for preprocessed text.
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer.
        max_seq_len: inputs per example, at most.
        label_names: names of the labels, in the order of their numbers. Without them they are those of the data set,
            or of its training split: numbers count from 0 to the largest, names are sorted, but "O" first.
        add_special_tokens: add what the tokenizer adds around a text, for example [CLS] and [SEP].
        preproc_batch_size: sentences that a preprocessing worker holds in memory.
        preproc_workers: preprocessing processes.
        **kwargs: see `DataModule`.

    Attributes:
        raw_data: source of sentences: lists of words in a column `tokens`, lists of their labels in a column `tags`.

    Raises:
        ValueError: if an argument is out of range; later, if labels are missing or unknown.
    """

    cache: Cache
    tokenizer, vocab_size = cached_property(load_tokenizer), property(count_tokens)
    text_preprocessor = make_preprocessor
    padding_side: PaddingSide = "right"

    def __init__(
        self,
        dataset_dir: str,
        tokenizer: str,
        max_seq_len: int,
        label_names: list[str] | None = None,
        add_special_tokens: bool = False,
        preproc_batch_size: int = 1000,
        preproc_workers: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_text_arguments(max_seq_len, self.padding_side)
        check_least(1, preproc_batch_size=preproc_batch_size, preproc_workers=preproc_workers)
        self.tokenizer_source, self.max_seq_len, self.given_label_names = tokenizer, max_seq_len, label_names
        self.preproc_batch_size, self.preproc_workers = preproc_batch_size, preproc_workers
        self.add_special_tokens = add_special_tokens
        self.cache = Cache(dataset_dir, self._cache_key, self._fill_cache)

    @property
    def chunks(self) -> dict[str, LabelledWords]:
        """Examples by split, after `setup`."""
        return self.examples

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the labels 0, 1, ... The text is preprocessed if the cache has to say what they are."""
        return self.given_label_names or self.cache.read("label_names.json")

    def collate_function(self, *, training: bool) -> DefaultCollator:
        return DefaultCollator(self.tokenizer, self.padding_side)

    def load_examples(self) -> dict[str, LabelledWords]:
        around = special_ids(self.tokenizer) if self.add_special_tokens else ((), ())
        return {split: LabelledWords(self.cache_dir, split, self.max_seq_len, around) for split in self.cache.splits()}

    def _cache_key(self) -> dict[str, Any]:
        kind = {"labels": "words", "label_names": self.given_label_names}
        return {"data": source_key(self.raw_data), "tokenizer": tokenizer_fingerprint(self.tokenizer), **kind}

    def _fill_cache(self, work: Path, result: Path) -> None:
        self.collate_function(training=True)  # an unfit tokenizer is an error now, not after preprocessing
        splits = self.raw_data.load(work)
        encode = WordEncoder(self.tokenizer, splits, self.given_label_names)
        write_corpus(result, splits, encode, self.preproc_batch_size, self.preproc_workers)


@former_argument("repo_id", "source")
class TokenClassificationDataModule(WordLabelsDataModule):
    """A data set with lists of words and of labels, and the splits train, validation and possibly test.

    Args:
        source: where the data is: a hub id, or a local folder in the layout of the hub.
        dataset_dir: folder for preprocessed text.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        tokens_column: where the words are in a row.
        tags_column: where the labels are, numbers or names.
        splits: our names of splits, train, valid and test: those of the data set.
        **kwargs: see `WordLabelsDataModule`.
    """

    def __init__(
        self,
        source: str,
        dataset_dir: str = ".cache/token_classification",
        *,
        config_name: str | None = None,
        revision: str | None = None,
        tokens_column: str = "tokens",
        tags_column: str = "ner_tags",
        splits: dict[str, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        splits = splits or {"train": "train", "valid": "validation", "test": "test"}
        if not {"train", "valid"} <= splits.keys() <= {"train", "valid", "test"}:
            raise ValueError(f"splits={splits} must have train and valid, and may have test")
        columns = {tokens_column: TOKENS, tags_column: TAGS}
        self.raw_data = HubSplits(source, config_name, revision, splits, columns)


class LocalTokenClassificationDataModule(WordLabelsDataModule):
    """Files with a label per word.

    Files in the format of CoNLL (any suffix but the following) have a word per line, whose first column is the word and
    whose last is the label, and an empty line between sentences. Columns are apart by tabs or else by spaces. Lines
    that begin with "-DOCSTART-" are left out. JSON lines (.jsonl, .json) and Parquet files have lists in two columns.

    Args:
        dataset_dir: folder for preprocessed text.
        train_files: files, folders or glob patterns, or URLs of fsspec, see `LocalTextDataModule`. Folders are looked
            through for .txt, .jsonl, .json and .parquet.
        valid_files: as `train_files`. Without them `valid_fraction` of the training sentences, drawn from everywhere,
            is the validation split.
        test_files: as `train_files`. Without them there is no test split.
        valid_fraction: see above, in (0, 1).
        tokens_column: where the words are in a row.
        tags_column: where the labels are, numbers or names.
        max_line_bytes: length that a line of a file may have, decompressed: a small file may hold a huge one.
        **kwargs: see `WordLabelsDataModule`.

    Raises:
        ValueError: also later, when the files are looked up: if there are none, if one cannot be read or if one is for
            training and for something else.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/local_token_classification",
        *,
        train_files: list[str] | str,
        valid_files: list[str] | str | None = None,
        test_files: list[str] | str | None = None,
        valid_fraction: float = 0.05,
        tokens_column: str = "tokens",
        tags_column: str = "tags",
        max_line_bytes: int = MAX_LINE_BYTES,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        check_least(1, max_line_bytes=max_line_bytes)
        patterns = {"train": train_files, "valid": valid_files, "test": test_files}
        columns = {tokens_column: TOKENS, tags_column: TAGS}
        self.raw_data = file_source(FileSplits(patterns, columns, max_line_bytes), valid_fraction, scattered=True)


def word_scores(word_ids: npt.NDArray[np.int64], scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean score of the tokens of each word, in the order of the text.

    Args:
        word_ids: word of each token, -1 for tokens in no word, (n,).
        scores: of each token, for example logits, (n, classes).

    Returns:
        (words, classes)
    """
    in_word = word_ids >= 0
    _, words = np.unique(word_ids[in_word], return_inverse=True)
    sums = np.zeros((words.max(initial=-1) + 1, scores.shape[1]), scores.dtype)
    np.add.at(sums, words, scores[in_word])
    means: npt.NDArray[Any] = sums / np.bincount(words)[:, None]
    return means
