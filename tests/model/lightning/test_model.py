"""The base of the Lightning modules, with a leaf that is as small as one can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from perceiver.model.core.config import Config
from perceiver.model.lightning.model import LitModel
from tests.garbage import keeps_its_caller
from tests.model.helpers import assert_same_parameters
from tests.model.trainers import trainer


@dataclass
class LineConfig(Config):
    """A model without encoder and decoder, as the causal models have none."""

    num_inputs: int
    bias: bool = True


class Line(nn.Module):
    def __init__(self, config: LineConfig):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.num_inputs, 1, bias=config.bias)


class LitLine(LitModel):
    config_class = LineConfig

    def __init__(self, note: str = "", params: str | None = None, **kwargs: Any):
        super().__init__(Line(LineConfig(**kwargs)), params, note=note)
        self.note = note

    def step(self, batch: Any) -> Tensor:
        (x,) = batch
        return self.model.linear(x).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_what_a_caller_had_goes_when_it_returns() -> None:
    """The weights of a checkpoint that was read, for example."""
    assert not keeps_its_caller(lambda: LitLine.create(LineConfig(3)))


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(12.0).reshape(4, 3)), batch_size=2)


def fit(folder: Path, lit_model: LitLine, **kwargs: Any) -> pl.Trainer:
    fitting = trainer(folder, **({"max_steps": 1} | kwargs))
    fitting.fit(lit_model, data(), data())
    return fitting


def test_create_and_reload(tmp_path: Path) -> None:
    lit_model = LitLine.create(LineConfig(3, bias=False), note="x")
    fit(tmp_path, lit_model).save_checkpoint(tmp_path / "a.ckpt")
    loaded = LitLine.load_from_checkpoint(tmp_path / "a.ckpt")
    assert (loaded.model.config, loaded.note) == (LineConfig(3, bias=False), "x")
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())
    started = LitLine.create(LineConfig(3, bias=False), params=str(tmp_path / "a.ckpt"))
    assert_same_parameters(started.state_dict(), lit_model.state_dict())
    assert "params" not in started.hparams


def test_map_location_moves_the_parameters(tmp_path: Path) -> None:
    fit(tmp_path, LitLine.create(LineConfig(3))).save_checkpoint(tmp_path / "a.ckpt")
    loaded = LitLine.load_from_checkpoint(tmp_path / "a.ckpt", map_location="meta")
    assert {p.device.type for p in loaded.parameters()} == {"meta"}


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    fit(tmp_path, LitLine.create(LineConfig(3))).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt don't fit Line; 1 of another shape: linear.weight \(1, 3\)"):
        LitLine.load_from_checkpoint(tmp_path / "a.ckpt", num_inputs=5)


def test_a_leaf_must_define_its_step() -> None:
    with pytest.raises(NotImplementedError):
        LitModel(Line(LineConfig(3))).step(None)


def test_text_goes_to_every_tensorboard_logger_and_is_printed_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = [TensorBoardLogger(tmp_path, name=name) for name in "ab"]
    lit_model = LitLine.create(LineConfig(3))
    fit(tmp_path, lit_model, logger=loggers, log_every_n_steps=1)
    written: list[tuple[int, tuple[Any, ...]]] = []
    for i, logger in enumerate(loggers):
        logger.experiment.add_text = lambda *args, i=i: written.append((i, args))
    lit_model.log_text("tag", "some text")
    assert written == [(0, ("tag", "some text", 1)), (1, ("tag", "some text", 1))]
    assert "some text" not in capsys.readouterr().out
    fit(tmp_path, lit_model)
    lit_model.log_text("tag", "some text")
    assert capsys.readouterr().out.endswith("tag\nsome text\n")


def test_only_the_first_process_writes_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logger, lit_model, written = TensorBoardLogger(tmp_path), LitLine.create(LineConfig(3)), []
    fit(tmp_path, lit_model, logger=logger, log_every_n_steps=1)
    monkeypatch.setattr(logger.experiment, "add_text", lambda *args: written.append(args))
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    lit_model.log_text("tag", "some text")
    assert written == []


class LitTrained(LitLine):
    """Its accuracy is the number of the batch."""

    num_batches = 0

    def metrics(self, batch: Any, split: str) -> dict[str, Any]:
        self.num_batches += split == "train"
        return {"loss": self.step(batch), "acc": float(self.num_batches)}

    def num_targets(self, batch: Any) -> int:
        return self.num_batches  # 1 in the first batch of the epoch, 2 in the second


class LitCounted(LitLine):
    """Its loss is a mean over the rows of a batch that are not 0."""

    def step(self, batch: Any) -> Tensor:
        (x,) = batch
        return self.model.linear(x).squeeze(-1).square().where(x.any(dim=1), 0.0).sum() / self.num_targets(batch).clamp(
            min=1
        )

    def num_targets(self, batch: Any) -> Tensor:
        return batch[0].any(dim=1).sum()


def test_accumulated_batches_count_by_their_targets(tmp_path: Path) -> None:
    """Five batches make two steps, the last one of two batches."""
    rows = torch.randn(10, 3)
    rows[[1, 4, 5, 9]] = 0.0
    lit_model, expected = LitCounted.create(LineConfig(3)), LitCounted.create(LineConfig(3))
    expected.load_state_dict(lit_model.state_dict())
    for part in (rows[:6], rows[6:]):
        expected.zero_grad()
        expected.step((part,)).backward()
        expected.configure_optimizers().step()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=3,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
    )
    batches = DataLoader(TensorDataset(rows), batch_size=2)
    trainer.fit(lit_model, batches, batches)
    assert trainer.global_step == 2
    torch.testing.assert_close(lit_model.state_dict(), expected.state_dict())


def test_a_compiled_step_is_a_graph(tmp_path: Path) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    lit_model, same = LitLine.create(LineConfig(3)), LitLine.create(LineConfig(3))
    same.load_state_dict(lit_model.state_dict())
    torch.compiler.reset()
    lit_model.compile_step(backend=backend, fullgraph=True)
    for model in (lit_model, same):
        fit(tmp_path, model)
    assert len(graphs) == 2  # with gradients, and without
    torch.testing.assert_close(lit_model.state_dict(), same.state_dict())


def test_accuracy_of_training_is_that_of_the_epoch(tmp_path: Path) -> None:
    """Its mean over targets, where the loss is that of the last step."""
    lit_model = LitTrained.create(LineConfig(3))
    (last,) = list(data())[-1]
    with torch.no_grad():
        expected = lit_model.model.linear(last).square().mean()
    trainer = fit(tmp_path, lit_model, accumulate_grad_batches=2)
    assert trainer.callback_metrics["train_acc"] == pytest.approx((1 * 1 + 2 * 2) / 3)
    assert trainer.callback_metrics["train_loss"] == pytest.approx(expected.item(), rel=1e-5)
