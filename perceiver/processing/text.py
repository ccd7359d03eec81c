"""Text -> model input, for inference. Imports transformers and torch, no Lightning.

Here a special token that is written in the text is that token: "[MASK]" is what the model shall fill. In training text
it is six characters (`tokenization.py`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import AutoTokenizer, PerceiverTokenizer, PreTrainedTokenizerBase

from perceiver.checks import check_least, check_padding_side

PaddingSide = Literal["left", "right"]


# The tokenizer of UTF-8 bytes: a short name, and where it is on the hub. It needs no file.
BYTES = ("bytes", "deepmind/language-perceiver")


def load_tokenizer(source: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """A tokenizer by name.

    Args:
        source: Local folder or hub id; "bytes" for the tokenizer of UTF-8 bytes, which is known without network, under
            its hub id `deepmind/language-perceiver`, too. A folder of either name comes first.
        kwargs: Arguments of the tokenizer, `padding_side` for example.

    Raises:
        OSError, ValueError: if there is no such tokenizer, or if it can't be read.
    """
    if str(source) in BYTES and not Path(source).is_dir():
        return PerceiverTokenizer(name_or_path=str(source), **kwargs)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **kwargs)
    return tokenizer


class TextPreprocessor:
    """Tokenises, truncates to `max_seq_len` and pads to the longest text.

    Args:
        tokenizer: hub id, local folder or "bytes", see `load_tokenizer`, or a tokenizer.
        max_seq_len: in tokens, special tokens included.
        add_special_tokens: adds what the tokenizer adds around a text, for example [CLS] and [SEP].
        padding_side: "left" or "right", the tokenizer's by default.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        max_seq_len: int,
        add_special_tokens: bool = False,
        padding_side: PaddingSide | None = None,
    ):
        check_text_arguments(max_seq_len, padding_side)
        tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.max_seq_len = max_seq_len
        self.add_special_tokens = add_special_tokens
        self.padding_side = padding_side

    def preprocess(self, text: str) -> tuple[Tensor, Tensor]:
        """Returns `input_ids` (n,) int64 and `pad_mask` (n,) bool, True = padding."""
        input_ids, pad_mask = self.preprocess_batch([text])
        return input_ids[0], pad_mask[0]

    def preprocess_batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns `input_ids` (B, n) int64 and `pad_mask` (B, n) bool, True = padding.

        Raises:
            TypeError: if `texts` is a text, which would be as many texts as it has characters, or has what is none.
            ValueError: if there are no texts.
        """
        if isinstance(texts, str):
            raise TypeError("texts is a string, it must be a sequence of strings")
        texts = list(texts)
        if not texts:
            raise ValueError("there are no texts")
        check_texts(texts)
        encoding = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_seq_len,
            add_special_tokens=self.add_special_tokens,
            padding_side=self.padding_side,
            return_attention_mask=True,
            return_tensors="pt",
        )
        # Without a single token the tokenizer returns floats.
        return encoding["input_ids"].long(), ~encoding["attention_mask"].bool()


def check_texts(texts: Iterable[Any]) -> None:
    """Raises TypeError if one of them is no string: missing values of tables are not."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a text is a {type(text).__name__}, it must be a string: {text!r:.200}")


def check_text_arguments(max_seq_len: int, padding_side: str | None) -> None:
    """Raises:
    ValueError: if an argument is out of range.
    """
    check_least(1, max_seq_len=max_seq_len)
    if padding_side is not None:
        check_padding_side(padding_side)
