"""Scoring whole texts: bits per byte, which compare between tokenizers, and perplexity per token and per word."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.evaluation import Evaluation, evaluate_tokens, perplexity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextEvaluation(Evaluation):
    """Score of one or more texts, without the first token of each, which nothing precedes.

    Attributes:
        num_bytes: UTF-8 bytes of what is scored.
        num_words: Words of what is scored: what stands between whitespace.
    """

    num_bytes: int
    num_words: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes

    @property
    def perplexity_per_word(self) -> float:
        return perplexity(self.nats, self.num_words)


def evaluate_text(
    model: CausalSequenceModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Iterable[str],
    *,
    stride: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> TextEvaluation:
    """Scores every token of `texts` once, but the first of each text. No token is predicted from another text.

    Bytes and words of the first token don't count either: the text from the second token on has as many bytes and words
    as are scored. Nothing in a text is a special token, and none is added. If a tokenizer drops something, as XLNet's
    does with line breaks and accents, its bytes count all the same.

    Args:
        model: The model, which is in evaluation mode while it is used.
        tokenizer: The model's tokenizer, a `PerceiverTokenizer` or a fast tokenizer.
        texts: A text, or texts that are read one after the other.
        stride: Number of tokens that a window scores, at most `max_latents`, which is the default, see `score_tokens`.
        batch_size: Number of windows that the model sees at once.
        progress: Called after each window with the number of tokens scored so far.

    Raises:
        ValueError: if there is no token to score, an argument is out of range or the tokenizer is not the model's.
    """
    num_bytes = num_words = 0

    def sequences() -> Iterator[Tensor]:
        nonlocal num_bytes, num_words
        for tokens, scored in tokenized([texts] if isinstance(texts, str) else texts, tokenizer):
            num_bytes += len(scored)
            num_words += sum(1 for _ in re.finditer(r"\S+", scored.decode(errors="replace")))
            yield tokens

    scores = evaluate_tokens(model, sequences(), stride=stride, batch_size=batch_size, progress=progress)
    return TextEvaluation(scores.nats, scores.num_tokens, num_bytes, num_words)


def tokenized(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, bytes]]:
    """Token ids (n,) of each text that has two or more, and the text from its second token on.

    Raises:
        ValueError: if the tokenizer is neither a `PerceiverTokenizer` nor a fast one.
    """
    from perceiver.processing.text import check_texts
    from perceiver.processing.tokenization import check_tokenizer, encode, is_byte_tokenizer, plain_text_tokenizer

    check_tokenizer(tokenizer)
    tokenizer = plain_text_tokenizer(tokenizer)
    for text in texts:
        check_texts([text])
        if is_byte_tokenizer(tokenizer):
            tokens, scored = torch.from_numpy(encode(tokenizer, [text]).tokens), text.encode()[1:]
        else:
            encoding = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
            tokens, scored = torch.tensor(encoding["input_ids"]), b""
            if len(tokens) > 1:
                # SentencePiece may give the first word a space, as a token of its own that shares its character
                first, second = encoding.token_to_chars(0), encoding.token_to_chars(1)
                scored = text[min(first.end, second.start) :].encode()
        if len(tokens) > 1:
            yield tokens, scored
