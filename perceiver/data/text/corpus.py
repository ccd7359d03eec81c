"""A tokenised corpus on disk, and its view as chunks.

```
<directory>/key.json            what the corpus was made from
<directory>/num_bytes.json      UTF-8 bytes of the raw text of each split, the unit that losses of tokenizers share
<directory>/<split>.tokens.npy  all documents of a split, one after the other: uint16, or uint32 for big vocabularies
<directory>/<split>.marks.npy   where words start and which tokens are special (`tokenization.Encoded`), int8
```

Chunk i of length L is `tokens[i * L:(i + 1) * L]`. Nothing is lost between preprocessing batches, the last chunk may be
short, and neither the task nor the chunk length is part of the cache: changing them needs no new preprocessing. Both
arrays are memory-mapped.
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
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

from perceiver.data.text.streams import WINDOWS, stream
from perceiver.data.text.tokenization import START, encode, plain_text_tokenizer, word_ids

FORMAT_VERSION = 2  # of the files above and of what is in them; part of the key
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
        num_bytes = {}
        plain_text = plain_text_tokenizer(tokenizer)
        for split, documents in load(work).items():
            _check_documents(split, documents)
            encoded = documents.with_format("arrow").map(
                partial(_encode_table, tokenizer=plain_text, add_special_tokens=add_special_tokens),
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
            num_bytes[split] = pc.sum(encoded.data.column("num_bytes")).as_py()
        (result / "num_bytes.json").write_text(json.dumps(num_bytes))
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
    texts = table.column(TEXT_COLUMN).combine_chunks()
    encoded = encode(tokenizer, texts, add_special_tokens)
    offsets = pa.array(encoded.offsets, pa.int32())
    columns = {"tokens": pa.array(encoded.tokens), "marks": pa.array(encoded.marks)}
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()}
    return pa.table({**lists, "num_bytes": pc.binary_length(texts)})


def _write_flat(path: Path, column: pa.ChunkedArray, dtype: type[np.generic]) -> None:
    """Writes the values of a list column one after the other, chunk by chunk (bounded memory)."""
    parts = [chunk.flatten() for chunk in column.chunks]  # zero-copy views of a memory-mapped file
    flat = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(sum(len(part) for part in parts),))
    position = 0
    for part in parts:
        flat[position : position + len(part)] = part.to_numpy()
        position += len(part)


class TokenChunks(torch.utils.data.Dataset[dict[str, Any]]):
    """One split of a corpus as chunks, each the input of one example.

    An item is asked for with `(epoch, index)`, or with `index` alone, which is epoch 0. It is a dict of `index`,
    `epoch` and int64 arrays:

    * `input_ids` (n,) and `word_ids` (n,), -1 for special tokens: chunks of `max_seq_len` tokens
    * with `next_token`, `input_ids` (n,) and `label_ids` (n,), each label the token after its input: chunks of
      `max_seq_len + 1` tokens, n of which are inputs and n labels. Chunks don't overlap, so the first token of each is
      no label. If the split ends with a chunk of a single token, nothing can be predicted from it and it is left out.

    Shift and length are drawn per (seed, epoch, index).

    Args:
        directory: a folder that `write_corpus` wrote.
        split: name of the split.
        max_seq_len: inputs per example; only the last chunk of a split has fewer.
        next_token: see above.
        shift: start each chunk up to a chunk later, so that it ends with the head of the next one. There is one chunk
            less, unless there is only one.
        min_seq_len: cut each example on the right, to this length at least; by one token at least, as the published
            library does. Examples that are not longer stay as they are.
        seed: of shifts and lengths, not negative.

    Raises:
        ValueError: if the split has no example.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        max_seq_len: int,
        *,
        next_token: bool = False,
        shift: bool = False,
        min_seq_len: int | None = None,
        seed: int = 0,
    ):
        self.directory, self.split, self.max_seq_len, self.next_token = directory, split, max_seq_len, next_token
        self.shift, self.min_seq_len, self.seed = shift, min_seq_len, seed
        self.chunk_len = max_seq_len + next_token
        self.tokens = np.load(directory / f"{split}.tokens.npy", mmap_mode="r")
        self.marks = np.load(directory / f"{split}.marks.npy", mmap_mode="r")
        if len(self) == 0:
            raise ValueError(f"split {split!r} has {len(self.tokens)} tokens: too few for a single example")

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry the whole corpus into each spawned worker.
        options = {name: getattr(self, name) for name in ("next_token", "shift", "min_seq_len", "seed")}
        return partial(type(self), self.directory, self.split, self.max_seq_len, **options), ()

    def __len__(self) -> int:
        num_chunks = -(-(len(self.tokens) - self.next_token) // self.chunk_len)
        return num_chunks - 1 if self.shift and num_chunks > 1 else num_chunks

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} is not in [0, {len(self)})")
        chunk = self._window(epoch, index)
        tokens = self.tokens[chunk].astype(np.int64)
        if self.next_token:
            return {"input_ids": tokens[:-1], "label_ids": tokens[1:], "index": index, "epoch": epoch}
        return {"input_ids": tokens, "word_ids": word_ids(self.marks[chunk]), "index": index, "epoch": epoch}

    def _window(self, epoch: int, index: int) -> slice:
        start = index * self.chunk_len
        if not self.shift and self.min_seq_len is None:
            return slice(start, start + self.chunk_len)
        random = stream(WINDOWS, self.seed, epoch, index)
        if self.shift:
            last_start = max(len(self.tokens) - self.chunk_len, 0)
            start += int(random.integers(min(self.chunk_len, last_start - start + 1)))
        length = min(self.chunk_len, len(self.tokens) - start) - self.next_token
        if self.min_seq_len is not None and length > self.min_seq_len:
            length = int(random.integers(self.min_seq_len, length))
        return slice(start, start + length + self.next_token)
