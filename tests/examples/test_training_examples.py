"""The training examples of the text tasks, `examples/training/{mlm,txt_clf,clm,ner}`.

Commands of the shell scripts are recorded by a `python` that runs nothing: their flags are compared with the recipes,
and they run in this process with a tiny model and tiny data in place of the hub's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from pytorch_lightning.strategies import ModelParallelStrategy
from transformers import AutoModelForCausalLM, PerceiverConfig, PerceiverForMaskedLM, pipeline

from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.scripts import main as perceiver_command
from tests.examples.scripts import EXAMPLES, load
from tests.tokenizers import byte_tokenizer

TRAINING = EXAMPLES / "training"
TOKENIZER = "deepmind/language-perceiver"
SEQ_LEN = 32
GPUS = {"accelerator": "gpu", "precision": "bf16-mixed"}

# Of transformers' pull request 15103, or in docs/training-examples.md called ours. Lightning reads a number of devices
# as text. The other recipes are compared as a whole in test_published_recipes.py.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "ner/train.sh": {
        "data": {"train_files": "conll2003/train.txt", "valid_files": "conll2003/valid.txt", "batch_size": 16},
        "model.encoder": {"params": "logs/language-perceiver", "freeze": False},
        "model.decoder": {"params": "logs/language-perceiver", "num_cross_attention_qk_channels": 256},
        "optimizer": {"class": "torch.optim.AdamW", "lr": 5e-5},
        "trainer": {**GPUS, "max_epochs": 3, "devices": "1"},
    },
}


def commands(script: str, folder: Path, *flags: str) -> list[list[str]]:
    """Arguments of each `python` that a script would start in `folder`."""
    python, record = folder / "bin" / "python", folder / "recorded"
    python.parent.mkdir(exist_ok=True)
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" end >> "{record}"\n')
    python.chmod(0o755)
    record.unlink(missing_ok=True)
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", TRAINING / script, *flags], cwd=folder, env=environment, check=True)
    return [command.splitlines() for command in record.read_text().split("end\n")[:-1]]


def run(command: list[str]) -> None:
    assert command[0] == "-m"
    assert not import_module(command[1]).main(command[2:])  # None, or the exit code


def values(config: dict[str, Any], section: str) -> dict[str, Any]:
    """Part of a printed configuration, the arguments of a class with its name as `class`."""
    for name in section.split("."):
        config = config[name]
    return {"class": config["class_path"], **config["init_args"]} if "class_path" in config else config


@pytest.mark.parametrize("script", RECIPES)
def test_flags_are_those_of_the_recipe(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *_, train = commands(script, tmp_path)
    with pytest.raises(SystemExit) as stop:
        run([*train, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    config = yaml.safe_load(output.out)
    for section, expected in RECIPES[script].items():
        found = values(config, section)
        assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("script", ["mlm/train.sh", "ner/train.sh"])
def test_official_weights_are_converted_first(script: str, tmp_path: Path) -> None:
    command, _ = commands(script, tmp_path)
    assert command[:2] == ["-m", "perceiver.scripts.main"]
    arguments = perceiver_command.parser().parse_args(command[2:])
    assert (arguments.kind, arguments.task) == ("model", "mlm")
    assert (arguments.source, arguments.save_dir) == (TOKENIZER, "logs/language-perceiver")


def test_c4_is_sharded_over_its_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (train,) = commands("clm/train_c4.sh", tmp_path)
    with pytest.raises(SystemExit):
        run([*train, "--print_config"])
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    strategy = trainer["strategy"]
    assert strategy["class_path"].endswith(ModelParallelStrategy.__name__)
    assert strategy["init_args"]["data_parallel_size"] == int(trainer["devices"])


def test_both_stages_in_one_script(tmp_path: Path) -> None:
    flags = ["--data.batch_size=3", "--data.dataset_dir=a folder"]
    both = commands("txt_clf/train.sh", tmp_path, *flags)
    stages = [commands(f"txt_clf/train_{stage}.sh", tmp_path, *flags) for stage in ("dec", "all")]
    assert both == [command for (command,) in stages]
    assert all(command[-2:] == flags for command in both)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: in it a tiny official model under its hub id, and data sets in the layout of the hub."""
    monkeypatch.chdir(tmp_path)
    config = PerceiverConfig(
        d_model=24,
        d_latents=16,
        num_latents=5,
        num_self_attends_per_block=2,
        qk_channels=8,
        v_channels=16,
        max_position_embeddings=SEQ_LEN,
    )
    PerceiverForMaskedLM(config).save_pretrained(TOKENIZER)
    byte_tokenizer(TOKENIZER)
    reviews = {"text": ["A good film. ", "A bad film. "] * 6, "label": [1, 0] * 6}
    hub_data("imdb", "plain_text", ["train", "test", "unsupervised"], reviews)
    paragraphs = {"text": ["Some words of an article.\n"] * 12}
    hub_data("wikitext", "wikitext-103-raw-v1", ["train", "validation", "test"], paragraphs)
    Path("conll2003").mkdir()
    for split in ("train", "valid", "test"):
        sentence = "Zoë NNP B-NP B-PER\nMüller NNP I-NP I-PER\nsang VBD B-VP O\n\n"
        Path(f"conll2003/{split}.txt").write_text("-DOCSTART- -X- -X- O\n\n" + 8 * sentence, encoding="utf-8")
    return tmp_path


def hub_data(folder: str, config: str, splits: list[str], table: dict[str, list[Any]]) -> None:
    Path(folder).mkdir()
    for split in splits:
        datasets.Dataset.from_dict(table).to_parquet(f"{folder}/{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in splits)
    Path(folder, "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


TINY_RUN = """--data.num_workers=0 --data.batch_size=4 --trainer.accelerator=cpu --trainer.devices=1
    --trainer.strategy=auto --trainer.precision=32-true --trainer.enable_progress_bar=false
    --trainer.enable_model_summary=false""".split()


def tiny_flags(*names: str) -> list[str]:
    """Flags for these fields of the official model, which is a tiny one here. The data decides some sizes."""
    mlm.convert_model("tiny", TOKENIZER)
    config = asdict(mlm.PerceiverMaskedLanguageModelConfig.from_pretrained("tiny").backend_config)
    fields: dict[str, Any] = {}
    for name in names:
        part = config[name]
        fields |= {f"{name}.{field}": part[field] for field in part} if isinstance(part, dict) else {name: part}
    no_flags = ("vocab_size", "max_seq_len", "params", "freeze")
    return [f"--model.{n}={v}" for n, v in fields.items() if v is not None and not n.endswith(no_flags)]


def run_here(script: str, *flags: str) -> None:
    for command in commands(script, Path.cwd(), *flags):
        run(command)


def run_by_bash(script: str, *flags: str) -> None:
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": python, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", TRAINING / script, *flags], env=environment, check=True)


def largest_change(before: Any, after: Any) -> float:
    """Of a parameter of the encoder."""
    a, b = (torch.nn.utils.parameters_to_vector(model.encoder.parameters()) for model in (before, after))
    return (a - b).abs().max().item()


def official_model(folder: str) -> Any:
    return mlm.PerceiverMaskedLanguageModel.from_pretrained(folder).backend_model


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("execute", [run_here, pytest.param(run_by_bash, marks=pytest.mark.slow)])
def test_imdb_scripts(execute: Any) -> None:
    common = ["--data.source=imdb", f"--data.max_seq_len={SEQ_LEN}", "--trainer.max_epochs=1", *TINY_RUN]
    common += tiny_flags("num_latents", "num_latent_channels", "encoder")
    execute("mlm/train.sh", *common, *tiny_flags("decoder"))
    execute("txt_clf/train.sh", *common, "--model.decoder.num_output_query_channels=14")

    last = "version_0/checkpoints/last.ckpt"
    language_model = mlm.LitMaskedLanguageModel.load_from_checkpoint(f"logs/mlm_imdb/{last}").model
    stages = [
        classifier.LitTextClassifier.load_from_checkpoint(f"logs/txt_clf_{stage}/{last}") for stage in ("dec", "all")
    ]
    decoder_only, all_parameters = (stage.model for stage in stages)
    assert 0 < largest_change(official_model("tiny"), language_model) < 10 * 1e-5
    assert largest_change(language_model, decoder_only) == 0
    assert 0 < largest_change(decoder_only, all_parameters) < 10 * 5e-6
    assert [stage.hparams["label_names"] for stage in stages] == [["neg", "pos"]] * 2


@pytest.mark.usefixtures("workplace")
def test_imdb_in_python() -> None:
    common = ["--data=imdb", "--batch_size=4", "--devices=1"]
    load("training/mlm/train.py").main([*common, "--max_epochs=1"])
    load("training/txt_clf/train.py").main([*common, "--max_epochs", "1", "1"])

    trained = official_model("logs/mlm_imdb/model")
    assert 0 < largest_change(official_model("logs/language-perceiver"), trained) < 10 * 1e-5
    (checkpoint,) = Path("logs/txt_clf_imdb/dec").rglob("epoch=000-val_loss=*.ckpt")
    decoder_only = classifier.LitTextClassifier.load_from_checkpoint(checkpoint).model
    assert largest_change(trained, decoder_only) == 0
    sentiment = pipeline("sentiment-analysis", model="logs/txt_clf_imdb/model")
    assert 0 < largest_change(decoder_only, sentiment.model.backend_model) < 10 * 5e-6
    (result,) = sentiment("A good film.")
    assert result["label"] in ("NEGATIVE", "POSITIVE")


@pytest.mark.usefixtures("workplace")
def test_clm_script() -> None:
    sizes = ["--model.max_latents=8", "--model.num_channels=16", "--model.num_self_attention_layers=1"]
    flags = ["--data.source=wikitext", f"--data.max_seq_len={SEQ_LEN}", "--trainer.max_steps=2", *TINY_RUN, *sizes]
    run_here("clm/train.sh", *flags)
    config = clm.LitCausalLanguageModel.load_from_checkpoint(
        "logs/clm_wikitext/version_0/checkpoints/last.ckpt"
    ).model.config
    assert (config.max_seq_len, config.max_latents, config.num_channels) == (SEQ_LEN, 8, 16)


@pytest.mark.usefixtures("workplace")
def test_clm_in_python() -> None:
    sizes = [f"--max_seq_len={SEQ_LEN}", "--max_latents=8", "--num_channels=16", "--num_layers=1", "--batch_size=4"]
    load("training/clm/train.py").main(["--data=wikitext", "--devices=1", "--max_steps=3", "--accumulate=1", *sizes])
    model = AutoModelForCausalLM.from_pretrained("logs/clm_wikitext/model")
    assert model.backend_model.config.num_self_attention_layers == 1
    assert model.generate(torch.tensor([[70, 71]]), max_new_tokens=3).shape == (1, 5)


@pytest.mark.usefixtures("workplace")
def test_ner_script() -> None:
    flags = tiny_flags("num_latents", "num_latent_channels", "encoder", "decoder")
    run_here("ner/train.sh", f"--data.max_seq_len={SEQ_LEN}", "--trainer.max_epochs=1", *TINY_RUN, *flags)
    trained = token_classifier.LitTokenClassifier.load_from_checkpoint(
        "logs/ner_conll2003/version_0/checkpoints/last.ckpt"
    )
    assert trained.hparams["label_names"] == ["O", "B-PER", "I-PER"]
    assert 0 < largest_change(official_model("tiny"), trained.model) < 10 * 5e-5


@pytest.mark.usefixtures("workplace")
def test_ner_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    load("training/ner/train.py").main(["--batch_size=4", "--max_epochs=1"])
    assert "test_f1" in capsys.readouterr().out
    tagger = pipeline("token-classification", model="logs/ner_conll2003/model", ignore_labels=[])
    assert {found["entity"] for found in tagger("Zoë Müller sang")} <= {"O", "B-PER", "I-PER"}


# --- txt_clf/frozen_encoder.py ---

experiment = load("training/txt_clf/frozen_encoder.py")


@pytest.fixture
def small_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "PACKAGES", ["asyncio", "email"])
    monkeypatch.setattr(experiment, "EPOCHS", 1)
    monkeypatch.setattr(experiment, "LEARNING_RATES", [1e-3])
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)


@pytest.mark.usefixtures("small_experiment")
def test_passages_have_nothing_in_common_and_no_names() -> None:
    splits = experiment.passages()
    rows = [row for split in ("train", "valid", "test") for row in splits[split]]
    assert len({row["text"] for row in rows}) == len(rows)
    assert not any("asyncio" in row["text"].lower().split() for row in rows)
    assert {row["label"] for row in splits["test"]} == {"asyncio", "email"}
    modules = {path for path, _ in experiment.docstrings("email")}
    assert "email/mime/text.py" in modules


def test_samples_are_balanced_and_functions_of_their_seed() -> None:
    rows = [{"text": str(i), "label": "ab"[i % 3 == 0]} for i in range(30)]
    drawn = experiment.sample(rows, 4, seed=0)
    assert sorted(row["label"] for row in drawn) == ["a"] * 4 + ["b"] * 4
    assert drawn == experiment.sample(rows, 4, seed=0) != experiment.sample(rows, 4, seed=1)
    assert len(experiment.sample(rows, 100, seed=0)) == 20  # there are ten of b


@pytest.mark.usefixtures("small_experiment")
def test_experiment_compares_four_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = experiment.main([f"--output_dir={tmp_path}", "--pretraining_steps=2", "--labels=2", "--seeds=2"])
    assert set(results) == {(True, True), (True, False), (False, True), (False, False)}
    assert all(len(of_seeds) == 2 and all(0 <= a <= 1 for a in of_seeds) for of_seeds in results.values())
    output = capsys.readouterr().out
    assert "always the same class                50.0% ± 0.0%" in output and "linear model" in output
    labelled = [json.loads(line) for line in (tmp_path / "labelled-1.jsonl").read_text().splitlines()]
    held_out = {json.loads(line)["text"] for line in (tmp_path / "labelled-test.jsonl").read_text().splitlines()}
    assert len(labelled) == 4 and not held_out & {row["text"] for row in labelled}
