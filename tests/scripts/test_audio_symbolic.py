"""`python -m perceiver.scripts.audio.symbolic`: flags, defaults, and a run of a tiny model."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from perceiver.data.audio import piano_piece
from perceiver.model.audio.symbolic import (
    LitSymbolicAudioModel,
    SymbolicAudioModelConfig,
    perceiver_ar_giantmidi,
    perceiver_ar_maestro,
)
from perceiver.scripts import main as perceiver_command
from perceiver.scripts.audio import symbolic
from perceiver.tasks import TASKS

TINY = """--model.max_latents=16 --model.num_channels=24 --model.num_heads=2 --model.num_self_attention_layers=2
    --model.validation_sample_record=-1 --trainer.accelerator=cpu --trainer.enable_progress_bar=false
    --trainer.enable_model_summary=false --trainer.limit_val_batches=1 --trainer.limit_test_batches=1
    --data=SyntheticPianoDataModule --data.max_seq_len=32 --data.num_train_pieces=2 --data.num_valid_pieces=1
    --data.num_workers=0 --data.batch_size=4""".split()

OF_TRAINING = ("validation_sample_prompt", "validation_sample_record", "num_loss_blocks")
GIANT_MIDI = """fit --data=GiantMidiPianoDataModule --data.source=midis_v1.2.zip --data.max_seq_len=6144
    --model.num_channels=768 --model.num_self_attention_layers=18 --model.cross_attention_dropout=0.5
    --optimizer=AdamW --optimizer.lr=2e-4 --lr_scheduler.warmup_steps=200""".split()


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        symbolic.main([*args, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


def model_config(config: dict[str, Any], max_seq_len: int) -> SymbolicAudioModelConfig:
    names = {field.name for field in fields(SymbolicAudioModelConfig)}
    values = {name: value for name, value in config["model"].items() if name in names}
    assert config["model"].keys() - names == {"params", "params_strict", *OF_TRAINING}
    return SymbolicAudioModelConfig(vocab_size=389, max_seq_len=max_seq_len, **values)


def test_defaults_are_the_model_for_maestro(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "fit", "--data=MaestroV3DataModule", "--data.max_seq_len=4096")
    assert model_config(config, 4096) == perceiver_ar_maestro()
    assert config["data"]["class_path"] == "perceiver.data.audio.MaestroV3DataModule"
    logger = config["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("logs", "sam")


def test_flags_of_the_larger_model(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, *GIANT_MIDI)
    assert model_config(config, 6144) == replace(perceiver_ar_giantmidi(), cross_attention_dropout=0.5)
    assert config["optimizer"]["init_args"]["lr"] == 2e-4


@pytest.mark.parametrize("name", TASKS["symbolic-audio"].data)
def test_data_modules_are_found_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--data.source=music"] if name in ("GiantMidiPianoDataModule", "LocalMidiDataModule") else []
    config = printed_config(
        capsys, "fit", f"--data={name}", "--data.max_seq_len=64", "--data.random_transposition=6", *source
    )
    assert config["data"]["class_path"].endswith(f".{name}")
    arguments = config["data"]["init_args"]
    assert (arguments["max_seq_len"], arguments["padding_side"], arguments["random_transposition"]) == (64, "left", 6)


@pytest.mark.parametrize("flag", ["--model.vocab_size=389", "--model.max_seq_len=9", "--model.max_latent=3"])
def test_linked_and_abbreviated_flags_are_rejected(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        symbolic.main([*GIANT_MIDI, flag])
    assert stop.value.code == 2 and flag.lstrip("-").split("=")[0] in capsys.readouterr().err


def test_fit_validate_test_and_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    piano_piece(0).midi.write("prompt.mid")
    flags = [*TINY, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    symbolic.main(["fit", *flags, "--model.validation_sample_prompt=prompt.mid"])
    folder = Path("logs/sam/version_0")
    ckpt = folder / "checkpoints" / "last.ckpt"
    config = LitSymbolicAudioModel.load_from_checkpoint(ckpt).model.config
    assert (config.vocab_size, config.max_seq_len, config.max_latents) == (389, 32, 16)
    assert not config.abs_pos_emb and config.output_norm and not config.output_bias
    assert {file.name for file in (folder / "samples").iterdir()} == {
        "validation_sample_prompt-000002.mid",
        "validation_sample_record-000002.mid",
    }
    for command in ("validate", "test"):
        symbolic.main([command, *TINY, f"--ckpt_path={ckpt}"])
    assert perceiver_command.main(["convert", "checkpoint", "--task=symbolic-audio", str(ckpt), "model"]) == 0
    assert Path("model/model.safetensors").is_file()


def test_fit_on_packed_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data.packing=true", "--data.min_seq_len=9", "--trainer.max_steps=2", "--trainer.limit_train_batches=2"]
    symbolic.main(["fit", *TINY, *flags])
    assert Path("logs/sam/version_0/checkpoints/last.ckpt").is_file()


def test_the_command_knows_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        perceiver_command.main(["symbolic-audio", *GIANT_MIDI, "--print_config"])
    assert stop.value.code == 0 and "GiantMidiPianoDataModule" in capsys.readouterr().out
