"""Tokenisation for training: a batch of texts -> flat arrays, with the word structure that masking needs.

Raw text never yields special tokens: "[MASK]" in a text is six characters. Only `add_special_tokens` adds them, around
each document. Both paths therefore equal `tokenizer(text, split_special_tokens=True)`, and differ on purpose from
`tokenizer(text)`, which is what inference uses (`text.py`). For SentencePiece's unigram models transformers'
`split_special_tokens` is not enough; `plain_text_tokenizer` makes a tokenizer for which it holds.

* Bytes (`PerceiverTokenizer`, recognised by its class): ids are UTF-8 bytes + 6. Read from Arrow's string buffers with
  numpy, without a Python object per text or token. Whitespace starts a new word and belongs to the word after it.
* Any other fast tokenizer: its own ids and `word_ids`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Encoding, Tokenizer
from transformers import PerceiverTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

NUM_SPECIAL_BYTE_TOKENS = 6  # ids 0..5: [PAD] [BOS] [EOS] [MASK] [CLS] [SEP]
BYTE_VOCAB_SIZE = 256 + NUM_SPECIAL_BYTE_TOKENS

# What a token is in its word. A special token is in no word.
INSIDE, START, SPECIAL = 0, 1, -1

_WHITESPACE = np.zeros(BYTE_VOCAB_SIZE, dtype=bool)
_WHITESPACE[[ord(c) + NUM_SPECIAL_BYTE_TOKENS for c in "\t\n\v\f\r "]] = True


@dataclass(frozen=True)
class Encoded:
    """A batch of K tokenised documents, T tokens in all.

    Attributes:
        tokens: token ids, (T,), unsigned.
        marks: INSIDE, START or SPECIAL for each token, (T,) int8.
        offsets: document k is `tokens[offsets[k]:offsets[k + 1]]`, (K + 1,) int64.
    """

    tokens: npt.NDArray[Any]
    marks: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int64]


def is_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    return isinstance(tokenizer, PerceiverTokenizer)


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{type(tokenizer).__name__} {tokenizer.name_or_path!r}"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises:
    ValueError: if `encode` cannot use this tokenizer.
    """
    if is_byte_tokenizer(tokenizer):
        if len(tokenizer) != BYTE_VOCAB_SIZE:
            raise ValueError(f"{tokenizer_name(tokenizer)} has {len(tokenizer)} tokens, must have {BYTE_VOCAB_SIZE}")
    elif not tokenizer.is_fast:
        raise ValueError(f"{tokenizer_name(tokenizer)} has no word ids: use a fast tokenizer or PerceiverTokenizer")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Changes with everything in the tokenizer that changes what `encode` returns."""
    if is_byte_tokenizer(tokenizer):
        return "utf-8 bytes"
    content = json.loads(plain_text_tokenizer(tokenizer).backend_tokenizer.to_str())
    # Left behind by earlier calls; `encode` neither truncates nor pads.
    content.pop("truncation")
    content.pop("padding")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plain_text_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the same ids that takes special tokens written in a text for plain text.

    SentencePiece's unigram models (XLNet, T5, ...) need it: their special tokens are pieces of the vocabulary like any
    other, so "<mask>" in a text would be one. Here the pieces are renamed to what no text can match; the tokens that
    `add_special_tokens` adds are known by their ids. Any other tokenizer is returned as it is.
    """
    if is_byte_tokenizer(tokenizer):
        return tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "Unigram":
        return tokenizer
    vocabulary, special_ids = content["model"]["vocab"], set(tokenizer.all_special_ids)
    for token_id in special_ids & set(range(len(vocabulary))):
        vocabulary[token_id][0] = f" \uffff{token_id}"  # no piece has a space, and U+FFFF is no character
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in special_ids]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: pa.Array | Sequence[str], add_special_tokens: bool = False
) -> Encoded:
    """Tokenises a batch of documents.

    Args:
        tokenizer: a `PerceiverTokenizer` or a fast tokenizer (see `check_tokenizer` and `plain_text_tokenizer`).
        texts: documents; in an Arrow array a missing one counts as empty.
        add_special_tokens: adds what the tokenizer adds around a single text, for example [CLS] and [SEP].
    """
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, type=pa.large_string())
    array = pc.fill_null(array.cast(pa.large_string()), "")
    if is_byte_tokenizer(tokenizer):
        return _encode_bytes(array, tokenizer, add_special_tokens)
    return _encode_fast(array, tokenizer, add_special_tokens)


def encode_words(
    tokenizer: PreTrainedTokenizerBase, words: pa.Array, offsets: npt.NDArray[np.int64]
) -> tuple[Encoded, npt.NDArray[np.int64]]:
    """Tokenises sentences that are given as words, as the text with a space between two words.

    Args:
        tokenizer: as in `encode`.
        words: the words of all sentences, one sentence after the other, as large strings; none is empty.
        offsets: sentence k is `words[offsets[k]:offsets[k + 1]]`, (K + 1,).

    Returns:
        The sentences, whose marks ignore where `words` begin, and the number of each token's word, (T,), -1 for tokens
        in no word. A token of two words, which some tokenizers have, is of the second.
    """
    lengths = np.diff(offsets)
    first = np.zeros(len(words), bool)
    first[offsets[:-1][lengths > 0]] = True
    if is_byte_tokenizer(tokenizer):
        space = pa.scalar(" ", pa.large_string())
        spaced = pc.binary_join_element_wise(pa.scalar("", pa.large_string()), words, space)
        encoded = encode(tokenizer, pc.if_else(pa.array(first), words, spaced))
        words_of_tokens = np.repeat(np.arange(len(words)), np.diff(encoded.offsets))
        words_of_tokens[encoded.offsets[:-1][~first]] = -1
        return Encoded(encoded.tokens, encoded.marks, encoded.offsets[offsets]), words_of_tokens

    sentences = [words[start:stop].to_pylist() for start, stop in pairwise(offsets)]
    encodings = _fast_encodings(tokenizer, [" ".join(sentence) for sentence in sentences], add_special_tokens=False)
    numbers = [np.zeros(0, np.int64)]
    for sentence, start, encoding in zip(sentences, offsets[:-1], encodings, strict=True):
        # The number of each character's word, -1 for the spaces; one more for tokens without characters.
        of_characters = np.array(
            [n for i, word in enumerate(sentence) for n in ([start + i] * len(word) + [-1])] or [-1]
        )
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        numbers.append(of_characters[np.where(spans[:, 1] > spans[:, 0], spans[:, 1] - 1, -1)])
    return _flat(encodings), np.concatenate(numbers)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer adds before and after a text."""
    encoded = encode(plain_text_tokenizer(tokenizer), ["a"], add_special_tokens=True)
    text = np.flatnonzero(encoded.marks != SPECIAL)
    return encoded.tokens[: text[0]].tolist(), encoded.tokens[text[-1] + 1 :].tolist()


def end_of_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a document.

    Raises:
        ValueError: if the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{tokenizer_name(tokenizer)} has no end-of-text token (eos_token) to separate documents")
    return int(tokenizer.eos_token_id)


def append_special(encoded: Encoded, token_id: int) -> Encoded:
    """A special token after each document."""
    ends = encoded.offsets[1:]
    tokens, marks = np.insert(encoded.tokens, ends, token_id), np.insert(encoded.marks, ends, SPECIAL)
    return Encoded(tokens, marks, encoded.offsets + np.arange(len(encoded.offsets)))


def _encode_bytes(texts: pa.Array, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> Encoded:
    if len(texts) == 0:
        return Encoded(np.zeros(0, np.uint16), np.zeros(0, np.int8), np.zeros(1, np.int64))

    _, offset_buffer, byte_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    raw = np.frombuffer(byte_buffer if byte_buffer is not None else b"", np.uint8)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]

    tokens = raw.astype(np.uint16) + np.uint16(NUM_SPECIAL_BYTE_TOKENS)
    whitespace = _WHITESPACE[tokens]
    marks = np.zeros(len(tokens), np.int8)
    marks[1:] = whitespace[1:] & ~whitespace[:-1]
    marks[offsets[:-1][np.diff(offsets) > 0]] = START  # words of neighbouring documents never merge

    if add_special_tokens:
        # Where one document ends and the next begins, np.insert keeps the given order: [SEP], then [CLS].
        where = np.stack([offsets[:-1], offsets[1:]], axis=1).ravel()
        special = np.tile(np.array([tokenizer.cls_token_id, tokenizer.sep_token_id], np.uint16), len(texts))
        tokens = np.insert(tokens, where, special)
        marks = np.insert(marks, where, SPECIAL)
        offsets = offsets + 2 * np.arange(len(offsets))
    return Encoded(tokens, marks, offsets)


def _encode_fast(texts: pa.Array, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> Encoded:
    return _flat(_fast_encodings(tokenizer, texts.to_pylist(), add_special_tokens))


def _fast_encodings(tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool) -> list[Encoding]:
    if not texts:
        return []
    batch = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,  # no warning about texts longer than the model: they are cut into chunks later
    )
    return batch.encodings or []


def _flat(encodings: list[Encoding]) -> Encoded:
    tokens = [np.zeros(0, np.uint32), *(np.array(encoding.ids, np.uint32) for encoding in encodings)]
    marks = [np.zeros(0, np.int8), *(_marks(encoding.word_ids) for encoding in encodings)]
    offsets = np.cumsum([len(ids) for ids in tokens])
    return Encoded(np.concatenate(tokens), np.concatenate(marks), offsets)


def _marks(word_ids: list[int | None]) -> npt.NDArray[np.int8]:
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    marks = np.full(len(words), START, np.int8)
    marks[1:][words[1:] == words[:-1]] = INSIDE
    marks[words < 0] = SPECIAL
    return marks


def word_ids(marks: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Number of each token's word: 1, 2, ...; 0 if it began before the first token; -1 for special. (n,) -> (n,)."""
    words = np.cumsum(marks == START)
    words[marks == SPECIAL] = -1
    return words
