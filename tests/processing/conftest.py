"""The tokenizers of the data tests."""

from tests.data.text.conftest import (
    byte_tokenizer,
    byte_tokenizer_dir,
    fast_tokenizer,
    fast_tokenizer_dir,
    xlnet_tokenizer_dir,
)

__all__ = ["byte_tokenizer", "byte_tokenizer_dir", "fast_tokenizer", "fast_tokenizer_dir", "xlnet_tokenizer_dir"]
