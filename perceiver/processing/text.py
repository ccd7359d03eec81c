"""Text -> model input, for inference. Imports transformers and torch, no Lightning.

Here a special token that is written in the text is that token: "[MASK]" is what the model shall fill. In training text
it is six characters (`tokenization.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import AutoTokenizer, PerceiverTokenizer, PreTrainedTokenizerBase

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
        tokenizer: str | PreTrainedTokenizerBase,
        max_seq_len: int,
        add_special_tokens: bool = False,
        padding_side: PaddingSide | None = None,
    ):
        check_text_arguments(max_seq_len, padding_side)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
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
            TypeError: if `texts` is a text, which would be as many texts as it has characters.
        """
        if isinstance(texts, str):
            raise TypeError("texts is a string, it must be a sequence of strings")
        encoding = self.tokenizer(
            list(texts),
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


def check_text_arguments(max_seq_len: int, padding_side: str | None) -> None:
    """Raises:
    ValueError: if an argument is out of range.
    """
    if max_seq_len < 1:
        raise ValueError(f"max_seq_len={max_seq_len} must be at least 1")
    if padding_side not in (None, "left", "right"):
        raise ValueError(f"padding_side={padding_side!r} must be 'left', 'right' or None")
