"""The shared command line, on a linear model: what flags become, which optimizer runs, how schedules are stepped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from perceiver.model.core.layers import MLP, AttentionLayer, SelfAttention
from perceiver.scripts.cli import CLI, parameters_for
from perceiver.scripts.lrs import ConstantWithWarmupLR, DecayingLR


@dataclass
class EncoderConfig:
    num_channels: int = 3
    num_outputs: int = 1


class LitLinear(LightningModule):
    """A model with a config as ours have one; `rates` is the learning rate of each step."""

    def __init__(self, encoder: EncoderConfig, bias: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = torch.nn.Linear(encoder.num_channels, encoder.num_outputs, bias=bias)
        self.rates: list[float] = []
        self.save_hyperparameters()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return self.model(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.model(batch).square().mean())


class LinearDataModule(LightningDataModule):
    num_outputs = 2

    def __init__(self, num_channels: int = 5) -> None:
        super().__init__()
        self.num_channels = num_channels

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(torch.randn(8, self.num_channels, generator=generator), batch_size=2)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


class PickyDataModule(LinearDataModule):
    def __init__(self, num_channels: int = 5) -> None:
        super().__init__(num_channels)
        if num_channels < 1:
            raise ValueError(f"num_channels={num_channels} must be at least 1")


LINKS = {"data.num_channels": ["model.encoder.num_channels"]}
DEFAULTS = {
    "lr_scheduler": {"class_path": "ConstantWithWarmupLR"},
    "model.encoder.num_outputs": 7,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "linear"}},
}
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def cli(*args: str, run: bool = True) -> CLI:
    return CLI(LitLinear, defaults=DEFAULTS, links=LINKS, args=list(args), run=run)


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--print_config", *args)
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli("fit", *args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_defaults_need_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys)
    assert config["seed_everything"] == 0
    assert config["model"] == {"encoder": {"num_outputs": 7}, "bias": False}  # num_channels comes from the data
    assert config["lr_scheduler"]["class_path"] == "perceiver.scripts.lrs.ConstantWithWarmupLR"
    trainer = config["trainer"]
    assert trainer["default_root_dir"] == "logs"
    monitor, checkpoint = trainer["callbacks"]
    assert monitor["class_path"] == "pytorch_lightning.callbacks.LearningRateMonitor"
    assert monitor["init_args"]["logging_interval"] == "step"
    assert checkpoint["class_path"] == "pytorch_lightning.callbacks.ModelCheckpoint"
    expected = {"filename": "{epoch:03d}-{val_loss:.3f}", "monitor": "val_loss", "mode": "min", "save_top_k": 1}
    assert {key: checkpoint["init_args"][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "class_path", "own_defaults"),
    [
        ("AdamW", "torch.optim.AdamW", {"weight_decay": 0.01}),
        ("SGD", "torch.optim.SGD", {"weight_decay": 0}),
        ("RAdam", "torch.optim.RAdam", {"decoupled_weight_decay": False}),  # pytorch_optimizer has one, too
        ("Lamb", "pytorch_optimizer.Lamb", {"eps": 1e-6, "weight_decay": 0.0}),
        ("pytorch_optimizer.RAdam", "pytorch_optimizer.RAdam", {"n_sma_threshold": 5}),
    ],
)
def test_optimizers_by_name(
    name: str, class_path: str, own_defaults: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = printed_config(capsys, f"--optimizer={name}", "--optimizer.lr=3e-3")["optimizer"]
    assert optimizer["class_path"] == class_path
    assert optimizer["init_args"]["lr"] == 3e-3
    assert {key: optimizer["init_args"][key] for key in own_defaults} == own_defaults


def test_optimizer_flags_without_a_name_are_of_adamw(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = printed_config(capsys, "--optimizer.lr=3e-3")["optimizer"]
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("torch.optim.AdamW", 3e-3)


def test_schedules_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    constant = printed_config(capsys, "--lr_scheduler.warmup_steps=100")["lr_scheduler"]
    assert constant["class_path"] == "perceiver.scripts.lrs.ConstantWithWarmupLR"
    assert constant["init_args"]["warmup_steps"] == 100

    flags = ["--lr_scheduler=CosineWithWarmupLR", "--lr_scheduler.warmup_steps=9", "--lr_scheduler.min_fraction=0.1"]
    cosine = printed_config(capsys, *flags)["lr_scheduler"]
    assert cosine["class_path"] == "perceiver.scripts.lrs.CosineWithWarmupLR"
    assert cosine["init_args"]["warmup_steps"] == 9
    assert cosine["init_args"]["min_fraction"] == 0.1


def test_logger_by_name_keeps_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("TensorBoardLogger", "CSVLogger"):
        logger = printed_config(capsys, f"--trainer.logger={name}")["trainer"]["logger"]
        assert logger["class_path"] == f"pytorch_lightning.loggers.{name}"
        assert (logger["init_args"]["save_dir"], logger["init_args"]["name"]) == ("logs", "linear")


def test_config_file_below_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": {"bias": True, "encoder": {"num_outputs": 11}}, "optimizer": "SGD"}))
    config = printed_config(capsys, f"--config={file}", "--model.encoder.num_outputs=13")
    assert config["model"] == {"encoder": {"num_outputs": 13}, "bias": True}
    assert config["optimizer"]["class_path"] == "torch.optim.SGD"


def test_wrong_flags_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model.encoder.num_chanels" in usage_error(capsys, "--model.encoder.num_chanels=3")
    assert "Option 'momentun' is not accepted" in usage_error(capsys, "--optimizer=SGD", "--optimizer.momentun=1")
    assert "NoSuchOptimizer" in usage_error(capsys, "--optimizer=NoSuchOptimizer")
    linked = ["--data=LinearDataModule", "--model.encoder.num_channels=3"]
    assert "model.encoder.num_channels" in usage_error(capsys, *linked)


def test_fit_writes_where_the_issue_says_and_steps_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data=LinearDataModule", "--optimizer.lr=0.5", "--lr_scheduler.warmup_steps=4", "--trainer.max_epochs=2"]
    run = cli("fit", *flags, "--optimizer=SGD", "--trainer.logger=TensorBoardLogger", *QUIET)

    assert run.model.encoder == EncoderConfig(num_channels=5, num_outputs=7)  # linked, default
    assert isinstance(run.trainer.optimizers[0], torch.optim.SGD)
    assert isinstance(run.trainer.lr_scheduler_configs[0].scheduler, ConstantWithWarmupLR)
    assert run.model.rates == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])
    checkpoint, last = sorted((tmp_path / "logs/linear/version_0/checkpoints").iterdir())
    assert checkpoint.name.startswith("epoch=001-val_loss=") and last.name == "last.ckpt"
    saved = yaml.safe_load((tmp_path / "logs/linear/version_0/config.yaml").read_text())
    assert saved["optimizer"]["class_path"] == "torch.optim.SGD"

    # the saved config is a command line of its own, and the run goes on in its checkpoint
    resumed = cli(
        "fit",
        f"--config={tmp_path / 'logs/linear/version_0/config.yaml'}",
        f"--ckpt_path={checkpoint}",
        "--trainer.max_epochs=3",
    )
    assert resumed.trainer.global_step == 12
    assert resumed.model.rates == pytest.approx([0.5] * 4)
    assert (tmp_path / "logs/linear/version_1/config.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("CosineWithWarmupLR", "--trainer.max_steps=6"),
        ("CosineWithWarmupLR", "--trainer.max_epochs=2"),
        ("WarmupStableDecayLR", "--trainer.max_epochs=2"),
    ],
)
def test_a_schedule_ends_with_the_training(
    name: str, length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data=LinearDataModule", f"--lr_scheduler={name}", "--lr_scheduler.warmup_steps=2"]
    run = cli("fit", *flags, length, "--trainer.logger=false", *QUIET)

    scheduler = run.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, DecayingLR) and type(scheduler).__name__ == name
    assert scheduler.training_steps == run.trainer.global_step == {"--trainer.max_steps=6": 6}.get(length, 8)
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)
    # no optimizer was named: AdamW, and the saved config says so
    assert type(run.trainer.optimizers[0]) is torch.optim.AdamW
    assert max(run.model.rates) == pytest.approx(1e-3)
    saved = yaml.safe_load((tmp_path / "logs/config.yaml").read_text())
    assert saved["optimizer"]["class_path"] == "torch.optim.AdamW"


@pytest.mark.filterwarnings("ignore:.*The training will run.*:UserWarning")
def test_cosine_without_an_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data=LinearDataModule", "--lr_scheduler=CosineWithWarmupLR", "--lr_scheduler.warmup_steps=6"]
    with pytest.raises(SystemExit) as stop:
        cli("fit", *flags, "--trainer.max_epochs=-1", "--trainer.logger=false", *QUIET)
    assert stop.value.code == 1
    assert "training without an end gives CosineWithWarmupLR no length" in capsys.readouterr().err


def test_a_value_that_a_class_refuses_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--data=PickyDataModule", "--data.num_channels=0", "--trainer.logger=false", *QUIET)
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(": num_channels=0 must be at least 1")


@pytest.mark.parametrize("steps", [4, 6])
def test_a_training_may_end_within_the_warmup(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data=LinearDataModule", "--lr_scheduler=CosineWithWarmupLR", "--lr_scheduler.warmup_steps=6"]
    run = cli("fit", *flags, f"--trainer.max_steps={steps}", "--trainer.logger=false", *QUIET)
    assert run.model.rates == pytest.approx([1e-3 * step / 6 for step in range(steps)])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_the_end_of_a_training_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli("fit", "--data=LinearDataModule", "--trainer.max_steps=3", *QUIET)  # of an epoch of 4
    best, checkpoint = sorted(Path("logs/linear/version_0/checkpoints").iterdir())
    assert best.name.startswith("epoch=000-val_loss=") and checkpoint.name == "last.ckpt"  # the end is validated

    resumed = cli("fit", "--data=LinearDataModule", "--trainer.max_steps=6", f"--ckpt_path={checkpoint}", *QUIET)
    assert resumed.trainer.global_step == 6
    best, last = sorted(Path("logs/linear/version_1/checkpoints").iterdir())
    assert best.name.startswith("epoch=002-val_loss=") and last.name == "last.ckpt"
    assert [torch.load(file, weights_only=True)["global_step"] for file in (best, last)] == [6, 6]


def test_without_a_subcommand_nothing_runs() -> None:
    built = cli("--data=LinearDataModule", "--data.num_channels=17", "--trainer.logger=false", *QUIET, run=False)
    assert built.model.encoder.num_channels == 17
    assert built.trainer.global_step == 0


def test_muon_gets_the_matrices_of_layers_apart() -> None:
    model = LitLinear(EncoderConfig())
    model.model = AttentionLayer(SelfAttention(num_channels=4, num_heads=2), MLP(4, 2))
    muon, others = parameters_for("pytorch_optimizer.Muon", model)
    assert muon["use_muon"] and [p.ndim for p in muon["params"]] == [2] * 6
    assert not others["use_muon"] and len([*model.parameters()]) == 6 + len(others["params"])
    for name in ("torch.optim.AdamW", "pytorch_optimizer.Lamb"):
        assert all(isinstance(p, torch.nn.Parameter) for p in parameters_for(name, model))
