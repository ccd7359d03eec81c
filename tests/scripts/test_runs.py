"""Runs of a tiny model from the command line: stopped and gone on with, started from checkpoints, what they say."""

import io
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from perceiver.scripts import meter
from perceiver.scripts.start import train
from perceiver.scripts.text import clm, mlm

DATA = """--data=LocalTextDataModule --data.train_files=train.txt --data.valid_files=valid.txt --data.tokenizer=bytes
    --data.max_seq_len=13 --data.num_workers=0 --data.batch_size=4""".split()
TRAINER = """--trainer.accelerator=cpu --trainer.limit_val_batches=1 --trainer.limit_train_batches=9
    --optimizer.lr=1e-2""".split()
CLM = "--model.max_latents=5 --model.num_channels=24 --model.num_heads=2 --model.num_self_attention_layers=2".split()
MLM = """--model.num_latents=3 --model.num_latent_channels=12 --model.encoder.num_input_channels=10
    --model.encoder.num_cross_attention_heads=2 --model.encoder.num_cross_attention_qk_channels=8
    --model.encoder.num_cross_attention_v_channels=12 --model.encoder.num_self_attention_heads=2
    --model.encoder.num_self_attention_qk_channels=8 --model.encoder.num_self_attention_v_channels=12
    --model.encoder.num_self_attention_layers_per_block=1 --model.decoder.num_cross_attention_heads=2
    --model.decoder.num_cross_attention_qk_channels=8 --model.decoder.num_cross_attention_v_channels=10""".split()


class StopAt(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("train.txt").write_text("".join(f"{i} and {i}\n" for i in range(200)))
    Path("valid.txt").write_text("1 and 1\n" * 9)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], task: str, *args: str) -> tuple[object, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train(task, list(args))
    return stop.value.code, capsys.readouterr().err


def weights(file: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("signum", "by"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_stopped_and_gone_on_with(signum: int, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*DATA, *CLM, *TRAINER, "--trainer.max_steps=7", "--trainer.log_every_n_steps=1"]
    clm.main(["fit", *flags])
    stop = ["--trainer.callbacks+=StopAt", "--trainer.callbacks.step=3", f"--trainer.callbacks.signum={int(signum)}"]
    code, err = failure(capsys, "clm", "fit", *flags, *stop)
    assert code == 128 + signum
    # the signal comes at the beginning of a step, which is finished
    assert err.endswith(
        f"perceiver clm: stopped by {by} after step 4. It goes on with\n\n"
        "  perceiver clm fit --config=logs/clm/version_1/config.yaml \\\n"
        "      --ckpt_path=logs/clm/version_1/checkpoints/last.ckpt\n"
    )
    assert torch.load("logs/clm/version_1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    clm.main(["fit", *flags, "--ckpt_path=last"])  # model flags are those of the checkpoint, or could be left away
    expected, found = (weights(f"logs/clm/version_{i}/checkpoints/last.ckpt") for i in (0, 2))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_last_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failure(capsys, "clm", "fit", *DATA, *CLM, *TRAINER, "--ckpt_path=last")
    assert code == 1 and err.endswith("--ckpt_path=last: there is no last.ckpt in logs/clm/*/checkpoints\n")


def test_a_run_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    clm.main(["fit", *DATA, *CLM, *TRAINER, "--trainer.max_steps=4", "--trainer.val_check_interval=2"])
    out, err = capsys.readouterr()
    assert max(map(len, (out + err.replace("\r", "\n")).splitlines()[-14:])) <= 80
    assert "LitCausalLanguageModel: " in out and " parameters; cpu, 32-true\n" in out
    steps = re.findall(r"^step (\d/\d)  epoch 0  val_loss \d.*val_bits_per_byte", out, re.MULTILINE)
    assert steps == ["2/4", "4/4"]  # no terminal: lines, no bar
    (best,) = Path("logs/clm/version_0/checkpoints").glob("epoch*.ckpt")
    assert re.search(rf"best  {best}\n      val_loss [\d.]+, [\d.]+ bits per byte\n", out)
    assert "perceiver convert checkpoint --task clm" in out and str(best) in out and "--tokenizer bytes" in out
    for noise in ("litlogger", "GPU available", "isinstance(treespec", "Epoch 2/-2", "FLOPs", "workers", "stopped:"):
        assert noise not in out + err


def test_geometry_comes_from_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*DATA, *TRAINER, "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    mlm.main(["fit", *flags, *MLM])
    last = "logs/mlm/version_0/checkpoints/last.ckpt"
    there = weights(last)
    for flag, parts in (("encoder.params", ("0.",)), ("params", ("0.", "1."))):
        started: list[dict[str, torch.Tensor]] = []
        mlm.main(["fit", *flags, f"--model.{flag}={last}", "--optimizer.lr=0", "--optimizer.weight_decay=0"])
        newest = max(Path("logs/mlm").iterdir(), key=lambda path: int(path.name.split("_")[1]))
        started.append(weights(newest / "checkpoints/last.ckpt"))
        for name, value in there.items():
            if name.removeprefix("model.").startswith(parts):
                assert torch.equal(started[0][name], value), name


CONTRADICTIONS: list[tuple[list[str], str]] = [
    (
        ["--model.encoder.params=LAST", "--model.encoder.num_self_attention_heads=4"],
        "--model.encoder.params=LAST is of another model: --model.encoder.num_self_attention_heads=4 here and 2 "
        "there (leave these flags away, or set --model.params_strict=false)",
    ),
    (
        ["--model.params=LAST", "--model.num_latents=4"],
        "--model.params=LAST is of another model: --model.num_latents=4 here and 3 there",
    ),
    (["--ckpt_path=LAST", "--model.num_latents=4"], "--ckpt_path=LAST is of another model: --model.num_latents=4"),
    (["--model.encoder.params=none"], "none"),
]


def test_flags_that_contradict_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    common = [*DATA, *TRAINER, "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    mlm.main(["fit", *common, *MLM])
    last = "logs/mlm/version_0/checkpoints/last.ckpt"
    for flags, said in CONTRADICTIONS:
        code, err = failure(capsys, "mlm", "fit", *common, *(flag.replace("LAST", last) for flag in flags))
        assert code == 1 and said.replace("LAST", last) in err.splitlines()[-1], flags


def test_without_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*DATA, *CLM, *TRAINER, "--trainer.max_steps=2", "--trainer.enable_checkpointing=false"]
    clm.main(["fit", *flags, "--trainer.logger=false"])
    assert "step 2/2" in capsys.readouterr().out and list(Path().rglob("*.ckpt")) == []


# --- the meter ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    lines = meter.Meter("step", 5000, first=1000, file=(file := io.StringIO()))
    clock.now += 29.9
    assert not lines.is_time()
    clock.now += 10.1
    assert lines.is_time()
    lines.show(1080, "loss 3.5")
    assert not lines.is_time()
    lines.print("between")
    lines.close()
    assert file.getvalue() == "step 1,080/5,000  loss 3.5  2/s, 32:40 left\nbetween\n"
    assert meter.clock(3723.9) == "1:02:03"
    unknown = meter.Meter("tokens", file=(file := io.StringIO()))
    clock.now += 2
    unknown.show(3000)
    assert file.getvalue() == "tokens 3,000  1.5e+03/s\n"
    bar = meter.Meter("step", 8, file=(terminal := Terminal()))
    bar.show(5, "loss 3.5")
    bar.print("between")
    bar.close()
    assert "step 5/8 |" in terminal.getvalue() and "loss 3.5" in terminal.getvalue()
    assert "between\n" in terminal.getvalue()
