"""Tokenizers that are made offline and saved as folders: UTF-8 bytes, and a real SentencePiece model for XLNet's."""

import io
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import sentencepiece
from transformers import PerceiverTokenizer, XLNetTokenizer

XLNET_VOCAB_SIZE = 500


def byte_tokenizer(folder: str | Path) -> PerceiverTokenizer:
    """Writes the 262-token byte tokenizer into `folder` and returns it."""
    tokenizer = PerceiverTokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer


def xlnet_tokenizer(folder: str | Path) -> XLNetTokenizer:
    """Writes a 500-token XLNet tokenizer for English into `folder` and returns it. The first call takes a second."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(_sentencepiece_model())
    tokenizer = XLNetTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


@cache
def _sentencepiece_model() -> bytes:
    """Unigram model of the language reference, with XLNet's special pieces at XLNet's ids."""
    model = io.BytesIO()
    lines = (line.strip() for name in sorted(topics) for line in topics[name].splitlines() if line.strip())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for number, line in enumerate(lines) if number % 4 == 0),
        model_writer=model,
        model_type="unigram",
        vocab_size=XLNET_VOCAB_SIZE,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        control_symbols=["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"],
        user_defined_symbols=["<eop>"],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
