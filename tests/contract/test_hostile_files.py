"""Contract: no file of a model runs code, whichever way it comes in (SECURITY.md).

Each file would write another one if it were unpickled carelessly. That one must not exist afterwards.
"""

from __future__ import annotations

import http.server
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForMaskedLM, PerceiverTokenizer

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.text import mlm
from perceiver.scripts.main import main
from perceiver.scripts.text import evaluate
from tests.model.helpers import GOLDEN, TIED, json_copy, mlm_config


class WritesAFile:
    """Pickles to a call that writes a file when it is unpickled carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "run")


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """What hostile files write."""
    path = tmp_path / "written.txt"
    yield path
    assert not path.exists(), "a file was run"


@pytest.fixture
def folder(tmp_path: Path, written: Path) -> Path:
    """A hostile Lightning checkpoint, a hostile folder of Hugging Face, and an official one."""
    torch.save({**plain_checkpoint(), "callbacks": {"x": WritesAFile(written)}}, tmp_path / "lit.ckpt")
    (tmp_path / "hub").mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(TIED / "hub" / name, tmp_path / "hub" / name)
    weights = torch.load(TIED / "hub" / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "x": WritesAFile(written)}, tmp_path / "hub" / "pytorch_model.bin")
    shutil.copytree(GOLDEN / "hf_mlm" / "hf_src", tmp_path / "official")
    weights = torch.load(tmp_path / "official" / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "x": WritesAFile(written)}, tmp_path / "official" / "pytorch_model.bin")
    torch.load(tmp_path / "lit.ckpt", weights_only=False)  # the file is dangerous indeed
    assert written.read_text() == "run"
    written.unlink()
    return tmp_path


def lit_model() -> mlm.LitMaskedLanguageModel:
    class WithOptimizer(mlm.LitMaskedLanguageModel):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return WithOptimizer.create(mlm_config())


def loader() -> DataLoader[Any]:
    return DataLoader([(torch.ones(5, dtype=torch.long), torch.ones(5, dtype=torch.long), torch.zeros(5).bool())] * 2)


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


def plain_checkpoint() -> dict[str, Any]:
    """A checkpoint of a training."""
    model = lit_model()
    own = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    own.strategy.connect(model)
    return own._checkpoint_connector.dump_checkpoint(weights_only=True)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def with_encoder(source: str) -> Any:
    return mlm.LitMaskedLanguageModel.create(mlm_config(encoder={"params": source}))


CHECKPOINTS: dict[str, Callable[[str, Path], Any]] = {
    "read_checkpoint": lambda source, out: read_checkpoint(source),
    "load_from_checkpoint": lambda source, out: mlm.LitMaskedLanguageModel.load_from_checkpoint(source),
    "params": lambda source, out: mlm.LitMaskedLanguageModel.create(mlm_config(), params=source),
    "encoder.params": lambda source, out: with_encoder(source),
    "from_checkpoint": lambda source, out: mlm.PerceiverMaskedLanguageModel.from_checkpoint(source),
    "convert_checkpoint": lambda source, out: mlm.convert_checkpoint(out / "out", source, str(TIED / "hub")),
    "fit": lambda source, out: trainer(out).fit(lit_model(), loader(), loader(), ckpt_path=source),
    "validate": lambda source, out: trainer(out).validate(lit_model(), loader(), ckpt_path=source),
    "test": lambda source, out: trainer(out).test(lit_model(), loader(), ckpt_path=source),
}


@pytest.mark.parametrize("place", ["local", "http"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name: str, place: str, folder: Path, server: str, written: Path) -> None:
    source = str(folder / "lit.ckpt") if place == "local" else f"{server}/lit.ckpt"
    with pytest.raises((ValueError, pickle.UnpicklingError), match=r"lit\.ckpt contains|Weights only load failed"):
        CHECKPOINTS[name](source, folder)
    assert not written.exists()


@pytest.mark.parametrize("place", ["local", "http"])
@pytest.mark.parametrize("command", ["convert", "evaluate", "fit", "validate", "test", "params", "encoder.params"])
def test_commands(
    command: str,
    place: str,
    folder: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    source = str(folder / "lit.ckpt") if place == "local" else f"{server}/lit.ckpt"
    PerceiverTokenizer().save_pretrained(folder / "tokenizer")
    if command == "convert":
        assert main(["convert", "checkpoint", "--task=mlm", "--tokenizer=tokenizer", source, "out"]) == 1
        return
    if command == "evaluate":
        with pytest.raises(SystemExit, match=r"lit\.ckpt contains something else"):
            evaluate.main([f"--model={source}", "--tokenizer=tokenizer", "--data", "tokenizer/tokenizer_config.json"])
        return
    (folder / "train.txt").write_text("a line\n" * 40)
    flags = [
        "--data=LocalTextDataModule",
        "--data.train_files=train.txt",
        "--data.tokenizer=tokenizer",
        "--data.task=mlm",
    ]
    flags += ["--data.max_seq_len=19", "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.max_steps=1"]
    flags += [f"--model.{name}={value}" for name, value in tiny_flags().items()]
    by_flag = command if command in ("params", "encoder.params") else None
    flags += [f"--model.{by_flag}={source}"] if by_flag else [f"--ckpt_path={source}"]
    with pytest.raises((SystemExit, ValueError, pickle.UnpicklingError)) as stop:
        main(["mlm", "fit" if by_flag else command, *flags])
    said = f"{stop.value} {capsys.readouterr().err}"
    assert "contains something else than parameters, refused" in said or "Weights only load failed" in said


def tiny_flags() -> dict[str, Any]:
    config = json_copy(mlm_config())
    parts = {
        f"{part}.{name}": value
        for part in ("encoder", "decoder")
        for name, value in config[part].items()
        if value is not None and name not in ("vocab_size", "max_seq_len")
    }
    return {**parts, "num_latents": config["num_latents"], "num_latent_channels": config["num_latent_channels"]}


@pytest.mark.parametrize("auto_class", [mlm.PerceiverMaskedLanguageModel, AutoModelForMaskedLM, AutoModel])
def test_folders_of_transformers(auto_class: Any, folder: Path, written: Path) -> None:
    with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
        auto_class.from_pretrained(folder / "hub")
    with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
        mlm.convert_model(folder / "out", folder / "official")
    with pytest.raises(ValueError, match="contains something else than parameters, refused"):
        read_checkpoint(folder / "hub")


def test_a_config_names_no_code(folder: Path, written: Path) -> None:
    """`auto_map` names a file of the folder. It is run for those alone who say trust_remote_code=True."""
    config = json.loads((folder / "hub" / "config.json").read_text())
    (folder / "hub" / "code.py").write_text(f"open({str(written)!r}, 'w').write('run')\n")
    config["auto_map"] = {"AutoModelForMaskedLM": "code.Model", "AutoConfig": "code.Config"}
    (folder / "hub" / "config.json").write_text(json.dumps(config))
    shutil.copy(TIED / "hub" / "pytorch_model.bin", folder / "hub" / "pytorch_model.bin")
    assert read_checkpoint(folder / "hub").hyper_parameters["num_latents"] == 6
    assert type(mlm.PerceiverMaskedLanguageModel.from_pretrained(folder / "hub")) is mlm.PerceiverMaskedLanguageModel
    assert type(AutoModelForMaskedLM.from_pretrained(folder / "hub")) is mlm.PerceiverMaskedLanguageModel


def test_the_next_url_with_the_same_name_is_another_file(folder: Path, server: str) -> None:
    """Lightning keeps what it downloads by the last part of its URL."""
    values = []
    for name in ("a", "b"):
        content = plain_checkpoint()
        for value in content["state_dict"].values():
            value.fill_(len(values) + 0.5)
        (folder / name).mkdir()
        torch.save({**content, "callbacks": {}}, folder / name / "same.ckpt")
        model = lit_model()
        trainer(folder).validate(model, loader(), ckpt_path=f"{server}/{name}/same.ckpt", verbose=False)
        values.append(next(model.parameters()).flatten()[0].item())
    assert values == [0.5, 1.5]


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/hostname", "..", "sub/a.safetensors", "a\\b", "", 3])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, kind: str, name: Any) -> None:
    shutil.copy(TIED / "hub" / "config.json", tmp_path / "config.json")
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": {"backend_model.a": name}}))
    message = "weight_map is no table of files" if name == 3 else "allowed are those in its folder"
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path)
