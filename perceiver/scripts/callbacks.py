"""Callbacks of every training: `last.ckpt`, a validation at the end, the length of a schedule, the image processor.

`last.ckpt` is written every few minutes, at the end, and when a training is stopped by Ctrl-C or
SIGTERM. A signal can come at any time, but a checkpoint of which nothing is lost can be taken only between two steps,
and, of several processes, only by all of them after the same step. So the handler of the signals takes a note, and
after each step the processes tell each other whether one of them has one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from perceiver.scripts.lrs import DecayingLR

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Several processes ask each other about once a second, but not more rarely than that: steps may become slower.
MOST_CALLS_BETWEEN_QUESTIONS = 16


class Stopped(SystemExit):
    """A signal ended a run. The exit code is that of programs which a signal ends: 130 or 143.

    Args:
        signum: The signal.
        checkpoint: What was saved.
        agreed: Whether all processes stop, after the same step.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None, *, agreed: bool = False):
        super().__init__(128 + signum)
        self.signum, self.checkpoint, self.agreed = signum, checkpoint, agreed


class Signals:
    """SIGINT and SIGTERM end the program with `Stopped`; while `deferred`, the first one is only noted, in `noted`."""

    def __init__(self) -> None:
        self.noted: int | None = None
        self.deferred = False
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self.previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self.previous.items():
                signal.signal(signum, handler)
        self.previous = {}

    def install(self) -> None:
        """Takes the signals, also from Lightning: its handler of SIGTERM communicates whatever the processes are doing,
        and they may wait for each other forever."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self.handle)

    def handle(self, signum: int, frame: FrameType | None = None) -> None:
        if not self.deferred or (self.noted is not None and signum == signal.SIGINT):
            raise Stopped(signum)
        if self.noted is None:
            self.noted = signum
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print("\nstopping after this step; Ctrl-C once more stops at once", file=sys.stderr, flush=True)


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`, beside the checkpoints of the trainer's `ModelCheckpoint`, so that little is ever lost.

    Without a `ModelCheckpoint`, or where that keeps nothing (`save_top_k=0`), nothing is written.

    Args:
        minutes: How often `last.ckpt` is written during a training.
    """

    def __init__(self, minutes: float = 10.0):
        if minutes <= 0:
            raise ValueError(f"last_checkpoint.minutes={minutes} must be positive")
        self.minutes = minutes
        self.signals = Signals()  # whoever runs the trainer enters them
        self.step, self.has_stepped = 0, False  # optimizer steps, and whether the last batch was one
        self.time = 0.0  # of the last checkpoint
        self.interval, self.countdown, self.asked = 1, 1, 0.0  # of questions, in calls, and when the last one was
        self.within_epoch = False  # of what is being saved
        self.has_begun = False  # whether the trainer has got to a batch

    @staticmethod
    def path(trainer: Trainer) -> Path | None:
        """Where `last.ckpt` is; None if there are no checkpoints."""
        callback = trainer.checkpoint_callback
        if not isinstance(callback, ModelCheckpoint) or callback.save_top_k == 0 or callback.dirpath is None:
            return None
        return Path(callback.dirpath) / "last.ckpt"

    def save(self, trainer: Trainer) -> Path | None:
        """Writes `last.ckpt`. All processes call it."""
        if path := self.path(trainer):
            trainer.save_checkpoint(path, weights_only=False)
        self.time = time.monotonic()
        return path

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True
        if self.signals.previous:
            self.signals.install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True
        self.step, self.time, self.asked = trainer.global_step, time.monotonic(), time.monotonic()
        if self.signals.previous:
            self.signals.install()
            self.signals.deferred = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # Gradients that are being accumulated are in no checkpoint. And after the last batch of an epoch Lightning
        # takes a validation that is due for done: its first batch is the next place to stop.
        self.has_stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if self.has_stepped and not trainer.is_last_batch:
            self.stop_or_save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True

    on_test_start = on_validation_start

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.has_stepped:
            self.stop_or_save(trainer)

    def stop_or_save(self, trainer: Trainer) -> None:
        signum, is_due = self.asked_all(trainer)
        if not signum and (not is_due or trainer.validating):
            return
        self.within_epoch = True
        path = self.save(trainer)
        self.within_epoch = False
        if signum:
            raise Stopped(signum, path, agreed=True)

    def asked_all(self, trainer: Trainer) -> tuple[int, bool]:
        """Which signal a process got, 0 if none did, and whether it is time for a checkpoint. The same in all."""
        self.countdown -= 1
        if self.countdown > 0:
            return 0, False
        now = time.monotonic()
        a_second = int(self.interval / max(now - self.asked, 1e-6))  # in calls
        interval = 1 if trainer.world_size == 1 else min(max(a_second, 1), MOST_CALLS_BETWEEN_QUESTIONS)
        answer = [self.signals.noted or 0, now - self.time >= 60 * self.minutes, -interval]
        tensor = torch.tensor(answer, dtype=torch.float32, device=trainer.strategy.root_device)
        signum, is_due, interval = (int(x) for x in trainer.strategy.reduce(tensor, reduce_op="max").tolist())
        self.interval = self.countdown = -interval
        self.asked = now
        return signum, bool(is_due)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes a run that goes on from here begin with a validation, from its first batch, if one is due.

        Lightning does so where the state says that its first batch was begun; otherwise it takes it for done.
        """
        if self.within_epoch:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress |= {"total": dict(begun), "current": dict(begun), "is_last_batch": False}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.deferred = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.deferred = False


class FinalValidation(Callback):
    """Validates the end of a training, also where none is due."""

    def __init__(self) -> None:
        self.is_due = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or (last_epoch and trainer.is_last_batch):
            trainer.should_stop = True  # validated by Lightning at any interval
            self.demand(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_due:  # a run that was stopped in this validation; `should_stop` would stop it before it begins
            self.demand(trainer)

    def demand(self, trainer: Trainer) -> None:
        self.is_due = True
        trainer.val_check_batch = 1
        trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch and 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_due = False

    def state_dict(self) -> dict[str, Any]:
        return {"is_due": True} if self.is_due else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.is_due = state_dict.get("is_due", False)


class TrainingLength(Callback):
    """Tells a schedule that ends with the training how long that is.

    Not earlier than when a resumed training has its state: Lightning has to make the training loader to know the
    length, and would not restore the state of one that is already there.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, DecayingLR):
                steps = trainer.estimated_stepping_batches
                if steps == float("inf"):
                    raise ValueError(
                        f"a training without an end gives {type(scheduler).__name__} no length: set trainer.max_steps, "
                        "trainer.max_epochs or lr_scheduler.training_steps, or use lr_scheduler=ConstantWithWarmupLR"
                    )
                if steps > scheduler.warmup_steps:  # otherwise the training ends with the warm-up
                    scheduler.training_steps = int(steps)

    on_train_start = on_sanity_check_start


class ImageProcessor(Callback):
    """Saves what images go through beside the logs, where the conversion of a checkpoint finds it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all processes have to ask for it
        processor = getattr(getattr(trainer, "datamodule", None), "image_processor", None)
        if stage == "fit" and processor is not None and folder is not None and trainer.is_global_zero:
            processor.save_pretrained(folder)
