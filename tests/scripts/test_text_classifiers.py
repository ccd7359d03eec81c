"""`python -m perceiver.scripts.text.classifier` and `.token_classifier`: flags, defaults, a run from fit to convert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import PerceiverConfig, PerceiverTokenizer, pipeline

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text.classifier import TextClassifierConfig
from perceiver.model.text.classifier.huggingface import official_backend_config
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm import perceiver_io_language_base
from perceiver.scripts import cli, main
from perceiver.scripts.text import classifier, token_classifier
from perceiver.tasks import TASKS
from tests.model.text.classifier.helpers import Data
from tests.model.text.token_classifier.helpers import NAMES, sentence_batch

BOTH = [classifier, token_classifier]
TINY = {
    "model.num_latents": 3,
    "model.num_latent_channels": 16,
    "model.encoder.num_input_channels": 11,
    "model.encoder.num_cross_attention_qk_channels": 8,
    "model.encoder.num_cross_attention_v_channels": 16,
    "model.encoder.num_self_attention_qk_channels": 8,
    "model.encoder.num_self_attention_v_channels": 16,
    "model.encoder.num_self_attention_layers_per_block": 1,
}
TINY_DECODER = {
    classifier: {"model.decoder.num_output_query_channels": 14},
    token_classifier: {
        "model.decoder.num_cross_attention_qk_channels": 8,
        "model.decoder.num_cross_attention_v_channels": 16,
    },
}


class TinyData(Data):
    """Labelled sentences, with the attributes of the library's data modules."""

    vocab_size, max_seq_len = 262, 61

    def __init__(self, labels: Tensor, names: list[str]) -> None:
        _, x, pad_mask = sentence_batch()
        super().__init__(labels, x, pad_mask, label_names=names, num_classes=len(names))


class Reviews(TinyData):
    def __init__(self) -> None:
        super().__init__(torch.tensor([0, 1, 1]), ["bad", "good"])


class Words(TinyData):
    def __init__(self) -> None:
        super().__init__(sentence_batch()[0], NAMES)


DATA = {classifier: Reviews, token_classifier: Words}


def printed_config(script: ModuleType, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        script.main([*args, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


def test_defaults_are_the_published_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(classifier, capsys, "fit")["model"]
    official = official_backend_config(PerceiverConfig(qk_channels=256, v_channels=1280))  # of transformers' class
    published = replace(official, decoder=replace(official.decoder, num_output_query_channels=768))
    assert published == TextClassifierConfig(
        TextEncoderConfig(**model["encoder"], vocab_size=262, max_seq_len=2048),
        ClassificationDecoderConfig(**model["decoder"], num_classes=2),
        **{name: model[name] for name in ("num_latents", "num_latent_channels")},
    )


def test_defaults_of_token_classifiers_are_the_official_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    model, official = printed_config(token_classifier, capsys, "fit")["model"], perceiver_io_language_base()
    assert TextEncoderConfig(**model["encoder"], vocab_size=262, max_seq_len=2048) == official.encoder
    shared = {n: v for n, v in model["decoder"].items() if n not in ("params", "num_output_query_channels")}
    assert {name: getattr(official.decoder, name) for name in shared} == shared


@pytest.mark.parametrize("script", BOTH)
def test_documented_flags(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.encoder.params=my-mlm", "--model.encoder.freeze=true", "--optimizer=AdamW", "--optimizer.lr=1e-3"]
    config = printed_config(script, capsys, "fit", *flags)
    assert (config["model"]["encoder"]["params"], config["model"]["encoder"]["freeze"]) == ("my-mlm", True)
    assert config["optimizer"]["init_args"]["lr"] == 1e-3


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize("flag", ["decoder.num_classes=3", "encoder.vocab_size=262", "encoder.max_seq_len=3"])
def test_what_the_data_decides_is_no_flag(script: ModuleType, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["fit", f"--model.{flag}"])
    assert stop.value.code == 2 and f"model.{flag.split('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("script", BOTH)
def test_fit_validate_test_convert(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs: list[Any] = []
    parse = cli.CLI
    monkeypatch.setattr(cli, "CLI", lambda *args, **kwargs: runs.append(parse(*args, **kwargs)))
    trainer = ["accelerator=cpu", "enable_progress_bar=false", "enable_model_summary=false"]
    common = [f"--data=tests.scripts.test_text_classifiers.{DATA[script].__name__}"]
    common += [f"--trainer.{flag}" for flag in trainer]
    flags = [f"--{name}={value}" for name, value in (TINY | TINY_DECODER[script]).items()]

    script.main(["fit", *common, *flags, "--trainer.max_steps=2"])
    model, metrics = runs[-1].model, dict(runs[-1].trainer.callback_metrics)
    names = ["bad", "good"] if script is classifier else NAMES
    assert model.model.config.decoder.num_classes == len(names)
    assert (model.model.config.encoder.vocab_size, model.model.config.encoder.max_seq_len) == (262, 61)
    assert {"train_loss", "val_loss", "val_acc"} <= metrics.keys()
    (last,) = Path("logs").glob("*/version_0/checkpoints/last.ckpt")

    for command in ("validate", "test"):
        script.main([command, *common, "--trainer.logger=false", f"--ckpt_path={last}"])
        assert runs[-1].model.model.config == model.model.config
    assert runs[-1].trainer.callback_metrics.keys() >= {"test_loss", "test_acc"}

    PerceiverTokenizer().save_pretrained("tokenizer")
    task = {classifier: "text-classifier", token_classifier: "token-classifier"}[script]
    assert main.main(["convert", "checkpoint", "--task", task, str(last), "out", "--tokenizer", "tokenizer"]) == 0
    kind: Any = {classifier: "text-classification", token_classifier: "token-classification"}[script]
    result = pipeline(kind, model="out", **({} if script is classifier else {"ignore_labels": []}))("some text")
    assert {value for found in result for value in found.values()} & set(names)


FILES = {
    classifier: (
        "train.jsonl",
        '{"text": "a good film", "label": "good"}\n{"text": "a bad film", "label": "bad"}\n' * 8,
        ["bad", "good"],
    ),
    token_classifier: ("train.conll", "Zoë B-PER\nMüller I-PER\nsang O\n\n" * 16, ["O", "B-PER", "I-PER"]),
}


@pytest.mark.parametrize("script", BOTH)
def test_data_modules_of_the_library(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs: list[Any] = []
    parse = cli.CLI
    monkeypatch.setattr(cli, "CLI", lambda *args, **kwargs: runs.append(parse(*args, **kwargs)))
    file, content, names = FILES[script]
    Path(file).write_text(content)
    PerceiverTokenizer().save_pretrained("tokenizer")
    name = "LocalTextDataModule" if script is classifier else "LocalTokenClassificationDataModule"
    data = {"train_files": f"[{file}]", "tokenizer": "tokenizer", "max_seq_len": 31, "num_workers": 0, "batch_size": 4}
    data["valid_fraction"] = 0.25
    trainer = ["accelerator=cpu", "enable_progress_bar=false", "enable_model_summary=false", "logger=false"]
    script.main(
        [
            "fit",
            f"--data={name}",
            *(f"--data.{flag}={value}" for flag, value in data.items()),
            *(f"--{flag}={value}" for flag, value in (TINY | TINY_DECODER[script]).items()),
            *(f"--trainer.{flag}" for flag in [*trainer, "max_epochs=1"]),
        ]
    )
    assert sorted(runs[-1].model.hparams["label_names"]) == sorted(names)
    metrics = {"val_loss", "val_acc"} | (set() if script is classifier else {"val_f1"})
    assert metrics <= runs[-1].trainer.callback_metrics.keys()


@pytest.mark.parametrize("script", BOTH)
def test_data_modules_by_name(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for name in TASKS["text-classifier" if script is classifier else "token-classifier"].data:
        data = printed_config(script, capsys, "fit", f"--data={name}")["data"]
        assert data["class_path"].endswith(name)
        if script is classifier:
            assert data["init_args"]["task"] == "clf"
