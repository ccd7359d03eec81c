"""How a training shows what it does, without what libraries say about themselves."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelSummary, ProgressBar

from perceiver.scripts.meter import Meter

# Nothing that whoever trains a model could do something about, or has not asked for.
NOISE = ("GPU available", "TPU available", "HPU available", "💡", "Trainer already configured", "`Trainer.fit` stopped")
WARNINGS = (
    r"[\s\S]*JSONARGPARSE_DEPRECATION_WARNINGS",
    r"[\s\S]*was deprecated in v4[\s\S]*will be removed in v5",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*does not have many workers which may be a bottleneck",
    r"The number of training batches .* is smaller than the logging interval",
    r"The dirpath has changed from",
)


def quieten() -> None:
    """Leaves away what libraries say about themselves."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, Quiet) for known in logger.filters):
            logger.addFilter(Quiet())


class Quiet(logging.Filter):
    """Drops what begins as `NOISE` does."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(NOISE)


class Summary(ModelSummary):
    """Says in a line what is trained, where, in which precision."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in pl_module.parameters()]
        total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
        frozen = f", {total - trained:,} of them frozen" if trained < total else ""
        devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        if trainer.is_global_zero:
            place = f"{devices}{trainer.strategy.root_device.type}, {trainer.precision}"
            print(f"{type(pl_module).__name__}: {total:,} parameters{frozen}; {place}", flush=True)


class Progress(ProgressBar):
    """The steps of the whole training, and the batches of an evaluation. Each validation leaves a line."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.training: Meter | None = None
        self.evaluation: Meter | None = None
        self.epoch = self.num_batches = 0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        if meter := self.evaluation or self.training:
            meter.print(" ".join(map(str, args)))
        elif self.enabled:
            print(*args, flush=True)

    @staticmethod
    def metrics(trainer: Trainer, split: str = "") -> str:
        """The last values of what is logged."""
        values = trainer.progress_bar_metrics.items()
        return "  ".join(f"{name} {value:.4g}" for name, value in values if name.startswith(split))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        if self.enabled:
            self.training = Meter("step", None if math.isinf(total) else int(total), first=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.epoch = trainer.current_epoch
        if self.training and self.training.is_time():
            self.show_training(trainer)

    def show_training(self, trainer: Trainer) -> None:
        if self.training:
            self.training.show(trainer.global_step, f"epoch {self.epoch}  {self.metrics(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.show_training(trainer)
        self.close()

    def begin_evaluation(self, what: str, batches: list[int | float] | int | float, *, leave: bool = False) -> None:
        total = sum(batches) if isinstance(batches, list) else batches
        self.num_batches = 0
        if self.enabled:
            position = 0 if self.training is None else 1
            self.evaluation = Meter(what, None if math.isinf(total) else int(total), leave=leave, position=position)

    def evaluate_batch(self) -> None:
        self.num_batches += 1
        if self.evaluation and self.evaluation.is_time():
            self.evaluation.show(self.num_batches)

    def end_evaluation(self) -> None:
        if self.evaluation:
            self.evaluation.close()
        self.evaluation = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin_evaluation("trying the validation, batch", trainer.num_sanity_val_batches)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.begin_evaluation("validation, batch", trainer.num_val_batches, leave=trainer.state.fn != "fit")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin_evaluation("test, batch", trainer.num_test_batches, leave=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_evaluation()
        if self.training and not trainer.sanity_checking:
            step = self.training.at(trainer.global_step)
            self.print(f"{step}  epoch {trainer.current_epoch}  {self.metrics(trainer, 'val_')}")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.evaluate_batch()

    def on_test_batch_end(self, *_: Any) -> None:
        self.evaluate_batch()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_evaluation()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        self.end_evaluation()
        if self.training:
            self.training.close()
        self.training = None
