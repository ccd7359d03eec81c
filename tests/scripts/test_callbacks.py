"""Trainings that are stopped anywhere go on to the same end; the end is validated; the length of a cosine."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from perceiver.data.loader import EpochSampler, ResumableLoader
from perceiver.model.core.config import Config
from perceiver.model.lightning.model import LitModel
from perceiver.scripts.callbacks import (
    FinalValidation,
    ImageProcessor,
    LastCheckpoint,
    Signals,
    Stopped,
    TrainingLength,
)
from perceiver.scripts.lrs import CosineWithWarmupLR


@dataclass
class LineConfig(Config):
    num_inputs: int = 3


class Line(torch.nn.Module):
    def __init__(self, config: LineConfig):
        super().__init__()
        self.config = config
        self.layer = torch.nn.Sequential(torch.nn.Linear(config.num_inputs, 4), torch.nn.Dropout(0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class LitLine(LitModel):
    config_class = LineConfig

    def __init__(self, num_inputs: int = 3, params: str | None = None):
        super().__init__(Line(LineConfig(num_inputs)), params)

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.model(batch).sum(dim=1) - 1).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        scheduler = CosineWithWarmupLR(optimizer, warmup_steps=2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Examples(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int, bool] | int) -> torch.Tensor:
        epoch, index = key[:2] if isinstance(key, tuple) else (0, key)
        return torch.randn(3, generator=torch.Generator().manual_seed(100 * epoch + index))


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return ResumableLoader(
            Examples(), batch_size=2, sampler=EpochSampler(Examples(), num_replicas=1, rank=0, seed=5)
        )

    def val_dataloader(self) -> Any:
        return DataLoader(Examples(), batch_size=6)


class Events(Callback):
    """Notes where the training is, and sends this process a signal at one of these places."""

    def __init__(self, stop_at: int | None = None, signum: int = signal.SIGTERM) -> None:
        self.stop_at, self.signum = stop_at, signum
        self.places: list[str] = []
        self.validations: list[tuple[int, int, float]] = []

    def note(self, place: str, trainer: pl.Trainer) -> None:
        if trainer.sanity_checking:
            return
        if len(self.places) == self.stop_at:
            os.kill(os.getpid(), self.signum)
        self.places.append(f"{place} {trainer.global_step}")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note("end", trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note("validation", trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            validated = (trainer.global_step, trainer.current_epoch, trainer.callback_metrics["val_loss"].item())
            self.validations.append(validated)


QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def train(folder: Path, events: Events, ckpt_path: Path | None = None, **kwargs: Any) -> pl.Trainer:
    torch.manual_seed(3)
    last = LastCheckpoint()
    checkpoint = ModelCheckpoint(folder, monitor="val_loss", filename="{epoch}-{step}")
    callbacks = [events, last, FinalValidation(), TrainingLength(), checkpoint]
    trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, **QUIET, **kwargs)
    with last.signals:
        trainer.fit(LitLine(), datamodule=Data(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    "length",
    [
        {"max_steps": 8, "val_check_interval": 3},
        {"max_epochs": 2},
        {"max_epochs": 2, "accumulate_grad_batches": 3, "val_check_interval": 2},
        {"max_steps": 9, "check_val_every_n_epoch": None, "val_check_interval": 4},
    ],
    ids=["steps", "epochs", "accumulation", "across epochs"],
)
def test_stopped_anywhere_it_goes_on_to_the_same_end(length: dict[str, Any], tmp_path: Path) -> None:
    """Parameters, validations and the best checkpoint are those of a run in one go, bit by bit."""
    whole = Events()
    trainer = train(tmp_path / "whole", whole, **length)
    expected = trainer.lightning_module.state_dict()
    assert whole.validations[-1][0] == trainer.global_step  # the end is validated
    for place, name in enumerate(whole.places):
        folder = tmp_path / f"{place}"
        begun, rest = Events(place), Events()
        stop = stopped(folder, begun, **length)
        if stop is None:
            # what is after the last batch has nothing to stop, where gradients are accumulated not even a validation
            assert name.endswith(f" {trainer.global_step}")
            continue
        assert stop.code == 143 and stop.checkpoint == folder / "last.ckpt"
        resumed = train(folder, rest, folder / "last.ckpt", **length)
        state = resumed.lightning_module.state_dict()
        assert {name: torch.equal(state[name], expected[name]) for name in expected} == dict.fromkeys(expected, True)
        if resumed.global_step == trainer.max_steps and not rest.places:
            continue  # stopped in the validation of the end: there is no step to go on with
        assert begun.validations + rest.validations == whole.validations, name
        assert best(resumed) == best(trainer)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def stopped(folder: Path, events: Events, **kwargs: Any) -> Stopped | None:
    try:
        train(folder, events, **kwargs)
    except Stopped as stop:
        return stop
    return None


def best(trainer: pl.Trainer) -> tuple[str, float]:
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None
    return Path(callback.best_model_path).name, callback.best_model_score.item()


@pytest.fixture
def handled_ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which is not there in what a shell starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled_ctrl_c")
def test_ctrl_c_twice_stops_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    signals = Signals()
    with signals:
        with pytest.raises(Stopped) as stop:  # before the training has begun
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.value.code == 130 and stop.value.checkpoint is None and not stop.value.agreed
        signals.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send it more than once
        assert signals.noted == signal.SIGTERM
        assert capsys.readouterr().err == "\nstopping after this step; Ctrl-C once more stops at once\n"
        with pytest.raises(Stopped) as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.value.code == 130
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_saved_every_so_many_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    saved: list[int] = []

    class Ticks(Events):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if (tmp_path / "last.ckpt").exists():
                saved.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"])
                (tmp_path / "last.ckpt").unlink()
            clock.now += 150.0

    train(tmp_path, Ticks(), max_steps=13, limit_train_batches=20)
    assert saved == [4, 8, 12]  # ten minutes are four steps
    for minutes in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"last_checkpoint\.minutes"):
            LastCheckpoint(minutes)


@pytest.mark.parametrize("top_k", [0, 1])
def test_without_checkpoints_nothing_is_saved(top_k: int, tmp_path: Path) -> None:
    last = LastCheckpoint()
    callbacks: list[Any] = [TrainingLength(), last, *([ModelCheckpoint(tmp_path, save_top_k=0)] if top_k == 0 else [])]
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[*callbacks, Events(2)], enable_checkpointing=top_k == 0, max_epochs=1, **QUIET
    )
    with last.signals, pytest.raises(Stopped) as stop:
        trainer.fit(LitLine(), datamodule=Data())
    assert stop.value.checkpoint is None and stop.value.agreed and list(tmp_path.iterdir()) == []


def test_processes_ask_each_other_about_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval is the smallest that a process proposes, and a signal of one is one of all."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    last, questions = LastCheckpoint(), []

    class Strategy:
        root_device = torch.device("cpu")
        others = torch.tensor([0.0, 0.0, -1000.0])

        def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "max"
            questions.append(clock.now)
            return torch.maximum(tensor, self.others)

    strategy = Strategy()
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    last.asked = -0.1
    for step in range(40):
        clock.now = step / 10  # ten steps a second
        assert last.asked_all(trainer) == (0, False)
    assert questions == [0.0, 1.0, 2.0, 3.0]
    for step in range(40):
        clock.now = 4 + step / 1000
        last.asked_all(trainer)
    assert len(questions) == 4 + 3  # of 40 calls
    strategy.others = torch.tensor([float(signal.SIGTERM), 0.0, -1000.0])
    answers = [last.asked_all(trainer)[0] for _ in range(16)]
    assert sorted(set(answers)) == [0, signal.SIGTERM]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_cosine_of_a_resumed_run_has_the_new_length(tmp_path: Path) -> None:
    train(tmp_path, Events(), max_epochs=1)
    resumed = train(tmp_path, Events(), tmp_path / "epoch=0-step=5.ckpt", max_epochs=3)
    assert resumed.lr_scheduler_configs[0].scheduler.training_steps == 15


def test_image_processor_is_beside_the_logs_from_the_beginning(tmp_path: Path) -> None:
    saved: list[str] = []
    processor = SimpleNamespace(save_pretrained=saved.append)
    trainer: Any = SimpleNamespace(log_dir="logs", is_global_zero=True)
    module: Any = None
    for datamodule in (None, SimpleNamespace(), SimpleNamespace(image_processor=processor)):
        trainer.datamodule = datamodule
        ImageProcessor().setup(trainer, module, "fit")
    ImageProcessor().setup(trainer, module, "validate")
    assert saved == ["logs"]
