"""What the Hugging Face models of text have in common."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer


def text_tokenizer(name: str, *, vocab_size: int | None = None, max_seq_len: int | None = None, **kwargs: Any) -> Any:
    """The tokenizer `name`, as a converted model is saved with.

    Args:
        name: Folder or hub id.
        vocab_size: Number of token ids that the model has.
        max_seq_len: Longest sequence that the model takes, to which texts shall be cut. None: they shall not.
        kwargs: Arguments of the tokenizer, `padding_side` for example.

    Raises:
        ValueError: if the tokenizer has more ids than `vocab_size`.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise ValueError(f"tokenizer {name} has {len(tokenizer)} ids, the model's vocabulary only {vocab_size}")
    # What forward takes, no token_type_ids. Only what is in init_kwargs is saved.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    if max_seq_len is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, max_seq_len)
    return tokenizer
