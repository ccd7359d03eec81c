"""C4: 365 million web pages in English, streamed (arXiv 1910.10683)."""

from functools import cached_property
from typing import Any

import torch

from perceiver.checks import check_least, check_range, check_share
from perceiver.data.hub import HubSplits
from perceiver.data.module import DataModule, former_argument
from perceiver.data.text.collator import DefaultCollator
from perceiver.data.text.common import (
    Task,
    count_tokens,
    load_tokenizer,
    make_preprocessor,
    masking_collator,
    task_padding_side,
)
from perceiver.data.text.encoders import TEXT
from perceiver.data.text.streaming import ChunkStream, StreamLoader
from perceiver.processing.text import PaddingSide, check_text_arguments
from perceiver.processing.tokenization import tokenizer_fingerprint


@former_argument("repo_id", "source")
class C4DataModule(DataModule):
    """Streams text for causal (task clm) or masked (task mlm) language modelling; nothing is preprocessed or cached.

    A training epoch is `batches_per_epoch` batches. The next one goes on after it, and when all text is read it is read
    again, in another order: no process is done before the others. Validation reads its split once, each process a part.

    The state of the training loader is part of a checkpoint. A resumed run, with as many processes and workers, gets
    the batches that would have come.

    Args:
        tokenizer: hub id or local folder of a `PerceiverTokenizer` or of a fast tokenizer with an end-of-text token.
        max_seq_len: inputs per example.
        task: clm or mlm.
        min_seq_len: draw the length of each training example from `min_seq_len` to `max_seq_len`; None gives all the
            same. clm: examples are padded to `max_seq_len` all the same, because a model needs as many positions as it
            has latents.
        mask_prob: mlm: share of words (or tokens) to predict, in (0, 1).
        mask_words: mlm: mask whole words; otherwise single tokens.
        padding_side: clm: "left", which is the default, or "right". mlm: "right".
        source: where the data is: a hub id, or a local folder in the layout of the hub, with a column `text`.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub.
        concat_batch_size: documents that are tokenised at a time; changes nothing in the batches.
        shuffle_window_size: training documents that a worker holds in memory and shuffles.
        shuffle_window_seed: of the order, and of all else that is random; not negative.
        batches_per_epoch: training batches of each process.
        num_train_workers: processes that load training batches.
        num_valid_workers: processes that load validation batches.
        rank: number of this process, that of the trainer by default.
        world_size: number of processes, that of the trainer by default.
        **kwargs: see `DataModule`.

    Raises:
        ValueError: if an argument is out of range, arguments contradict each other or the task is not supported.
    """

    tasks = (Task.mlm, Task.clm)
    add_special_tokens = False
    tokenizer, vocab_size = cached_property(load_tokenizer), property(count_tokens)
    text_preprocessor = make_preprocessor

    def __init__(
        self,
        tokenizer: str,
        max_seq_len: int,
        task: Task = Task.clm,
        *,
        min_seq_len: int | None = None,
        mask_prob: float = 0.15,
        mask_words: bool = True,
        padding_side: PaddingSide | None = None,
        source: str = "allenai/c4",
        config_name: str | None = "en",
        revision: str | None = None,
        concat_batch_size: int = 16,
        shuffle_window_size: int = 10000,
        shuffle_window_seed: int = 0,
        batches_per_epoch: int = 10000,
        num_train_workers: int = 2,
        num_valid_workers: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        **kwargs: Any,
    ):
        check_least(0, shuffle_window_seed=shuffle_window_seed, num_train_workers=num_train_workers)
        check_least(0, num_valid_workers=num_valid_workers)
        super().__init__(num_workers=num_train_workers, seed=shuffle_window_seed, **kwargs)
        check_text_arguments(max_seq_len, padding_side)
        self.padding_side = task_padding_side(self, task, padding_side)
        if min_seq_len is not None:
            check_range(1, max_seq_len, min_seq_len=min_seq_len)
        check_share(mask_prob=mask_prob)
        sizes = {"concat_batch_size": concat_batch_size, "shuffle_window_size": shuffle_window_size}
        check_least(1, **sizes, batches_per_epoch=batches_per_epoch)
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (world_size or 1):
            raise ValueError(f"rank={rank} must be in [0, world_size={world_size}), or both None")
        self.tokenizer_source, self.max_seq_len, self.min_seq_len = tokenizer, max_seq_len, min_seq_len
        self.task, self.mask_prob, self.mask_words = task, mask_prob, mask_words
        self.raw_data = HubSplits(source, config_name, revision)
        self.concat_batch_size, self.shuffle_window_size = concat_batch_size, shuffle_window_size
        self.batches_per_epoch, self.num_valid_workers = batches_per_epoch, num_valid_workers
        self.rank, self.world_size = rank, world_size

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]  # it has the methods that Lightning calls
        return self._loader("train", self.batch_size, self.num_workers, training=True)

    def val_dataloader(self) -> StreamLoader:  # type: ignore[override]  # the same
        return self._loader("validation", self.valid_batch_size, self.num_valid_workers, training=False)

    def _loader(self, split: str, batch_size: int, num_workers: int, *, training: bool) -> StreamLoader:
        rank, world_size = self.rank, self.world_size
        if rank is None or world_size is None:
            rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        min_seq_len = self.min_seq_len if training else None
        # A model needs as many positions as it has latents, also where all examples of a batch are short.
        padding = DefaultCollator(self.tokenizer, self.padding_side, min_width=self.max_seq_len)
        stream = ChunkStream(
            self.raw_data.stream(split, TEXT),
            self.tokenizer,
            masking_collator(self) if self.task is Task.mlm else padding,
            batch_size=batch_size,
            max_seq_len=self.max_seq_len,
            min_seq_len=min_seq_len,
            next_token=self.task is Task.clm,
            shuffle_window=self.shuffle_window_size,
            shuffle=training,
            concat_batch_size=self.concat_batch_size,
            repeat=training,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        settings = {
            "task": self.task.name,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_seq_len": self.max_seq_len,
            "min_seq_len": min_seq_len,
            "config_name": self.raw_data.config_name,
            "revision": self.raw_data.revision,
            "shuffle_window_size": self.shuffle_window_size,
            "shuffle_window_seed": self.seed,
        }
        pin_memory = self.pin_memory and torch.cuda.is_available()
        return StreamLoader(stream, settings, num_workers, pin_memory, self.batches_per_epoch if training else None)
