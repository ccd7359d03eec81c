"""`python -m perceiver.scripts.text.mlm`: its flags, its defaults, and one run of a tiny model from fit to validate."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import yaml
from transformers import PerceiverTokenizer

from perceiver.model.text.mlm.backend import (
    MaskedLanguageModelConfig,
    TextDecoderConfig,
    TextEncoderConfig,
    perceiver_io_language_base,
)
from perceiver.scripts import cli
from perceiver.scripts.text import mlm
from perceiver.tasks import TASKS

# The command line of the README.
DOCUMENTED = """fit --model.num_latents=32 --model.encoder.num_input_channels=64 --data=WikiTextDataModule
    --data.tokenizer=deepmind/language-perceiver --data.max_seq_len=512 --optimizer=AdamW --optimizer.lr=1e-3
    --lr_scheduler.warmup_steps=100 --trainer.max_steps=500 --trainer.logger=TensorBoardLogger""".split()

TINY = {
    "model.num_latents": 3,
    "model.num_latent_channels": 16,
    "model.encoder.num_input_channels": 11,
    "model.encoder.num_cross_attention_qk_channels": 8,
    "model.encoder.num_cross_attention_v_channels": 16,
    "model.encoder.num_self_attention_qk_channels": 8,
    "model.encoder.num_self_attention_v_channels": 16,
    "model.encoder.num_self_attention_layers_per_block": 1,
    "model.decoder.num_cross_attention_qk_channels": 8,
    "model.decoder.num_cross_attention_v_channels": 16,
}


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        mlm.main([*args, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_documented_flags(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, *DOCUMENTED)
    assert config["model"]["num_latents"] == 32
    assert config["model"]["encoder"]["num_input_channels"] == 64
    assert config["data"]["class_path"] == "perceiver.data.text.WikiTextDataModule"
    assert config["data"]["init_args"]["max_seq_len"] == 512
    assert config["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert config["optimizer"]["init_args"]["lr"] == 1e-3
    assert config["lr_scheduler"]["init_args"]["warmup_steps"] == 100
    assert config["trainer"]["max_steps"] == 500
    logger = config["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("logs", "mlm")


def test_defaults_are_the_official_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(capsys, "fit")["model"]
    from_data = {"vocab_size": 262, "max_seq_len": 2048}
    official = perceiver_io_language_base()
    assert official == MaskedLanguageModelConfig(
        encoder=TextEncoderConfig(**model["encoder"], **from_data),
        decoder=TextDecoderConfig(**model["decoder"], **from_data),
        **{name: model[name] for name in ("num_latents", "num_latent_channels", "activation_checkpointing")},
        activation_offloading=model["activation_offloading"],
    )


@pytest.mark.parametrize("name", TASKS["mlm"].data)
def test_data_modules_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_config(capsys, "fit", f"--data={name}")["data"]["class_path"].endswith(name)


def test_unknown_and_linked_flags_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    abbreviated = "--model.num_predict=3"
    for flag in (
        abbreviated,
        "--model.num_latent=3",
        "--model.encoder.num_chanels=3",
        "--model.encoder.vocab_size=262",
    ):
        with pytest.raises(SystemExit) as stop:
            mlm.main([*DOCUMENTED, flag])
        assert stop.value.code == 2
        assert flag.lstrip("-").split("=")[0] in capsys.readouterr().err


def test_fit_validate_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "CLI", recording := Recording(cli.CLI))
    PerceiverTokenizer().save_pretrained("tokenizer")
    data = ["--data=PydocTextDataModule", "--data.tokenizer=tokenizer", "--data.max_seq_len=61", "--data.num_workers=0"]
    trainer = ["accelerator=cpu", "enable_progress_bar=false", "enable_model_summary=false", "limit_val_batches=1"]
    common = [*data, *(f"--trainer.{flag}" for flag in trainer)]
    schedule = ["--optimizer=Lamb", "--lr_scheduler=CosineWithWarmupLR", "--lr_scheduler.warmup_steps=1"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.logger=TensorBoardLogger"]

    mlm.main(["fit", *common, *schedule, *steps, *(f"--{name}={value}" for name, value in TINY.items())])
    model, trained = recording.last.model.model, recording.last.trainer
    for part in (model.config.encoder, model.config.decoder):
        assert (part.vocab_size, part.max_seq_len) == (262, 61)  # from the data
    assert type(trained.optimizers[0]) is pytorch_optimizer.Lamb
    val_loss = trained.callback_metrics["val_loss"].item()
    checkpoint, last = sorted(Path("logs/mlm/version_0/checkpoints").iterdir())
    assert (checkpoint.name, last.name) == (f"epoch=000-val_loss={val_loss:.3f}.ckpt", "last.ckpt")

    # the checkpoint says what the model is
    mlm.main(["validate", *common, "--trainer.logger=false", f"--ckpt_path={checkpoint}"])
    assert recording.last.model.model.config == model.config
    assert recording.last.trainer.callback_metrics["val_loss"].item() == pytest.approx(val_loss, abs=1e-5)

    more = ["--trainer.max_steps=4", "--trainer.logger=false", f"--ckpt_path={checkpoint}"]
    mlm.main(["fit", *common, *schedule, *more, "--trainer.limit_train_batches=4"])
    assert recording.last.trainer.global_step == 4
    assert recording.last.trainer.lr_scheduler_configs[0].scheduler.training_steps == 4


class Recording:
    """Keeps the last command line that was run."""

    def __init__(self, cli: Any) -> None:
        self.cli = cli

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.last = self.cli(*args, **kwargs)
