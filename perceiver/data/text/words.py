"""Data modules of words with a label each: named entities, parts of speech, chunks.

    TokenClassificationDataModule       a data set of the hub, or a local folder in its layout
    LocalTokenClassificationDataModule  files: CoNLL columns, JSON lines, Parquet

A sentence becomes text, its words with a space between them, and labels of words become labels of tokens
(`encoders.WordEncoder`); `word_scores` gets back to words.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from perceiver.data.text.base import CachedTextDataModule
from perceiver.data.text.collator import DefaultCollator
from perceiver.data.text.corpus import Encoder, LabelledWords
from perceiver.data.text.encoders import TAGS, TOKENS, WordEncoder
from perceiver.data.text.files import File, blocks, read_columns
from perceiver.data.text.hub import hub_identity, load_splits, split_off
from perceiver.data.text.local import find_splits
from perceiver.processing.tokenization import special_ids


class WordLabelsDataModule(CachedTextDataModule[LabelledWords]):
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
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of the order of training examples, not negative.

    Raises:
        ValueError: if an argument is out of range; later, if labels are missing or unknown.
    """

    def __init__(
        self,
        dataset_dir: str,
        tokenizer: str,
        max_seq_len: int,
        label_names: list[str] | None = None,
        add_special_tokens: bool = False,
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
            padding_side="right",
            preproc_batch_size=preproc_batch_size,
            preproc_workers=preproc_workers,
            batch_size=batch_size,
            valid_batch_size=valid_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.given_label_names = label_names

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the labels 0, 1, ... The text is preprocessed if the cache has to say what they are."""
        return self.given_label_names or self.cached_label_names()

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @abstractmethod
    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        """Reads the splits: columns `tokens`, lists of words, and `tags`, lists of labels."""

    def corpus_kind(self) -> dict[str, Any]:
        return {"labels": "words", "label_names": self.given_label_names}

    def encoder(self, splits: Mapping[str, datasets.Dataset]) -> Encoder:
        return WordEncoder(self.tokenizer, splits, self.given_label_names)

    def examples(self, split: str) -> LabelledWords:
        around = special_ids(self.tokenizer) if self.add_special_tokens else ((), ())
        return LabelledWords(self.cache_dir, split, self.max_seq_len, around)

    def collator(self, static: bool) -> DefaultCollator:
        return DefaultCollator(self.tokenizer, self.padding_side)


class TokenClassificationDataModule(WordLabelsDataModule):
    """A data set with lists of words and of labels, and the splits train, validation and possibly test.

    Args:
        repo_id: hub id, or a local folder in the layout of the hub.
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
        repo_id: str,
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
        self.repo_id, self.config_name, self.revision = repo_id, config_name, revision
        self.columns = {tokens_column: TOKENS, tags_column: TAGS}
        self.splits = splits or {"train": "train", "valid": "validation", "test": "test"}
        if not {"train", "valid"} <= self.splits.keys() <= {"train", "valid", "test"}:
            raise ValueError(f"splits={self.splits} must have train and valid, and may have test")

    def identity(self) -> dict[str, Any]:
        source = hub_identity(self.repo_id, self.config_name, self.revision)
        return {**source, "columns": self.columns, "splits": self.splits}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        found = load_splits(self.repo_id, self.config_name, self.revision, self.splits, work_dir)
        for split, documents in found.items():
            missing = [column for column in self.columns if column not in documents.column_names]
            if missing:
                raise ValueError(f"split {split!r} has no column {missing}, only {documents.column_names}")
        return {
            split: documents.select_columns(list(self.columns)).rename_columns(
                {theirs: ours for theirs, ours in self.columns.items() if theirs != ours}
            )
            for split, documents in found.items()
        }


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
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction={valid_fraction} must be in (0, 1)")
        self.patterns = {"train": train_files, "valid": valid_files, "test": test_files}
        self.valid_fraction = valid_fraction
        self.columns = {tokens_column: TOKENS, tags_column: TAGS}

    def identity(self) -> dict[str, Any]:
        files = {split: [file.stamp() for file in found] for split, found in find_splits(self.patterns).items()}
        fraction = {} if "valid" in files else {"valid_fraction": self.valid_fraction}
        return {"files": files, "columns": self.columns, **fraction}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        splits = {}
        for split, files in find_splits(self.patterns).items():
            kinds = {file.kind for file in files}
            if kinds <= {".jsonl", ".json", ".parquet"}:
                splits[split] = read_columns(files, self.columns, work_dir, split)
            elif kinds & {".jsonl", ".json", ".parquet", ".csv"}:
                raise ValueError(f"{[str(file) for file in files]} must be all CoNLL, or all JSON lines or Parquet")
            else:
                splits[split] = datasets.Dataset.from_dict(conll_sentences(files))
        if "valid" in splits:
            return splits
        return {**splits, **split_off(splits["train"], None, self.valid_fraction, scattered=True)}


def conll_sentences(files: list[File]) -> dict[str, list[list[str]]]:
    """Words and labels of each sentence, see `LocalTokenClassificationDataModule`.

    Raises:
        ValueError: if a file cannot be read, or a line has no label.
    """
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    for file in files:
        inside = False
        for number, line in enumerate(_lines(file), 1):
            columns = [column.strip() for column in line.split("\t")] if "\t" in line else line.split()
            if not any(columns) or columns[0].startswith("-DOCSTART-"):
                inside = False
                continue
            if len(columns) < 2 or not columns[0] or not columns[-1]:
                raise ValueError(f"{file}, line {number}: {line!r} must have a word and a label")
            if not inside:
                tokens.append([])
                tags.append([])
            inside = True
            tokens[-1].append(columns[0])
            tags[-1].append(columns[-1])
    if not tokens:
        raise ValueError(f"{[str(file) for file in files]}: no sentence is in any of the files")
    return {TOKENS: tokens, TAGS: tags}


def _lines(file: File) -> Iterator[str]:
    try:
        with file.open() as stream:
            for block in blocks(stream):
                yield from block.decode().removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error


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
