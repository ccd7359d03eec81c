"""Text that is read while it is used: documents of a streamed data set -> chunks of tokens -> batches.

Each worker of each process reads a stream of its own: other files than the others, or other documents where there are
fewer files than streams. In a stream

1. documents are read in windows and shuffled in each,
2. tokenised, an end-of-text token is appended to each, and they are put one after the other,
3. cut into chunks; no token is lost, but for the last one of a stream if nothing can be predicted from it.

All that is random is a function of seed, stream and number of the window or chunk (`streams.py`), so the state of a
stream is a place: the state of the data set before a window (`datasets.IterableDataset.state_dict`), and how many
tokens of this window are used. Every batch comes with the state after it, so that batches that workers have prepared
ahead don't count. A resumed stream reads and tokenises one window again, no more.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, get_worker_info
from transformers import PreTrainedTokenizerBase

from perceiver.data.labels import STRINGS
from perceiver.data.streams import DOCUMENTS, WINDOWS, stream
from perceiver.data.text.collator import Batch
from perceiver.data.text.encoders import TEXT
from perceiver.data.text.files import forget_connections
from perceiver.processing.tokenization import append_special, encode, end_of_text_id, plain_text_tokenizer, word_ids

State = dict[str, Any]
NEW: State = {"pass": 0, "documents": None, "window": 0, "tokens": 0, "chunks": 0}

# A window, and tokens and marks (2, n) of some of its documents, from that token on.
Piece = tuple[State, int, npt.NDArray[np.int64]]


@dataclass(eq=False)
class ChunkStream(torch.utils.data.IterableDataset[tuple[int, State, Batch]]):
    """Batches of chunks, as `(stream, state after the batch, batch)`.

    Args:
        documents: a streamed data set with a column `text`.
        tokenizer: see `tokenization.encode`; must have an end-of-text token.
        collate: makes a batch of examples, which have `input_ids` and `label_ids`, or `input_ids` and `word_ids`.
        batch_size: chunks per batch.
        max_seq_len: inputs per chunk.
        min_seq_len: draw the number of inputs of each chunk from this to `max_seq_len`.
        next_token: chunks have one token more than inputs, and labels are the next tokens.
        shuffle_window: documents that are read and shuffled at a time; with `shuffle=False` read only.
        shuffle: shuffle in windows.
        concat_batch_size: documents that are tokenised at a time; changes nothing in the batches.
        repeat: start again when all documents are read, shuffled anew.
        seed: of all that is random.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        ValueError: if the tokenizer has no end-of-text token; later, if documents have no text.
    """

    documents: datasets.IterableDataset
    tokenizer: PreTrainedTokenizerBase
    collate: Callable[[Sequence[Any]], Batch]
    _: KW_ONLY
    batch_size: int
    max_seq_len: int
    min_seq_len: int | None
    next_token: bool
    shuffle_window: int
    shuffle: bool
    concat_batch_size: int
    repeat: bool
    seed: int
    rank: int
    world_size: int

    states: dict[int, State] = field(init=False, default_factory=dict)  # where the streams of this process start
    first: int = field(init=False, default=0)  # the stream of the first worker

    def __post_init__(self) -> None:
        self.eos_token_id = end_of_text_id(self.tokenizer)
        self.tokenizer = plain_text_tokenizer(self.tokenizer)

    def __iter__(self) -> Iterator[tuple[int, State, Batch]]:
        worker = get_worker_info()
        num_workers, index = (1, 0) if worker is None else (worker.num_workers, worker.id)
        if worker is not None:
            forget_connections()
        local = (index + self.first) % num_workers
        number, total = self.rank * num_workers + local, self.world_size * num_workers
        chunks = self._chunks(number, total, self.states.get(local, NEW))
        while batch := list(islice(chunks, self.batch_size)):
            yield local, batch[-1][1], self.collate([example for example, _ in batch])

    def _chunks(self, number: int, total: int, state: State) -> Iterator[tuple[dict[str, Any], State]]:
        """Examples, each with the state after it."""
        buffer: deque[Piece] = deque()
        size, chunks = 0, state["chunks"]
        for piece in self._pieces(number, total, state):
            if piece is not None:
                buffer.append(piece)
                size += piece[2].shape[1]
            while True:
                length = self._length(number, chunks)
                if piece is None and self.next_token < size < length:
                    length = size  # the end of all documents
                if size < length:
                    break
                (tokens, marks), after = _take(buffer, length)
                size -= length
                chunks += 1
                if self.next_token:
                    example = {"input_ids": tokens[:-1], "label_ids": tokens[1:]}
                else:
                    example = {"input_ids": tokens, "word_ids": word_ids(marks)}
                yield {**example, "index": chunks - 1, "epoch": number}, {**after, "chunks": chunks}
            if piece is None:
                buffer.clear()
                size = 0

    def _length(self, number: int, chunk: int) -> int:
        if self.min_seq_len is None:
            return self.max_seq_len + self.next_token
        random = stream(WINDOWS, self.seed, number, chunk)
        return int(random.integers(self.min_seq_len, self.max_seq_len + 1)) + self.next_token

    def _pieces(self, number: int, total: int, state: State) -> Iterator[Piece | None]:
        """Tokens from a state on, and None when all documents are read."""
        while True:
            documents = self._shard(number, total)
            if state["documents"] is not None:
                documents.load_state_dict(state["documents"])
            before, index, skip = state["documents"], state["window"], state["tokens"]
            for table in documents.iter(batch_size=self.shuffle_window):
                window = {"pass": state["pass"], "documents": before, "window": index}
                position = 0
                for encoded in self._tokenise(table, number, window):
                    if position + encoded.shape[1] > skip:
                        start = max(skip - position, 0)
                        yield window, position + start, encoded[:, start:]
                    position += encoded.shape[1]
                before, index, skip = documents.state_dict(), index + 1, 0
            if index == 0 and self.repeat:
                raise ValueError(f"stream {number} of {total} has no document: use fewer processes or workers")
            yield None
            if not self.repeat:
                return
            state = {**NEW, "pass": state["pass"] + 1}

    def _shard(self, number: int, total: int) -> datasets.IterableDataset:
        if self.documents.num_shards >= total:
            shard = self.documents.shard(num_shards=total, index=number, contiguous=False)
        else:  # every total-th document
            shard = split_dataset_by_node(self.documents, rank=number, world_size=total)
        return shard.with_format("arrow")

    def _tokenise(self, table: pa.Table, number: int, window: State) -> Iterator[npt.NDArray[np.int64]]:
        if TEXT not in table.column_names:
            raise ValueError(f"documents have no column {TEXT!r}, only {table.column_names}")
        column = table.column(TEXT)
        if str(column.type) not in STRINGS:
            raise ValueError(f"column {TEXT!r} must hold strings, not {column.type}")
        texts = column.cast(pa.large_string()).combine_chunks()
        if self.shuffle:
            random = stream(DOCUMENTS, self.seed, number, (window["pass"] << 32) + window["window"])
            texts = texts.take(pa.array(random.permutation(len(texts))))
        for start in range(0, len(texts), self.concat_batch_size):
            encoded = encode(self.tokenizer, texts.slice(start, self.concat_batch_size))
            encoded = append_special(encoded, self.eos_token_id)
            yield np.stack([encoded.tokens, encoded.marks]).astype(np.int64)


def _take(buffer: deque[Piece], length: int) -> tuple[npt.NDArray[np.int64], State]:
    """Removes tokens and marks (2, `length`) from the left; also returns the place after them."""
    parts = []
    while length > 0:
        window, position, encoded = buffer.popleft()
        parts.append(encoded[:, :length])
        position += parts[-1].shape[1]
        length -= parts[-1].shape[1]
    if rest := encoded.shape[1] - parts[-1].shape[1]:
        buffer.appendleft((window, position, encoded[:, -rest:]))
    window, position, _ = buffer[0] if buffer else (window, position, None)
    return np.concatenate(parts, axis=1), {**window, "tokens": position}


@dataclass(eq=False)
class StreamLoader:
    """Batches of a stream, with a state that a checkpoint takes along.

    With `batches_per_epoch` an iteration ends after that many batches, and the next one goes on after them.

    Args:
        stream: the chunks.
        settings: what the batches depend on; a state is loaded with the same settings only.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory.
        batches_per_epoch: None for a stream that ends.
    """

    stream: ChunkStream
    settings: dict[str, Any]
    num_workers: int
    pin_memory: bool
    batches_per_epoch: int | None = None

    num_batches: int = field(init=False, default=0)  # handed out
    states: dict[int, State] = field(init=False, default_factory=dict)
    # Has the name that it has in torch's loaders: after training, Lightning ends its workers.
    _iterator: Iterator[tuple[int, State, Batch]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.settings = {**self.settings, "world_size": self.stream.world_size, "num_workers": self.num_workers}

    def __len__(self) -> int:
        if self.batches_per_epoch is None:
            raise TypeError("the number of batches of a stream is not known")
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing runs until the first batch is asked for.
        if self.batches_per_epoch is None:
            yield from (batch for _, _, batch in self._start())
            return
        for _ in range(self.batches_per_epoch - self.num_batches % self.batches_per_epoch):
            if self._iterator is None:
                self._iterator = self._start()
            local, state, batch = next(self._iterator)
            self.states[local] = state
            self.num_batches += 1
            yield batch

    def _start(self) -> Iterator[tuple[int, State, Batch]]:
        self.stream.states = dict(self.states)
        self.stream.first = self.num_batches % max(self.num_workers, 1)
        return iter(DataLoader(self.stream, batch_size=None, num_workers=self.num_workers, pin_memory=self.pin_memory))

    def state_dict(self) -> dict[str, Any]:
        """The state of all processes, which must all ask for it: one of them writes the checkpoint."""
        states = [self.states]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(states, self.states)
        # Without a process group there are only our own.
        rank = self.stream.rank if len(states) == 1 else 0
        by_rank = {rank + i: dict(of_rank) for i, of_rank in enumerate(states)}
        return {"num_batches": self.num_batches, "states": by_rank, "settings": self.settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the state was taken.

        Raises:
            ValueError: if it was taken with other settings.
        """
        for name, value in self.settings.items():
            if (begun := state["settings"].get(name)) != value:
                raise ValueError(f"the stream was begun with {name}={begun!r} and cannot go on with {value!r}")
        self.num_batches, self._iterator = state["num_batches"], None
        self.states = dict(state["states"].get(self.stream.rank, {}))
