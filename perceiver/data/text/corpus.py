"""A tokenised corpus on disk, and its views as examples.

```
<directory>/key.json            what the corpus was made from
<directory>/num_bytes.json      UTF-8 bytes of the raw text of each split, the unit that losses of tokenizers share
<directory>/<split>.tokens.npy  all documents of a split, one after the other: uint16, or uint32 for big vocabularies
<directory>/<split>.marks.npy   where words start and which tokens are special (`tokenization.Encoded`), int8
```

Labelled text has more, and no special tokens in it, because those are put around what an example takes of a document:

```
<directory>/label_names.json      names of the labels 0, 1, ...
<directory>/<split>.offsets.npy   document k is tokens[offsets[k]:offsets[k + 1]], int64
<directory>/<split>.labels.npy    a label per document (classification) or per token (labelled words), int64
```

Chunk i of length L is `tokens[i * L:(i + 1) * L]`. Nothing is lost between preprocessing batches, the last chunk may be
short, and neither the chunk length nor whether words or next tokens are predicted is part of the cache: changing them
needs no new preprocessing. All arrays are memory-mapped.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from perceiver.data.streams import WINDOWS, stream
from perceiver.processing.tokenization import SPECIAL, START, word_ids

FORMAT_VERSION = 3  # of the files above and of what is in them; part of the key

Key = int | tuple[int, int] | tuple[int, int, bool]
Tokens = npt.NDArray[np.int64]


def write_corpus(
    directory: Path,
    key: Mapping[str, Any],
    load: Callable[[Path], Mapping[str, datasets.Dataset]],
    encoder: Callable[[Mapping[str, datasets.Dataset]], "Encoder"],
    *,
    batch_size: int,
    num_workers: int,
) -> None:
    """Tokenises all splits into `directory`, which appears complete or not at all.

    Args:
        directory: must not exist.
        key: what identifies the corpus; saved beside it for the reader.
        load: returns the raw splits; gets a folder for intermediate files that is deleted afterwards.
        encoder: makes what tokenises the documents, given the splits (`encoders.py`).
        batch_size: documents that a worker holds in memory.
        num_workers: processes.

    Raises:
        ValueError: if a split lacks a column, or has no text or a wrong label.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete-", dir=directory.parent) as name:
        work, result = Path(name), Path(name) / "result"
        result.mkdir()
        (result / "key.json").write_text(json.dumps(key, indent=2, sort_keys=True))
        num_bytes = {}
        splits = load(work)
        for split, documents in splits.items():
            if len(documents) == 0:
                raise ValueError(f"split {split!r} is empty: it must have at least 1 document")
        encode = encoder(splits)
        for split, documents in splits.items():
            columns = documents.with_format("arrow").map(
                encode,
                batched=True,
                batch_size=batch_size,
                num_proc=min(num_workers, len(documents)) if num_workers > 1 else None,
                remove_columns=documents.column_names,
                cache_file_name=str(work / f"{split}-tokenized.arrow"),
                load_from_cache_file=False,
                new_fingerprint=split,  # hashing the tokenizer would buy nothing: these files are deleted below
                desc=f"Tokenizing {split}",
            )
            marks = columns.data.column("marks")
            if not any((chunk.flatten().to_numpy() == START).any() for chunk in marks.chunks):
                raise ValueError(f"split {split!r} has {len(documents)} documents but no text in them")
            for column, dtype in encode.dtypes.items():
                _write_flat(result / f"{split}.{column}.npy", columns.data.column(column), dtype)
            if encode.label_names is not None:
                lengths = [pc.list_value_length(chunk).to_numpy() for chunk in marks.chunks]
                np.save(result / f"{split}.offsets.npy", np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64))
            num_bytes[split] = pc.sum(columns.data.column("num_bytes")).as_py()
        (result / "num_bytes.json").write_text(json.dumps(num_bytes))
        if encode.label_names is not None:
            (result / "label_names.json").write_text(json.dumps(encode.label_names))
        try:
            result.replace(directory)
        except OSError:
            # Another process was faster: a directory that is not empty cannot be replaced.
            if not directory.is_dir():
                raise


def check_corpus(directory: Path, key: Mapping[str, Any]) -> None:
    """Checks that a folder is what `write_corpus` made from `key`.

    Raises:
        ValueError: if it was made from something else, by another version for example.
    """
    try:
        found = json.loads((directory / "key.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} is no cache of this version, delete it: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{directory} is no cache of this version, delete it: key.json holds {found!r}")
    for name, value in json.loads(json.dumps(key)).items():
        if found.get(name) != value:
            raise ValueError(f"{directory} was made with {name}={found.get(name)!r}, not {value!r}: delete it")


class Encoder(ABC):
    """Tokenises a batch of documents: a table of raw columns -> a table with `tokens`, `marks`, `num_bytes`, `labels`.

    Attributes:
        dtypes: what the columns `tokens`, `marks` and, if there are labels, `labels` are stored as.
        label_names: names of the labels, None without labels.
    """

    dtypes: dict[str, type[np.generic]]
    label_names: list[str] | None = None

    @abstractmethod
    def __call__(self, table: pa.Table) -> pa.Table: ...


def _write_flat(path: Path, column: pa.ChunkedArray, dtype: type[np.generic]) -> None:
    """Writes the values of a column, or of its lists one after the other, chunk by chunk (bounded memory)."""
    # flatten: zero-copy views of a memory-mapped file
    parts = [chunk.flatten() if isinstance(chunk, pa.ListArray) else chunk for chunk in column.chunks]
    flat = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(sum(len(part) for part in parts),))
    position = 0
    for part in parts:
        flat[position : position + len(part)] = part.to_numpy()
        position += len(part)


class Examples(torch.utils.data.Dataset[dict[str, Any]], ABC):
    """Examples of one split of a corpus: dicts of `index`, `epoch` and what subclasses say.

    An item is asked for with `(epoch, index)`, or with `index` alone, which is epoch 0. With `(epoch, index, True)` it
    also has a true `repeated`: some process takes it a second time, and its labels must not count (`loader.py`).

    Args:
        directory: a folder that `write_corpus` wrote.
        split: name of the split.

    Raises:
        ValueError: if files of the split are missing or damaged.
    """

    def __init__(self, directory: Path, split: str):
        self.directory, self.split = directory, split
        self.tokens, self.marks = self._array("tokens"), self._array("marks")
        if len(self.tokens) != len(self.marks):
            raise ValueError(
                f"{directory} is damaged, delete it: {len(self.tokens)} tokens and {len(self.marks)} marks of {split!r}"
            )

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            return np.load(self.directory / f"{self.split}.{name}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self.directory} is damaged, delete it: {error}") from error

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """What is in the example besides `index` and `epoch`."""

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index, *repeated = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} is not in [0, {len(self)})")
        result = {**self.example(epoch, index), "index": index, "epoch": epoch}
        return {**result, "repeated": True} if any(repeated) else result


class TokenChunks(Examples):
    """One split of a corpus as chunks, each the input of one example, with int64 arrays:

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
        ValueError: if the split has no example, or its files are missing or damaged.
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
        super().__init__(directory, split)
        self.max_seq_len, self.next_token = max_seq_len, next_token
        self.shift, self.min_seq_len, self.seed = shift, min_seq_len, seed
        self.chunk_len = max_seq_len + next_token
        if len(self) == 0:
            raise ValueError(f"split {split!r} has {len(self.tokens)} tokens: too few for a single example")

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry the whole corpus into each spawned worker.
        options = {name: getattr(self, name) for name in ("next_token", "shift", "min_seq_len", "seed")}
        return partial(type(self), self.directory, self.split, self.max_seq_len, **options), ()

    def __len__(self) -> int:
        num_chunks = -(-(len(self.tokens) - self.next_token) // self.chunk_len)
        return num_chunks - 1 if self.shift and num_chunks > 1 else num_chunks

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        chunk = self._window(epoch, index)
        tokens = self.tokens[chunk].astype(np.int64)
        if self.next_token:
            return {"input_ids": tokens[:-1], "label_ids": tokens[1:]}
        return {"input_ids": tokens, "word_ids": word_ids(self.marks[chunk])}

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


class Labelled(Examples):
    """What examples of labelled text share: documents, labels, and the special tokens around an example.

    Args:
        directory: a folder that `write_corpus` wrote.
        split: name of the split.
        max_seq_len: inputs per example, at most.
        special_ids: special tokens before and after the tokens of a document.

    Raises:
        ValueError: if `max_seq_len` leaves no room for text, or the split's files are missing or damaged.
    """

    def __init__(
        self, directory: Path, split: str, max_seq_len: int, special_ids: tuple[Sequence[int], Sequence[int]] = ((), ())
    ):
        super().__init__(directory, split)
        self.offsets, self.labels = self._array("offsets"), self._array("labels")
        self.max_seq_len, self.special_ids = max_seq_len, special_ids
        self.prefix, self.suffix = (np.array(ids, np.int64) for ids in special_ids)
        self.room = max_seq_len - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            raise ValueError(
                f"max_seq_len={max_seq_len} leaves no room for text beside "
                f"{len(self.prefix) + len(self.suffix)} special tokens"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.split, self.max_seq_len, self.special_ids)

    def _input_ids(self, start: int, stop: int) -> Tokens:
        return np.concatenate([self.prefix, self.tokens[start:stop].astype(np.int64), self.suffix])


class LabelledDocuments(Labelled):
    """One document per example, cut on the right: `input_ids` (n,) int64 and `label`, an int."""

    def __len__(self) -> int:
        return len(self.labels)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return {"input_ids": self._input_ids(start, min(stop, start + self.room)), "label": int(self.labels[index])}


class LabelledWords(Labelled):
    """Sentences whose words have labels: `input_ids`, `label_ids` and `word_ids` (n,) int64.

    Labels are -100, and word ids -1, at special tokens and at whitespace between words. A sentence that is too long
    becomes several examples, cut between words; a word that is too long for any is cut itself. No word is left out.
    """

    def __init__(
        self, directory: Path, split: str, max_seq_len: int, special_ids: tuple[Sequence[int], Sequence[int]] = ((), ())
    ):
        super().__init__(directory, split, max_seq_len, special_ids)
        starts, stops = np.asarray(self.offsets[:-1]), np.asarray(self.offsets[1:])
        pieces = [np.stack([starts, stops], axis=1)[(stops - starts > 0) & (stops - starts <= self.room)]]
        pieces += [self._cut(int(starts[k]), int(stops[k])) for k in np.flatnonzero(stops - starts > self.room)]
        self.spans = np.concatenate(pieces)
        self.spans = self.spans[np.argsort(self.spans[:, 0], kind="stable")]  # in the order of the text

    def _cut(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Spans (pieces, 2) of a sentence that is too long."""
        # Where a word, or the whitespace before it, begins.
        marks = np.asarray(self.marks[start:stop])
        begins = marks == START
        begins[:-1] |= (marks[:-1] == SPECIAL) & (marks[1:] == START)
        begins[1:] &= ~((marks[:-1] == SPECIAL) & (marks[1:] == START))
        candidates = [*(np.flatnonzero(begins) + start).tolist(), stop]
        spans, first = [], start
        while first < stop:
            last = max((c for c in candidates if first < c <= first + self.room), default=first + self.room)
            spans.append((first, last))
            first = last
        return np.array(spans, np.int64)

    def __len__(self) -> int:
        return len(self.spans)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        start, stop = self.spans[index].tolist()
        around = [(len(self.prefix), len(self.suffix))]
        return {
            "input_ids": self._input_ids(start, stop),
            "label_ids": np.pad(self.labels[start:stop], around, constant_values=-100),
            "word_ids": np.pad(word_ids(self.marks[start:stop]), around, constant_values=-1),
        }
