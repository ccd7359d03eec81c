"""What preprocessing does to a batch of raw documents, for each kind of corpus (`corpus.py`).

    TextEncoder      text                                        mlm, clm
    DocumentEncoder  text and a label per document               clf
    WordEncoder      a list of words and a label per word        labelled words

Called with a table of raw columns, one returns a table with `tokens`, `marks`, `num_bytes` and, if there are labels,
`labels`. `dtypes` says what these are stored as, but for `num_bytes`; `keep_documents`, whether it is stored where
documents begin.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from perceiver.data.examples import IGNORE
from perceiver.data.labels import STRINGS, column_feature, find_label_names, label_numbers
from perceiver.processing.tokenization import (
    INSIDE,
    SPECIAL,
    START,
    Encoded,
    append_special,
    encode,
    encode_words,
    end_of_text_id,
    plain_text_tokenizer,
)

TEXT, LABEL = "text", "label"  # columns of documents
TOKENS, TAGS = "tokens", "tags"  # columns of labelled words

Splits = Mapping[str, datasets.Dataset]


class TextEncoder:
    """Column `text` -> tokens and marks.

    Args:
        tokenizer: see `tokenization.encode`.
        splits: raw splits.
        add_special_tokens: around each document.
        add_eos_token: after each document.
        keep_documents: see above.

    Raises:
        ValueError: if a split has no column `text` that holds strings, or the tokenizer no end-of-text token to add.
    """

    label_names: list[str] | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        splits: Splits,
        add_special_tokens: bool = False,
        add_eos_token: bool = False,
        keep_documents: bool = False,
    ):
        for split, documents in splits.items():
            kind = getattr(column_feature(split, documents, TEXT), "dtype", None)
            if kind not in STRINGS:
                raise ValueError(f"column {TEXT!r} of split {split!r} must hold strings, not {kind}")
        self.tokenizer, self.add_special_tokens = plain_text_tokenizer(tokenizer), add_special_tokens
        self.eos_token_id = end_of_text_id(tokenizer) if add_eos_token else None
        self.keep_documents = keep_documents
        self.dtypes: dict[str, type[np.generic]] = {"tokens": _token_dtype(tokenizer), "marks": np.int8}

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = pc.fill_null(table.column(TEXT).cast(pa.large_string()), "").combine_chunks()
        encoded = encode(self.tokenizer, texts, self.add_special_tokens)
        if self.eos_token_id is not None:
            encoded = append_special(encoded, self.eos_token_id)
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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, splits: Splits, label_names: Sequence[str] | None = None):
        super().__init__(tokenizer, splits, keep_documents=True)
        self.label_names = find_label_names(splits, LABEL, label_names)
        self.dtypes = {**self.dtypes, "labels": np.int64}

    def __call__(self, table: pa.Table) -> pa.Table:
        labels = label_numbers(table.column(LABEL).combine_chunks(), LABEL, self.label_names)
        return super().__call__(table).append_column("labels", pa.array(labels))


class WordEncoder:
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

    keep_documents = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, splits: Splits, label_names: Sequence[str] | None = None):
        for split, documents in splits.items():
            words = column_feature(split, documents, TOKENS)
            if getattr(getattr(words, "feature", None), "dtype", None) not in STRINGS:
                raise ValueError(f"column {TOKENS!r} of split {split!r} must hold lists of strings, not {words}")
        self.label_names = find_label_names(splits, TAGS, label_names, lists=True)
        self.tokenizer = plain_text_tokenizer(tokenizer)
        self.dtypes = {"tokens": _token_dtype(tokenizer), "marks": np.int8, "labels": np.int64}

    def __call__(self, table: pa.Table) -> pa.Table:
        words, tags = table.column(TOKENS).combine_chunks(), table.column(TAGS).combine_chunks()
        lengths, num_tags = (pc.fill_null(pc.list_value_length(lists), 0).to_numpy() for lists in (words, tags))
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
        spaces = np.maximum(lengths - 1, 0)
        num_bytes = np.add.reduceat(np.append(word_bytes, 0), offsets[:-1]) * (lengths > 0) + spaces
        columns = _lists(Encoded(encoded.tokens, marks, encoded.offsets), labels=token_labels)
        return pa.table({**columns, "num_bytes": pa.array(num_bytes.astype(np.int64))})


def _token_dtype(tokenizer: PreTrainedTokenizerBase) -> type[np.generic]:
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32


def _lists(encoded: Encoded, **others: Any) -> dict[str, pa.Array]:
    """A list per document of tokens, marks and others."""
    offsets = pa.array(encoded.offsets, pa.int32())
    columns = {"tokens": encoded.tokens, "marks": encoded.marks, **others}
    return {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
