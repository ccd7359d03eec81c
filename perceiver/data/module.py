"""The base of all data modules: loaders over examples by split.

A subclass says what the examples are (`load_examples`) and how batches are made of them (`collate_function`). One that
preprocesses has a `cache`, and makes its examples of what is there. Where raw data comes from is no subclass but an
object, a source (`cache.py`): its `raw_data`.

Training batches are functions of `seed` and the epoch. The number of workers changes nothing, and a run resumes in the
middle of an epoch (`loader.py`). Validation and test batches are the same in every epoch.
"""

import inspect
import warnings
from collections.abc import Callable
from enum import Enum
from functools import cached_property, wraps
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from perceiver.checks import check_least
from perceiver.data.cache import Cache
from perceiver.data.loader import EpochSampler, ResumableLoader
from perceiver.data.streams import RECORDS, stream

Module = TypeVar("Module", bound="DataModule")


class DataModule(pl.LightningDataModule):
    """Training, validation and test loaders.

    Args:
        batch_size: training examples per batch.
        valid_batch_size: validation and test examples per batch, `batch_size` by default.
        num_workers: processes that load batches.
        pin_memory: copy batches to page-locked memory where there is a CUDA device.
        seed: of all that is random, not negative.

    Attributes:
        hparams: the arguments of the data module, as attributes or as a dictionary: those that a checkpoint can hold,
            which are numbers, texts and lists of them. Paths are texts there, and tasks their names.
        examples: examples by split, after `setup`: "train", "valid" and possibly "test".
        raw_data: where they come from. A subclass that has the methods of a source is its own one.

    Raises:
        ValueError: if an argument is out of range.
    """

    cache: Cache | None = None
    trainer: Any  # Lightning's, or None

    def __init__(
        self,
        *,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        arguments = _arguments(self, inspect.currentframe())
        plain = {name: _plain(value) for name, value in arguments.items() if _is_plain(value)}
        # The model's alone are logged. The frame: see `LitModel`.
        self.save_hyperparameters(plain, logger=False, frame=inspect.currentframe())
        valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        check_least(0, seed=seed, num_workers=num_workers)
        check_least(1, batch_size=batch_size, valid_batch_size=valid_batch_size)
        self.batch_size, self.valid_batch_size = batch_size, valid_batch_size
        self.num_workers, self.pin_memory, self.seed = num_workers, pin_memory, seed
        self.raw_data: Any = self
        self.examples: dict[str, Any] = {}

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the classes 0, 1, ..."""
        raise AttributeError(f"{type(self).__name__} has no classes")

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @property
    def cache_dir(self) -> Path:
        """The folder of what was preprocessed."""
        if self.cache is None:
            raise AttributeError(f"{type(self).__name__} preprocesses nothing")
        return self.cache.directory

    def prepare_data(self) -> None:
        if self.cache is not None:
            self.cache.prepare()

    def setup(self, stage: str | None = None) -> None:
        if self.cache is not None:
            self.cache.check()
        self.examples = self.load_examples()

    def load_examples(self) -> dict[str, Any]:
        """Examples (`examples.py`) by split."""
        return self.examples

    def split_examples(self, split: str, *, training: bool) -> Any:
        """Examples of "train", "valid" or "test"; `training`: with what is random anew in each epoch."""
        return self.named_split(split)

    def collate_function(self, *, training: bool) -> Any:
        """What makes a batch of examples, torch's default if None; `training` as in `split_examples`."""
        return None

    def named_split(self, split: str) -> Any:
        """Examples of a split.

        Raises:
            ValueError: if there is no such split, or none yet.
        """
        if split not in self.examples:
            hint = "" if self.examples else ": prepare_data() and setup() come first"
            raise ValueError(f"{type(self).__name__} has no split {split!r}, only {sorted(self.examples)}{hint}")
        return self.examples[split]

    def validation_index(self, index: int) -> int:
        """Number of a validation example, or for -1 of a random one: a function of `seed` and the trainer's step.

        Raises:
            ValueError: if there is no such example.
        """
        size = len(self.named_split("valid"))
        if not -1 <= index < size:
            raise ValueError(f"validation record {index} must be in [0, {size}), or -1 for a random one")
        if index >= 0:
            return index
        step = self.trainer.global_step if self.trainer is not None else 0
        return int(stream(RECORDS, self.seed, step, 0).integers(size))

    def train_dataloader(self) -> DataLoader[Any]:
        overfit = self.trainer is not None and self.trainer.overfit_batches  # the same few batches in every epoch
        return self._dataloader("train", self.batch_size, training=not overfit)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("valid", self.valid_batch_size, training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("test", self.valid_batch_size, training=False)

    def _dataloader(self, split: str, batch_size: int, *, training: bool) -> DataLoader[Any]:
        examples = self.split_examples(split, training=training)
        world_size, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler: EpochSampler | None = None  # the order of the examples
        if training or world_size > 1:
            sampler = EpochSampler(examples, num_replicas=world_size, rank=rank, shuffle=training, seed=self.seed)
        loader: Any = ResumableLoader if training else DataLoader
        return loader(
            examples,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=self.collate_function(training=training),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
        )


def former_argument(name: str, todays: str) -> Callable[[type[Module]], type[Module]]:
    """Class decorator: the argument `todays` of a data module may still be called `name`, with a warning."""

    def decorator(cls: type[Module]) -> type[Module]:
        init: Callable[..., None] = cls.__init__

        @wraps(init)
        def wrapper(self: Module, *args: Any, **kwargs: Any) -> None:
            if name in kwargs:
                if todays in kwargs:
                    raise TypeError(f"{cls.__name__} got {todays} and its former name {name}")
                warnings.warn(f"{name} of {cls.__name__} is called {todays} now", FutureWarning, stacklevel=2)
                kwargs[todays] = kwargs.pop(name)
            init(self, *args, **kwargs)

        cls.__init__ = cast(Any, wrapper)  # type: ignore[method-assign]
        return cls

    return decorator


def _arguments(module: DataModule, frame: FrameType | None) -> dict[str, Any]:
    """What the constructors were given that are at work, from `frame` on, that of the base: the leaf's are the last."""
    arguments: dict[str, Any] = {}
    while frame is not None and frame.f_locals.get("self") is module:
        names, _, _, values = inspect.getargvalues(frame)
        arguments |= {name: values[name] for name in names if name != "self"}
        frame = frame.f_back
    return arguments


def _is_plain(value: Any) -> bool:
    """Whether `torch.load` reads it, as `_plain` makes it, with `weights_only`."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Path | Enum)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value
