"""C4: 365 million web pages in English, streamed (arXiv 1910.10683)."""

import datasets
import torch

from perceiver.data.text.base import TokenizerDataModule
from perceiver.data.text.collator import (
    DefaultCollator,
    MaskingCollator,
    TokenMaskingCollator,
    WordMaskingCollator,
)
from perceiver.data.text.common import Task
from perceiver.data.text.encoders import TEXT
from perceiver.data.text.streaming import ChunkStream, StreamLoader
from perceiver.processing.text import PaddingSide
from perceiver.processing.tokenization import tokenizer_fingerprint


class C4DataModule(TokenizerDataModule):
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
            same.
        mask_prob: mlm: share of words (or tokens) to predict, in (0, 1).
        mask_words: mlm: mask whole words; otherwise single tokens.
        padding_side: clm: "left", which is the default, or "right". mlm: "right".
        repo_id: hub id, or a local folder in the layout of the hub, with a column `text`.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub.
        concat_batch_size: documents that are tokenised at a time; changes nothing in the batches.
        shuffle_window_size: training documents that a worker holds in memory and shuffles.
        shuffle_window_seed: of the order, and of all else that is random; not negative.
        batch_size: training examples per batch.
        valid_batch_size: validation examples per batch, `batch_size` by default.
        batches_per_epoch: training batches of each process.
        num_train_workers: processes that load training batches.
        num_valid_workers: processes that load validation batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        rank: number of this process, that of the trainer by default.
        world_size: number of processes, that of the trainer by default.

    Raises:
        ValueError: if an argument is out of range, arguments contradict each other or the task is not supported.
    """

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
        repo_id: str = "allenai/c4",
        config_name: str | None = "en",
        revision: str | None = None,
        concat_batch_size: int = 16,
        shuffle_window_size: int = 10000,
        shuffle_window_seed: int = 0,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        batches_per_epoch: int = 10000,
        num_train_workers: int = 2,
        num_valid_workers: int = 1,
        pin_memory: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        super().__init__(tokenizer, max_seq_len, False, padding_side or ("left" if task is Task.clm else "right"))
        if task not in (Task.mlm, Task.clm):
            raise ValueError(f"task={task} is not supported by {type(self).__name__}, only {Task.mlm} and {Task.clm}")
        if task is Task.mlm and padding_side == "left":
            raise ValueError(f"padding_side='left' is not possible with task={task}: its models count from the left")
        if min_seq_len is not None and not 1 <= min_seq_len <= max_seq_len:
            raise ValueError(f"min_seq_len={min_seq_len} must be in [1, {max_seq_len}], which max_seq_len ends")
        if not 0 < mask_prob < 1:
            raise ValueError(f"mask_prob={mask_prob} must be in (0, 1)")
        sizes = {
            "concat_batch_size": concat_batch_size,
            "shuffle_window_size": shuffle_window_size,
            "batch_size": batch_size,
            "batches_per_epoch": batches_per_epoch,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if shuffle_window_seed < 0:
            raise ValueError(f"shuffle_window_seed={shuffle_window_seed} must be at least 0")
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (world_size or 1):
            raise ValueError(f"rank={rank} must be in [0, world_size={world_size}), or both None")
        self.task, self.min_seq_len, self.mask_prob, self.mask_words = task, min_seq_len, mask_prob, mask_words
        self.repo_id, self.config_name, self.revision = repo_id, config_name, revision
        self.concat_batch_size = concat_batch_size
        self.shuffle_window_size, self.seed = shuffle_window_size, shuffle_window_seed
        self.batch_size = batch_size
        self.valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        self.batches_per_epoch = batches_per_epoch
        self.num_train_workers, self.num_valid_workers = num_train_workers, num_valid_workers
        self.pin_memory = pin_memory
        self.rank, self.world_size = rank, world_size

    def collator(self, min_width: int) -> MaskingCollator | DefaultCollator:
        if self.task is Task.clm:
            return DefaultCollator(self.tokenizer, self.padding_side, min_width=min_width)
        collator = WordMaskingCollator if self.mask_words else TokenMaskingCollator
        return collator(self.tokenizer, self.mask_prob, seed=self.seed)

    def train_dataloader(self) -> StreamLoader:
        return self._loader("train", self.batch_size, self.num_train_workers, training=True)

    def val_dataloader(self) -> StreamLoader:
        return self._loader("validation", self.valid_batch_size, self.num_valid_workers, training=False)

    def _loader(self, split: str, batch_size: int, num_workers: int, *, training: bool) -> StreamLoader:
        rank, world_size = self.rank, self.world_size
        if rank is None or world_size is None:
            rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        min_seq_len = self.min_seq_len if training else None
        stream = ChunkStream(
            self._documents(split),
            self.tokenizer,
            # A model needs as many positions as it has latents, also where the short last example is alone.
            self.collator(min_seq_len or self.max_seq_len),
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
            "config_name": self.config_name,
            "revision": self.revision,
            "shuffle_window_size": self.shuffle_window_size,
            "shuffle_window_seed": self.seed,
        }
        return StreamLoader(
            stream,
            settings=settings,
            num_workers=num_workers,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            batches_per_epoch=self.batches_per_epoch if training else None,
        )

    def _documents(self, split: str) -> datasets.IterableDataset:
        try:
            splits = datasets.load_dataset(self.repo_id, self.config_name, revision=self.revision, streaming=True)
        except OSError as error:
            raise ValueError(f"cannot load {self.repo_id!r}: {error}") from error
        if split not in splits:
            raise ValueError(f"{self.repo_id} has no split {split!r}, only {sorted(splits)}")
        documents: datasets.IterableDataset = splits[split]
        names = documents.column_names
        if names is not None:
            if TEXT not in names:
                raise ValueError(f"split {split!r} of {self.repo_id} has no column {TEXT!r}, only {names}")
            documents = documents.select_columns([TEXT])
        return documents
