"""What preprocessing does to a batch of raw documents, for each kind of corpus (`corpus.py`).

    TextEncoder      text                                        mlm, clm
    DocumentEncoder  text and a label per document               clf
    WordEncoder      a list of words and a label per word        labelled words

Labels are numbers, or names that become numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from perceiver.data.text.collator import IGNORE
from perceiver.data.text.corpus import Encoder
from perceiver.processing.tokenization import (
    INSIDE,
    SPECIAL,
    START,
    Encoded,
    encode,
    encode_words,
    plain_text_tokenizer,
)

TEXT, LABEL = "text", "label"  # columns of documents
TOKENS, TAGS = "tokens", "tags"  # columns of labelled words
OUTSIDE = "O"  # the label of words in no entity
STRINGS = ("string", "large_string")


class TextEncoder(Encoder):
    """Column `text` -> tokens and marks.

    Args:
        tokenizer: see `tokenization.encode`.
        splits: raw splits.
        add_special_tokens: around each document.

    Raises:
        ValueError: if a split has no column `text` that holds strings.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        splits: Mapping[str, datasets.Dataset],
        add_special_tokens: bool = False,
    ):
        for split, documents in splits.items():
            kind = getattr(_feature(split, documents, TEXT), "dtype", None)
            if kind not in STRINGS:
                raise ValueError(f"column {TEXT!r} of split {split!r} must hold strings, not {kind}")
        self.tokenizer = plain_text_tokenizer(tokenizer)
        self.add_special_tokens = add_special_tokens
        self.dtypes = {"tokens": _token_dtype(tokenizer), "marks": np.int8}

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = pc.fill_null(table.column(TEXT).cast(pa.large_string()), "").combine_chunks()
        encoded = encode(self.tokenizer, texts, self.add_special_tokens)
        return pa.table({**_lists(encoded), "num_bytes": pc.binary_length(texts)})


class DocumentEncoder(TextEncoder):
    """Columns `text` and `label` -> tokens, marks and a label per document; no special tokens.

    Args:
        tokenizer: see `tokenization.encode`.
        splits: raw splits.
        label_names: names of the labels 0, 1, ...; None takes those of the training split (`find_label_names`).

    Raises:
        ValueError: if a column is missing or of a wrong kind; when called, also if a label is none of `label_names`.
    """

    label_names: list[str]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        splits: Mapping[str, datasets.Dataset],
        label_names: Sequence[str] | None = None,
    ):
        super().__init__(tokenizer, splits)
        self.label_names = find_label_names(splits, LABEL, label_names)
        self.dtypes = {**self.dtypes, "labels": np.int64}

    def __call__(self, table: pa.Table) -> pa.Table:
        labels = label_numbers(table.column(LABEL).combine_chunks(), LABEL, self.label_names)
        return super().__call__(table).append_column("labels", pa.array(labels))


class WordEncoder(Encoder):
    """Columns `tokens` and `tags` -> tokens, marks and a label per token; no special tokens.

    A document is its words with a space between them. Each token of a word has the word's label: bytes learn from every
    position. The space has none, and belongs to no word. Words may be of any characters, but not empty.

    Args:
        tokenizer: see `tokenization.encode_words`.
        splits: raw splits.
        label_names: names of the labels 0, 1, ...; None takes those of the training split (`find_label_names`).

    Raises:
        ValueError: if a column is missing or of a wrong kind; when called, also if a label is none of `label_names`, a
            word is empty or a row has not as many labels as words.
    """

    label_names: list[str]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        splits: Mapping[str, datasets.Dataset],
        label_names: Sequence[str] | None = None,
    ):
        for split, documents in splits.items():
            words = _feature(split, documents, TOKENS)
            kind = getattr(getattr(words, "feature", None), "dtype", None)
            if kind not in STRINGS:
                raise ValueError(f"column {TOKENS!r} of split {split!r} must hold lists of strings, not {words}")
        self.label_names = find_label_names(splits, TAGS, label_names)
        self.tokenizer = plain_text_tokenizer(tokenizer)
        self.dtypes = {"tokens": _token_dtype(tokenizer), "marks": np.int8, "labels": np.int64}

    def __call__(self, table: pa.Table) -> pa.Table:
        words, tags = table.column(TOKENS).combine_chunks(), table.column(TAGS).combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(words), 0).to_numpy()
        num_tags = pc.fill_null(pc.list_value_length(tags), 0).to_numpy()
        for row in np.flatnonzero(lengths != num_tags)[:1]:
            raise ValueError(f"a row has {lengths[row]} {TOKENS} and {num_tags[row]} {TAGS}: {words[row].as_py()}")
        words, labels = words.flatten().cast(pa.large_string()), label_numbers(tags.flatten(), TAGS, self.label_names)
        word_bytes = pc.fill_null(pc.binary_length(words), 0).to_numpy()
        if (word_bytes == 0).any():
            raise ValueError(f"column {TOKENS!r} has an empty word: a label needs a word to belong to")
        offsets = np.concatenate([[0], np.cumsum(lengths)])

        # Per token of each sentence, one after the other: the number of its word, -1 for a space.
        encoded, words_of_tokens = encode_words(self.tokenizer, words, offsets)
        in_word = words_of_tokens >= 0
        starts = in_word.copy()
        starts[1:] &= words_of_tokens[1:] != words_of_tokens[:-1]
        marks = np.where(starts, START, np.where(in_word, INSIDE, SPECIAL)).astype(np.int8)
        token_labels = np.append(labels, IGNORE)[words_of_tokens]
        columns = _lists(Encoded(encoded.tokens, marks, encoded.offsets))
        list_offsets = pa.array(encoded.offsets, pa.int32())
        spaces = np.maximum(lengths - 1, 0)
        num_bytes = np.add.reduceat(np.append(word_bytes, 0), offsets[:-1]) * (lengths > 0) + spaces
        return pa.table(
            {
                **columns,
                "labels": pa.ListArray.from_arrays(list_offsets, pa.array(token_labels)),
                "num_bytes": pa.array(num_bytes.astype(np.int64)),
            }
        )


def find_label_names(
    splits: Mapping[str, datasets.Dataset], column: str, given: Sequence[str] | None = None
) -> list[str]:
    """Names of the labels 0, 1, ... of a column of labels or of lists of labels.

    They are `given`, or the names that the data set itself has, or for numbers "0", "1", ... up to the largest in the
    training split, or for strings those of the training split, sorted, but "O" first.

    Raises:
        ValueError: if a split has no such column or it holds neither integers nor strings, or if `given` has a name
            twice.
    """
    for split, documents in splits.items():
        feature = _label_feature(split, documents, column)
        if not (isinstance(feature, datasets.ClassLabel) or str(feature.dtype).startswith(("int", "uint", "bool"))):
            if feature.dtype not in STRINGS:
                raise ValueError(
                    f"column {column!r} of split {split!r} must hold integers or strings, not {feature.dtype}"
                )
    if given is not None:
        if len(set(given)) != len(given) or not given:
            raise ValueError(f"label names must be different and at least one, not {list(given)}")
        return list(given)
    feature = _label_feature("train", splits["train"], column)
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values: set[Any] = set()
    for table in splits["train"].select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        labels = table.column(column).combine_chunks()
        values.update(pc.unique(labels.flatten() if _is_list(labels) else labels).to_pylist())
    values.discard(None)
    if feature.dtype in STRINGS:
        return sorted(values, key=lambda name: (name != OUTSIDE, name))
    return [str(number) for number in range(int(max(values, default=-1)) + 1)]


def label_numbers(labels: pa.Array, column: str, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels, numbers or names, as numbers. (n,) -> (n,) int64.

    Raises:
        ValueError: if one is missing or none of `names`.
    """
    if labels.null_count:
        raise ValueError(f"column {column!r} has {labels.null_count} missing labels in a batch of {len(labels)}")
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        numbers = pc.index_in(labels, value_set=pa.array(names, labels.type))
        if numbers.null_count:
            wrong = labels.filter(pc.is_null(numbers))[0].as_py()
            raise ValueError(f"label {wrong!r} in column {column!r} is none of {_short(names)}")
        return numbers.to_numpy().astype(np.int64)
    values: np.ndarray[Any, np.dtype[np.int64]] = labels.cast(pa.int64()).to_numpy()
    wrong_values = values[(values < 0) | (values >= len(names))]
    if len(wrong_values):
        raise ValueError(
            f"label {wrong_values[0]} in column {column!r} must be in [0, {len(names)}), one of {_short(names)}"
        )
    return values


def _short(names: Sequence[str]) -> str:
    return str(list(names)) if len(names) <= 20 else f"[{', '.join(map(repr, names[:20]))}, ...]"


def _feature(split: str, documents: datasets.Dataset, column: str) -> Any:
    if column not in documents.column_names:
        raise ValueError(f"split {split!r} has no column {column!r}, only {documents.column_names}")
    return documents.features[column]


def _label_feature(split: str, documents: datasets.Dataset, column: str) -> Any:
    feature = _feature(split, documents, column)
    if column == TAGS:
        if not hasattr(feature, "feature"):
            raise ValueError(f"column {column!r} of split {split!r} must hold lists of labels, not {feature}")
        feature = feature.feature
    if not hasattr(feature, "dtype"):
        raise ValueError(f"column {column!r} of split {split!r} must hold labels, not {feature}")
    return feature


def _is_list(array: pa.Array) -> bool:
    return pa.types.is_list(array.type) or pa.types.is_large_list(array.type)


def _token_dtype(tokenizer: PreTrainedTokenizerBase) -> type[np.generic]:
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32


def _lists(encoded: Encoded) -> dict[str, pa.Array]:
    offsets = pa.array(encoded.offsets, pa.int32())
    columns = {"tokens": pa.array(encoded.tokens), "marks": pa.array(encoded.marks)}
    return {name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()}
