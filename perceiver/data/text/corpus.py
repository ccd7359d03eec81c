"""A tokenised corpus on disk, and its views as examples.

```
<directory>/key.json            what the corpus was made from (`cache.py`)
<directory>/num_bytes.json      UTF-8 bytes of the raw text of each split, the unit that losses of tokenizers share
<directory>/<split>.tokens.npy  all documents of a split, one after the other: uint16, or uint32 for big vocabularies
<directory>/<split>.marks.npy   where words start and which tokens are special (`tokenization.Encoded`), int8
```

Where documents stay apart there is also

```
<directory>/<split>.offsets.npy   document k is tokens[offsets[k]:offsets[k + 1]], int64
```

Labelled text has that and more, and no special tokens in it, because those are put around what an example takes of a
document:

```
<directory>/label_names.json      names of the labels 0, 1, ...
<directory>/<split>.labels.npy    a label per document (classification) or per token (labelled words), int64
```

Chunk i of length L is `tokens[i * L:(i + 1) * L]`. Nothing is lost between preprocessing batches, the last chunk may be
short, and neither the chunk length nor whether words or next tokens are predicted is part of the cache: changing them
needs no new preprocessing. All arrays are memory-mapped.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from perceiver.data.cache import ArrayFile, read_json, read_offsets
from perceiver.data.examples import IGNORE, CachedExamples
from perceiver.data.streams import WINDOWS, stream
from perceiver.data.text.encoders import Splits, TextEncoder, WordEncoder
from perceiver.data.workers import map_ordered
from perceiver.processing.tokenization import SPECIAL, START, word_ids


def write_corpus(
    result: Path, splits: Splits, encode: TextEncoder | WordEncoder, batch_size: int, num_workers: int
) -> None:
    """Tokenises all splits.

    Args:
        result: folder for the corpus.
        splits: raw splits.
        encode: tokenises a batch of documents.
        batch_size: documents that a worker holds in memory.
        num_workers: processes.

    Raises:
        ValueError: if a split has no text or a wrong label.
    """
    num_bytes = {}
    for split, documents in splits.items():
        if len(documents) == 0:
            raise ValueError(f"split {split!r} is empty: it must have at least 1 document")
        num_bytes[split] = _write_split(result, split, documents, encode, batch_size, num_workers)
    (result / "num_bytes.json").write_text(json.dumps(num_bytes))
    if encode.label_names is not None:
        (result / "label_names.json").write_text(json.dumps(encode.label_names))


def _write_split(
    result: Path,
    split: str,
    documents: datasets.Dataset,
    encode: TextEncoder | WordEncoder,
    batch_size: int,
    num_workers: int,
) -> int:
    """Tokenises a split; returns the UTF-8 bytes of its raw text."""
    names = [*encode.dtypes, *(["offsets"] if encode.keep_documents else [])]
    dtypes = {**encode.dtypes, "offsets": np.int64}
    num_bytes, num_tokens, has_text = 0, 0, False
    with ExitStack() as stack:
        files = {name: stack.enter_context(ArrayFile(result / f"{split}.{name}.npy", dtypes[name])) for name in names}
        progress = stack.enter_context(tqdm(desc=f"Tokenizing {split}", total=len(documents), unit=" examples"))
        if "offsets" in files:
            files["offsets"].write(np.zeros(1))
        starts = range(0, len(documents), batch_size)
        rows = partial(_encoded_rows, documents.with_format("arrow"), encode, batch_size)
        batches = stack.enter_context(closing(map_ordered(rows, starts, min(num_workers, len(starts)))))
        for batch in batches:
            for name in encode.dtypes:
                files[name].write(_flat(batch.column(name)))
            if "offsets" in files:
                ends = num_tokens + np.cumsum(pc.list_value_length(batch.column("marks")).to_numpy(), dtype=np.int64)
                files["offsets"].write(ends)
            marks = _flat(batch.column("marks"))
            num_tokens, has_text = num_tokens + len(marks), has_text or bool((marks == START).any())
            num_bytes += pc.sum(batch.column("num_bytes")).as_py()
            progress.update(len(batch))
    if not has_text:
        raise ValueError(f"split {split!r} has {len(documents)} documents but no text in them")
    return num_bytes


def _encoded_rows(
    documents: datasets.Dataset, encode: TextEncoder | WordEncoder, batch_size: int, start: int
) -> pa.Table:
    return encode(documents[start : start + batch_size])


def _flat(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values of a column, or of its lists one after the other."""
    values = column.combine_chunks()
    return (values.flatten() if isinstance(values, pa.ListArray) else values).to_numpy()


@dataclass(eq=False)
class TextExamples(CachedExamples[dict[str, Any]]):
    """Examples of one split of a corpus: dicts, with a true `repeated` where that is what they are."""

    def __post_init__(self) -> None:
        self.tokens, self.marks = self.array("tokens"), self.array("marks")
        tokens, marks = len(self.tokens), len(self.marks)
        if tokens != marks:
            raise ValueError(
                f"{self.directory} is damaged, delete it: {tokens} tokens, {marks} marks of {self.split!r}"
            )

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the raw text."""
        counted = read_json(self.directory, "num_bytes.json", dict).get(self.split)
        if not isinstance(counted, int) or counted < 0:
            raise ValueError(
                f"{self.directory} is damaged, delete it: num_bytes.json has {counted!r} for {self.split!r}"
            )
        return counted

    def repeated(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "repeated": True}  # for the collator, which may make the labels


@dataclass(eq=False)
class TokenChunks(TextExamples):
    """One split of a corpus as chunks, each the input of one example, with its `index` and `epoch` and int64 arrays:

    * `input_ids` (n,) and `word_ids` (n,), -1 for special tokens: chunks of `max_seq_len` tokens
    * with `next_token`, `input_ids` (n,) and `label_ids` (n,), each label the token after its input: chunks of
      `max_seq_len + 1` tokens, n of which are inputs and n labels. Chunks don't overlap, so the first token of each is
      no label. If the split ends with a chunk of a single token, nothing can be predicted from it and it is left out.

    Shift and length are drawn per (seed, epoch, index).

    Args:
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

    max_seq_len: int
    _: KW_ONLY
    next_token: bool = False
    shift: bool = False
    min_seq_len: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chunk_len = self.max_seq_len + self.next_token
        if len(self) == 0:
            raise ValueError(f"split {self.split!r} has {len(self.tokens)} tokens: too few for a single example")

    def __len__(self) -> int:
        num_chunks = -(-(len(self.tokens) - self.next_token) // self.chunk_len)
        return num_chunks - 1 if self.shift and num_chunks > 1 else num_chunks

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        chunk = self._window(epoch, index)
        tokens = self.tokens[chunk].astype(np.int64)
        if self.next_token:
            return {"index": index, "epoch": epoch, "input_ids": tokens[:-1], "label_ids": tokens[1:]}
        return {"index": index, "epoch": epoch, "input_ids": tokens, "word_ids": word_ids(self.marks[chunk])}

    def _bounds(self, index: int) -> tuple[int, int]:
        """Where a chunk starts, and where the text ends that it may take."""
        return index * self.chunk_len, len(self.tokens)

    def _window(self, epoch: int, index: int) -> slice:
        start, end = self._bounds(index)
        if not self.shift and self.min_seq_len is None:
            return slice(start, min(start + self.chunk_len, end))
        random = stream(WINDOWS, self.seed, epoch, index)
        if self.shift:
            last_start = max(end - self.chunk_len, 0)
            start += int(random.integers(min(self.chunk_len, last_start - start + 1)))
        length = min(self.chunk_len, end - start) - self.next_token
        if self.min_seq_len is not None and length > self.min_seq_len:
            length = int(random.integers(self.min_seq_len, length))
        return slice(start, start + length + self.next_token)


@dataclass(eq=False)
class DocumentChunks(TokenChunks):
    """The same of documents that stay apart: each begins with a chunk of its own and ends with one that may be short.

    They have next tokens, and can be packed (`packing.py`).
    """

    next_token: bool = True

    @cached_property
    def spans(self) -> npt.NDArray[np.int64]:
        """Start and stop of each chunk, (chunks, 2)."""
        offsets = read_offsets(self.directory, f"{self.split}.offsets", len(self.tokens))
        counts = -(-(np.diff(offsets) - 1) // self.chunk_len)  # a last token alone predicts nothing
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(offsets[:-1], counts) + number * self.chunk_len
        return np.stack([starts, np.minimum(starts + self.chunk_len, np.repeat(offsets[1:], counts))], axis=1)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self.spans[:, 1] - self.spans[:, 0] - 1

    def __len__(self) -> int:
        return len(self.spans)

    def _bounds(self, index: int) -> tuple[int, int]:
        start, stop = self.spans[index].tolist()
        return start, stop

    def window(self, epoch: int, index: int) -> npt.NDArray[np.int64]:
        return self.tokens[self._window(epoch, index)].astype(np.int64)


@dataclass(eq=False)
class Labelled(TextExamples):
    """What examples of labelled text share: documents, labels, and the special tokens around an example.

    Args:
        max_seq_len: inputs per example, at most.
        special_ids: special tokens before and after the tokens of a document.

    Raises:
        ValueError: if `max_seq_len` leaves no room for text.
    """

    max_seq_len: int
    special_ids: tuple[Sequence[int], Sequence[int]] = ((), ())

    def __post_init__(self) -> None:
        super().__post_init__()
        self.offsets = read_offsets(self.directory, f"{self.split}.offsets", len(self.tokens))
        self.labels = self.array("labels")
        if len(self.labels) != (expected := self._num_labels()):
            found = f"{len(self.labels)} labels of {self.split!r}, not {expected}"
            raise ValueError(f"{self.directory} is damaged, delete it: {found}")
        self.prefix, self.suffix = (np.array(ids, np.int64) for ids in self.special_ids)
        num_special = len(self.prefix) + len(self.suffix)
        self.room = self.max_seq_len - num_special
        if self.room < 1:
            raise ValueError(
                f"max_seq_len={self.max_seq_len} leaves no room for text beside {num_special} special tokens"
            )

    @abstractmethod
    def _num_labels(self) -> int:
        """How many there must be."""

    def _input_ids(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        return np.concatenate([self.prefix, self.tokens[start:stop].astype(np.int64), self.suffix])


class LabelledDocuments(Labelled):
    """One document per example, cut on the right: `input_ids` (n,) int64 and `label`, an int."""

    def _num_labels(self) -> int:
        return len(self.offsets) - 1

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

    def _num_labels(self) -> int:
        return len(self.tokens)

    @cached_property
    def spans(self) -> npt.NDArray[np.int64]:
        """Start and stop of the tokens of each example, (examples, 2)."""
        spans = np.stack([self.offsets[:-1], self.offsets[1:]], axis=1)
        lengths = spans[:, 1] - spans[:, 0]
        pieces = [self._cut(start, stop) for start, stop in spans[lengths > self.room].tolist()]
        spans = np.concatenate([spans[(lengths > 0) & (lengths <= self.room)], *pieces])
        return spans[np.argsort(spans[:, 0], kind="stable")]  # in the order of the text

    def _cut(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Spans (pieces, 2) of a sentence that is too long."""
        marks = np.asarray(self.marks[start:stop])
        before_word = (marks[:-1] == SPECIAL) & (marks[1:] == START)  # whitespace, which goes with the word after it
        begins = marks == START
        begins[:-1] |= before_word
        begins[1:] &= ~before_word
        candidates = np.concatenate([[start], np.flatnonzero(begins) + start, [stop]])
        spans, first = [], start
        while first < stop:
            last = int(candidates[np.searchsorted(candidates, first + self.room, side="right") - 1])
            if last <= first:  # within a word
                last = first + self.room
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
            "label_ids": np.pad(self.labels[start:stop], around, constant_values=IGNORE),
            "word_ids": np.pad(word_ids(self.marks[start:stop]), around, constant_values=-1),
        }
