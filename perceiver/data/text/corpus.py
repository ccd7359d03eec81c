"""A tokenised corpus on disk, and its view as chunks.

```
<directory>/key.json            what the corpus was made from
<directory>/<split>.tokens.npy  all documents of a split, one after the other: uint16, or uint32 for big vocabularies
<directory>/<split>.marks.npy   where words start and which tokens are special (`tokenization.Encoded`), int8
```

Chunk i of length L is `tokens[i * L:(i + 1) * L]`. Nothing is lost between preprocessing batches, the last chunk may be
short, and neither the chunk length nor the masking is part of the cache: changing them needs no new preprocessing.
Both arrays are memory-mapped.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from perceiver.data.text.tokenization import START, encode, word_ids

FORMAT_VERSION = 1  # of the files above and of what is in them; part of the key
TEXT_COLUMN = "text"


def write_corpus(
    directory: Path,
    key: Mapping[str, Any],
    load: Callable[[Path], Mapping[str, datasets.Dataset]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_special_tokens: bool,
    batch_size: int,
    num_workers: int,
) -> None:
    """Tokenises all splits into `directory`, which appears complete or not at all.

    Args:
        directory: must not exist.
        key: what identifies the corpus; saved beside it for the reader.
        load: returns the raw splits; gets a folder for intermediate files that is deleted afterwards.
        tokenizer: see `tokenization.encode`.
        add_special_tokens: around each document.
        batch_size: documents that a worker holds in memory.
        num_workers: processes.

    Raises:
        ValueError: if a split has no text column or no text.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete-", dir=directory.parent) as name:
        work, result = Path(name), Path(name) / "result"
        result.mkdir()
        (result / "key.json").write_text(json.dumps(key, indent=2, sort_keys=True))
        for split, documents in load(work).items():
            _check_documents(split, documents)
            encoded = documents.with_format("arrow").map(
                partial(_encode_table, tokenizer=tokenizer, add_special_tokens=add_special_tokens),
                batched=True,
                batch_size=batch_size,
                num_proc=num_workers if num_workers > 1 else None,
                remove_columns=documents.column_names,
                cache_file_name=str(work / f"{split}.arrow"),
                load_from_cache_file=False,
                new_fingerprint=split,  # hashing the tokenizer would buy nothing: these files are deleted below
                desc=f"Tokenizing {split}",
            )
            tokens, marks = encoded.data.column("tokens"), encoded.data.column("marks")
            if not any((chunk.flatten().to_numpy() == START).any() for chunk in marks.chunks):
                raise ValueError(f"split {split!r} has {len(documents)} documents but no text in them")
            _write_flat(result / f"{split}.tokens.npy", tokens, np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
            _write_flat(result / f"{split}.marks.npy", marks, np.int8)
        try:
            result.replace(directory)
        except OSError:
            # Another process was faster: a directory that is not empty cannot be replaced.
            if not directory.is_dir():
                raise


def _check_documents(split: str, documents: datasets.Dataset) -> None:
    if TEXT_COLUMN not in documents.column_names:
        raise ValueError(f"split {split!r} has no column {TEXT_COLUMN!r}, only {documents.column_names}")
    kind = getattr(documents.features[TEXT_COLUMN], "dtype", None)
    if kind not in ("string", "large_string"):
        raise ValueError(f"column {TEXT_COLUMN!r} of split {split!r} must hold strings, not {kind}")
    if len(documents) == 0:
        raise ValueError(f"split {split!r} is empty: it must have at least 1 document")


def _encode_table(table: pa.Table, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> pa.Table:
    encoded = encode(tokenizer, table.column(TEXT_COLUMN).combine_chunks(), add_special_tokens)
    offsets = pa.array(encoded.offsets, pa.int32())
    columns = {"tokens": pa.array(encoded.tokens), "marks": pa.array(encoded.marks)}
    return pa.table({name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()})


def _write_flat(path: Path, column: pa.ChunkedArray, dtype: type[np.generic]) -> None:
    """Writes the values of a list column one after the other, chunk by chunk (bounded memory)."""
    parts = [chunk.flatten() for chunk in column.chunks]  # zero-copy views of a memory-mapped file
    flat = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(sum(len(part) for part in parts),))
    position = 0
    for part in parts:
        flat[position : position + len(part)] = part.to_numpy()
        position += len(part)


class TokenChunks(torch.utils.data.Dataset[dict[str, Any]]):
    """One split of a corpus as chunks of at most `max_seq_len` tokens.

    An item is a dict of `input_ids` (n,) int64, `word_ids` (n,) int64 with -1 for special tokens, and `index` and
    `epoch`, from which a collator derives its random numbers. An item is asked for with `(epoch, index)`, or with
    `index` alone, which is epoch 0.
    """

    def __init__(self, directory: Path, split: str, max_seq_len: int):
        self.directory, self.split, self.max_seq_len = directory, split, max_seq_len
        self.tokens = np.load(directory / f"{split}.tokens.npy", mmap_mode="r")
        self.marks = np.load(directory / f"{split}.marks.npy", mmap_mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry the whole corpus into each spawned worker.
        return type(self), (self.directory, self.split, self.max_seq_len)

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.max_seq_len)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} is not in [0, {len(self)})")
        chunk = slice(index * self.max_seq_len, (index + 1) * self.max_seq_len)
        return {
            "input_ids": self.tokens[chunk].astype(np.int64),
            "word_ids": word_ids(self.marks[chunk]),
            "index": index,
            "epoch": epoch,
        }
