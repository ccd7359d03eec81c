"""`python -m perceiver.scripts.text.clm`: flags, defaults, a run of a tiny model, and `evaluate`."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from perceiver.model.text.clm.backend import CausalLanguageModelConfig, perceiver_ar_byte_base
from perceiver.model.text.clm.evaluation import evaluate_text
from perceiver.scripts import cli, main as perceiver_command
from perceiver.scripts.text import clm
from perceiver.tasks import TASKS
from tests.model.clm_helpers import golden_clm
from tests.model.helpers import GOLDEN, TIED
from tests.tokenizers import byte_tokenizer, xlnet_tokenizer

# The command line of docs/model-construction.md.
DOCUMENTED = """fit --model.max_latents=512 --model.num_channels=512 --model.cross_attention_dropout=0.5
    --data=WikiTextDataModule --data.tokenizer=deepmind/language-perceiver --data.task=clm --data.padding_side=left
    --data.max_seq_len=4096 --optimizer=AdamW --optimizer.lr=2e-4 --lr_scheduler.warmup_steps=200
    --trainer.max_steps=500 --trainer.gradient_clip_val=0.5 --trainer.accumulate_grad_batches=4""".split()

# All fields of the config but the two that come from the data, with values that are no defaults.
OF_TRAINING = ("validation_sample_prompt", "validation_sample_record", "num_loss_blocks")
FIELDS = {
    "num_heads": 4,
    "max_heads_parallel": 2,
    "num_self_attention_layers": 3,
    "num_self_attention_rotary_layers": -1,
    "self_attention_widening_factor": 2,
    "cross_attention_widening_factor": 3,
    "cross_attention_dropout": 0.25,
    "post_attention_dropout": 0.125,
    "residual_dropout": 0.375,
    "activation_checkpointing": True,
    "activation_offloading": True,
    "max_latents": 128,
    "num_channels": 256,
    "output_norm": True,
    "output_bias": False,
    "abs_pos_emb": False,
    "token_shift": True,
    "init_scale": 0.1,
}

TINY = """--model.max_latents=5 --model.num_channels=24 --model.num_heads=2 --model.num_self_attention_layers=2
    --model.validation_sample_prompt=A --model.validation_sample_record=-1 --trainer.accelerator=cpu
    --trainer.enable_progress_bar=false --trainer.enable_model_summary=false --trainer.limit_val_batches=1
    --trainer.limit_test_batches=1 --data.num_workers=0 --data.batch_size=4""".split()

HUB = GOLDEN / "clm_1" / "hub"
TEXT = "Ein Märchen.\r\n\r\n日本語 and more of the same " * 3


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        clm.main([*args, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Exit code and error of a command line that can't be run."""
    with pytest.raises(SystemExit) as stop:
        clm.main(list(args))
    # a message in place of the code is printed, and the code is 1
    return f"2 {capsys.readouterr().err}" if stop.value.code == 2 else f"1 {stop.value.code}"


# --- flags ---


def test_documented_flags(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, *DOCUMENTED)
    model, data = config["model"], config["data"]
    assert (model["max_latents"], model["num_channels"], model["cross_attention_dropout"]) == (512, 512, 0.5)
    assert data["class_path"] == "perceiver.data.text.WikiTextDataModule"
    expected = {"tokenizer": "deepmind/language-perceiver", "task": "clm", "padding_side": "left", "max_seq_len": 4096}
    assert data["init_args"] == data["init_args"] | expected | {"dataset_dir": ".cache/wikitext"}
    logger = config["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("logs", "clm")


def test_defaults_are_the_published_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(capsys, "fit")["model"]
    names = {field.name for field in fields(CausalLanguageModelConfig)}
    values = {name: value for name, value in model.items() if name in names}
    assert CausalLanguageModelConfig(vocab_size=262, max_seq_len=4096, **values) == perceiver_ar_byte_base()
    assert model.keys() - names == {"params", "params_strict", *OF_TRAINING}


def test_every_field_is_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = {field.name for field in fields(CausalLanguageModelConfig)}
    assert FIELDS.keys() == names - {"vocab_size", "max_seq_len"}
    model = printed_config(capsys, "fit", *(f"--model.{name}={json.dumps(value)}" for name, value in FIELDS.items()))
    assert {name: model["model"][name] for name in FIELDS} == FIELDS
    with pytest.raises(SystemExit):
        clm.main(["fit", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in [*FIELDS, "params", "params_strict", *OF_TRAINING]:
        _, _, described = shown.rpartition(f"--model.{name} ")
        description = described.split(" (", 1)[0]
        assert len(description.split()) >= 2 and not description.startswith("--"), name


@pytest.mark.parametrize("name", TASKS["clm"].data)
def test_data_modules_get_the_task_and_keep_their_own_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = printed_config(capsys, "fit", f"--data={name}", "--data.max_seq_len=64")["data"]
    assert data["class_path"].endswith(name)
    arguments = data["init_args"]
    if name != "C4DataModule":  # which caches nothing
        folder = {"LocalTextDataModule": "local", "PydocTextDataModule": "pydoc"}.get(name, name[:-10].lower())
        assert arguments["dataset_dir"] == f".cache/{folder}"
    assert (arguments["task"], arguments["padding_side"], arguments["batch_size"]) == ("clm", "left", 64)


def test_data_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["padding_side=right", "random_train_shift=true", "random_train_truncation=true", "random_min_seq_len=32"]
    command = ["fit", "--data=LocalTextDataModule", "--data.train_files=[a.txt]", *(f"--data.{f}" for f in flags)]
    arguments = printed_config(capsys, *command)["data"]["init_args"]
    assert (arguments["padding_side"], arguments["random_min_seq_len"]) == ("right", 32)
    assert arguments["random_train_shift"] and arguments["random_train_truncation"]
    assert arguments["train_files"] == ["a.txt"]


@pytest.mark.parametrize(
    "flag", ["--model.max_latent=3", "--model.validation_sample_p=a", "--model.vocab_size=262", "--model.max_seq_len=9"]
)
def test_unknown_abbreviated_and_linked_flags_are_rejected(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = failure(capsys, *DOCUMENTED, flag)
    assert error.startswith("2 ") and flag.lstrip("-").split("=")[0] in error


def test_data_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "fit", "--trainer.max_steps=1") == (
        "2 perceiver clm fit: --data is missing, the name of a data module: WikipediaDataModule, for example "
        "(perceiver clm fit --help lists them)\n"
    )


def test_the_command_knows_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        perceiver_command.main(["clm", *DOCUMENTED, "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["task"] == "clm"
    with pytest.raises(SystemExit):  # there are no official weights
        perceiver_command.main(["convert", "model", "--task", "clm", "a", "b"])
    assert "invalid choice: 'clm'" in capsys.readouterr().err
    for task in ("clm", "mlm"):
        arguments = ["convert", "checkpoint", "--task", task, "a.ckpt", "b", "--tokenizer", "c"]
        assert perceiver_command.parser().parse_args(arguments).task == task


# --- runs ---


class Recording:
    """Keeps the last command line that was run."""

    def __init__(self, cli: Any) -> None:
        self.cli = cli

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.last = self.cli(*args, **kwargs)


def test_fit_validate_evaluate_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "CLI", recording := Recording(cli.CLI))
    byte_tokenizer("tokenizer")
    Path("train.txt").write_text("".join(f"{i} and {i}\n" for i in range(200)))
    Path("valid.txt").write_bytes(TEXT.encode())
    data = ["--data=LocalTextDataModule", "--data.train_files=train.txt", "--data.valid_files=valid.txt"]
    common = [*data, "--data.tokenizer=tokenizer", "--data.max_seq_len=13", *TINY]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--optimizer.lr=1e-2"]

    clm.main(["fit", *common, *steps])
    model, trained = recording.last.model.model, recording.last.trainer
    assert (model.config.vocab_size, model.config.max_seq_len) == (262, 13)  # from the data
    metrics = {name: value.item() for name, value in trained.callback_metrics.items()}
    assert metrics["val_bits_per_byte"] == pytest.approx(metrics["val_loss"] / math.log(2))
    checkpoint, last = sorted(Path("logs/clm/version_0/checkpoints").iterdir())
    assert last.name == "last.ckpt"

    capsys.readouterr()
    clm.main(["validate", *common, "--trainer.logger=false", f"--ckpt_path={checkpoint}"])
    assert recording.last.trainer.callback_metrics["val_loss"].item() == pytest.approx(metrics["val_loss"], abs=1e-5)
    assert "validation_sample_prompt\nA\n\n---\n\n" in capsys.readouterr().out

    clm.main(["evaluate", f"--model={last}", "--tokenizer=tokenizer", "--data", "valid.txt", "--output=r.json"])
    expected = evaluate_text(model, recording.last.datamodule.tokenizer, TEXT)
    assert json.loads(Path("r.json").read_text())["nats"] == pytest.approx(expected.nats)

    def uncompiled(step: Any, **options: Any) -> Any:  # what is compiled is tested with the model
        return lambda batch: batches.append(batch) or step(batch)

    batches: list[Any] = []
    monkeypatch.setattr(torch, "compile", uncompiled)
    more = ["--trainer.max_steps=4", "--trainer.logger=false", "--trainer.limit_train_batches=4", "--compile=true"]
    clm.main(["fit", *common, *more, f"--ckpt_path={checkpoint}"])
    assert recording.last.trainer.global_step == 4
    assert len(batches) >= 2 + 1  # two steps, and at least a validation


def test_fit_on_packed_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation loss is that of each document alone: a line of 1 to 20 digits, longer than the model sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "CLI", recording := Recording(cli.CLI))
    lines = ["".join(str(i * j % 7) for j in range(1 + i % 20)) + "\n" for i in range(60)]
    Path("train.txt").write_text("".join(lines))
    Path("valid.txt").write_text("".join(lines[30:51]))
    data = ["--data=LocalTextDataModule", "--data.train_files=train.txt", "--data.valid_files=valid.txt"]
    common = [*data, "--data.tokenizer=bytes", "--data.max_seq_len=13", "--data.packing=true", *TINY]
    steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=1.0"]
    clm.main(["fit", *common, *steps])
    model, tokenizer = recording.last.model.model.eval(), recording.last.datamodule.tokenizer
    nats, count = 0.0, 0
    for line in lines[30:51]:
        for chunk in torch.tensor(tokenizer(line, add_special_tokens=False)["input_ids"]).split(14):
            if len(chunk) > 1:
                logits = model(chunk[None, :-1], max(len(chunk) - 1 - 5, 0))[0]
                nats += torch.nn.functional.cross_entropy(logits, chunk[-len(logits) :], reduction="sum").item()
                count += len(logits)
    metrics = recording.last.trainer.callback_metrics
    assert metrics["val_loss"].item() == pytest.approx(nats / count, abs=1e-5)
    checkpoint = "logs/clm/version_0/checkpoints/last.ckpt"
    clm.main(["fit", *common, "--trainer.max_steps=4", "--trainer.logger=false", f"--ckpt_path={checkpoint}"])
    assert recording.last.trainer.global_step == 4


class Numbers(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        ids = (torch.arange(10) + i) % 11
        return ids[1:], ids[:-1], torch.zeros(9, dtype=torch.bool)


class OtherData(LightningDataModule):
    """A data module that has nothing in common with ours but the two attributes."""

    vocab_size = 11

    def __init__(self, max_seq_len: int = 9) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Numbers(), batch_size=2)

    val_dataloader = train_dataloader


def test_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "CLI", recording := Recording(cli.CLI))
    flags = [flag for flag in TINY if not flag.startswith(("--data", "--model.validation"))]
    clm.main(["fit", "--data=OtherData", *flags, "--trainer.max_steps=2", "--trainer.logger=false"])
    assert recording.last.trainer.global_step == 2 and recording.last.model.model.config.vocab_size == 11


# --- evaluate ---


def test_evaluate_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes(TEXT.encode())
    Path("b.txt").write_text("another text")
    flags = [f"--model={HUB}", "--data", "a.txt", "b.txt", "--stride=2", "--batch_size=3", "--device=cpu"]
    monkeypatch.setattr(sys, "argv", ["clm.py", "evaluate", *flags, "--output=result.json"])
    clm.main()

    expected = evaluate_text(golden_clm("clm_1"), byte_tokenizer("tokenizer"), [TEXT, "another text"], stride=2)
    written = json.loads(Path("result.json").read_text())
    assert written["num_bytes"] == written["num_tokens"] == len(TEXT.encode()) - 1 + 11
    assert written["num_words"] == len(TEXT.split()) + 2
    for name in ("nats", "bits_per_byte", "bits_per_token", "perplexity_per_token", "perplexity_per_word"):
        assert written[name] == pytest.approx(getattr(expected, name), rel=1e-4)
    settings = {"model": str(HUB), "data": ["a.txt", "b.txt"], "stride": 2, "max_seq_len": 16}
    assert {name: written[name] for name in settings} == settings
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines["num_bytes"] == str(written["num_bytes"])
    assert float(lines["bits_per_byte"]) == pytest.approx(written["bits_per_byte"], rel=1e-5)


@pytest.mark.parametrize("model", ["lit.ckpt", "lit_080.ckpt", "lit_cli.ckpt", "hub"])
def test_evaluate_reads_folders_and_checkpoints(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    byte_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    flags = [f"--model={GOLDEN / 'clm_1' / model}", f"--tokenizer={tmp_path / 'tokenizer'}"]
    clm.main(["evaluate", *flags, f"--data={tmp_path / 'a.txt'}"])
    expected = evaluate_text(golden_clm("clm_1"), byte_tokenizer(tmp_path), TEXT)
    assert f"{expected.bits_per_byte:.6g}"[:-1] in capsys.readouterr().out


def test_infinite_perplexity_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)  # one word
    clm.main(["evaluate", f"--model={HUB}", "--data", str(tmp_path / "a.txt"), f"--output={tmp_path / 'r.json'}"])
    assert json.loads((tmp_path / "r.json").read_text())["perplexity_per_word"] is None
    assert capsys.readouterr().out.splitlines()[-1].split() == ["perplexity_per_word", "inf"]


def test_evaluate_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "evaluate", "--model=m", "--data", "a.txt", "b.txt", "--stride=3")
    assert (config["data"], config["stride"], config["batch_size"]) == (["a.txt", "b.txt"], 3, 8)
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    config |= {"model": str(HUB), "data": [str(tmp_path / "a.txt")]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    clm.main(["evaluate", f"--config={tmp_path / 'config.yaml'}"])
    assert "bits_per_byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "2 .*required"),
        (["--model=HUB"], "2 .*data"),
        (["--model=HUB", "--data=TEXT", "--strides=2"], "2 .*--strides"),
        (["--model=HUB", "--data=TEXT", "--strid=2"], "2 .*--strid"),
        (["--model=HUB", "--data=TEXT", "--stride=two"], "2 .*stride"),
        (
            ["--model=HUB", "--data=TEXT", "--stride=7"],
            r"1 perceiver clm evaluate: error: stride=7 must be in \[1, max_latents=6\]",
        ),
        (["--model=HUB", "--data=TEXT", "--batch_size=0"], "1 perceiver clm evaluate: error: batch_size=0"),
        (["--model=HUB", "--data=none.txt"], "1 perceiver clm evaluate: error: there is no file none.txt"),
        (["--model=HUB", "--data=LATIN1"], "1 perceiver clm evaluate: error: .*latin1.txt is not UTF-8"),
        (["--model=HUB", "--data=EMPTY"], "1 perceiver clm evaluate: error: there is nothing to score"),
        (
            ["--model=HUB", "--data=TEXT", "--device=abacus"],
            "1 perceiver clm evaluate: error: device abacus can't be used",
        ),
        (
            ["--model=/none", "--data=TEXT"],
            "1 perceiver clm evaluate: error: there is no checkpoint file or folder /none",
        ),
        (["--model=MLM", "--data=TEXT"], "1 perceiver clm evaluate: error: .* is no causal language model"),
        (
            ["--model=CKPT", "--data=TEXT"],
            "1 perceiver clm evaluate: error: .*lit.ckpt has no tokenizer: pass --tokenizer",
        ),
        (
            ["--model=HUB", "--data=TEXT", "--tokenizer=/none"],
            "1 perceiver clm evaluate: error: /none has no tokenizer that can be",
        ),
        (["--model=HUB", "--data=TEXT", "--tokenizer=XLNET"], "1 perceiver clm evaluate: error: tokens span"),
        (["--model=HUB", "--data=TEXT", "--output=/none/r.json"], "1 perceiver clm evaluate: error: .*/none/r.json"),
    ],
)
def test_evaluate_errors(tmp_path: Path, flags: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    (tmp_path / "latin1.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("")
    names = {"HUB": HUB, "MLM": TIED / "hub", "CKPT": GOLDEN / "clm_1" / "lit.ckpt"}
    names |= {"TEXT": tmp_path / "text.txt", "LATIN1": tmp_path / "latin1.txt", "EMPTY": tmp_path / "empty.txt"}
    if "--tokenizer=XLNET" in flags:
        xlnet_tokenizer(tmp_path / "xlnet")
        names["XLNET"] = tmp_path / "xlnet"
    command = [flag.partition("=")[0] + "=" + str(names.get(v := flag.partition("=")[2], v)) for flag in flags]
    error = failure(capfd, "evaluate", *command)
    assert re.search(message, error, flags=re.DOTALL), error
