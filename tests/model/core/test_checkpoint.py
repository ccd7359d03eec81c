"""Contract, published format: every kind of source reads to the same parameters, and bad files are clear errors.

No file may run code. A file that tries is refused, and what it would have written must not exist afterwards.
"""

from __future__ import annotations

import http.server
import json
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.text.mlm.backend import MaskedLanguageModelConfig
from tests.model.helpers import (
    LIT_CKPTS,
    TIED,
    UNTIED,
    assert_same_parameters,
    golden_parameters,
)

HUB = TIED / "hub"


def published_config(folder: Path = TIED) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "hub" / "config.json").read_text())["model_config"]
    return config


def published_weights() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(HUB / "pytorch_model.bin", weights_only=True)
    return weights


# --- Lightning files ---


@pytest.mark.parametrize("file", LIT_CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_published_lightning_files(file: Path) -> None:
    checkpoint = read_checkpoint(file)
    assert_same_parameters(checkpoint.state_dict, golden_parameters(file.parent.name))
    config = MaskedLanguageModelConfig.of_hyper_parameters(checkpoint.hyper_parameters)
    assert config == MaskedLanguageModelConfig.from_dict(published_config(file.parent))


@pytest.mark.parametrize("file", LIT_CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_hyper_parameters_are_plain(file: Path) -> None:
    hyper_parameters = read_checkpoint(file).hyper_parameters
    assert json.loads(json.dumps(hyper_parameters)) == hyper_parameters
    assert hyper_parameters["num_predictions"] in (2, 3, 5)


def test_lightning_file_as_string_and_as_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TIED)
    for source in ("lit.ckpt", str(TIED / "lit.ckpt"), Path("lit.ckpt")):
        assert_same_parameters(read_checkpoint(source).state_dict, golden_parameters("mlm_tied"))


def test_file_older_than_the_zip_format(tmp_path: Path) -> None:
    content = {"state_dict": {"model.a": torch.arange(3.0)}, "hyper_parameters": {"b": 2}}
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    checkpoint = read_checkpoint(tmp_path / "old.ckpt")
    assert_same_parameters(checkpoint.state_dict, {"a": torch.arange(3.0)})
    assert checkpoint.hyper_parameters == {"b": 2}


def test_parts_are_returned_without_their_prefix() -> None:
    expected = {n.removeprefix("0."): v for n, v in golden_parameters("mlm_tied").items() if n.startswith("0.")}
    for source in (TIED / "lit.ckpt", HUB):
        assert_same_parameters(read_checkpoint(source, part="0.").state_dict, expected)
    with pytest.raises(ValueError, match=r"lit.ckpt has no parameters whose names begin with 'encoder\.'"):
        read_checkpoint(TIED / "lit.ckpt", part="encoder.")


def test_computed_buffers_and_other_modules_are_left_out(tmp_path: Path) -> None:
    state_dict = {
        "model.0.weight": torch.zeros(2),
        "model.0.input_adapter.position_encoding.position_encoding": torch.ones(3),
        "model.frq_pos_encoding.inv_freq": torch.ones(5),
        "metric.total": torch.ones(7),
    }
    torch.save({"state_dict": state_dict, "hyper_parameters": {}}, tmp_path / "a.ckpt")
    assert list(read_checkpoint(tmp_path / "a.ckpt").state_dict) == ["0.weight"]


# --- URLs ---


@pytest.fixture
def server() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(TIED))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_http_url(server: str) -> None:
    checkpoint = read_checkpoint(f"{server}/lit_080.ckpt")
    assert_same_parameters(checkpoint.state_dict, golden_parameters("mlm_tied"))


def test_file_url() -> None:
    assert_same_parameters(read_checkpoint((TIED / "lit.ckpt").as_uri()).state_dict, golden_parameters("mlm_tied"))


def test_url_of_a_missing_file(server: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"{server}/none.ckpt")):
        read_checkpoint(f"{server}/none.ckpt")


def test_file_url_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        read_checkpoint((tmp_path / "none.ckpt").as_uri())


# --- folders ---


def shards(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    names = list(weights)
    return [{name: weights[name] for name in names[i::3]} for i in range(3)]


def write_folder(folder: Path, kind: str) -> Path:
    """The published weights in another form."""
    folder.mkdir()
    shutil.copyfile(HUB / "config.json", folder / "config.json")
    weights = published_weights()
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif kind == "safetensors":
        save_file(weights, folder / "model.safetensors")
    elif kind == "both":  # the safe format wins
        save_file(weights, folder / "model.safetensors")
        (folder / "pytorch_model.bin").write_bytes(b"not read")
    else:
        stem, suffix = ("model", "safetensors") if kind == "sharded safetensors" else ("pytorch_model", "bin")
        weight_map = {}
        for i, shard in enumerate(shards(weights)):
            file = f"{stem}-{i + 1:05}-of-00003.{suffix}"
            save_file(shard, folder / file) if suffix == "safetensors" else torch.save(shard, folder / file)
            weight_map |= dict.fromkeys(shard, file)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


FOLDERS = ["bin", "safetensors", "both", "sharded safetensors", "sharded bin"]


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(tmp_path: Path, kind: str) -> None:
    checkpoint = read_checkpoint(write_folder(tmp_path / "model", kind))
    assert_same_parameters(checkpoint.state_dict, golden_parameters("mlm_tied"))
    assert checkpoint.hyper_parameters == published_config()


def test_untied_folder() -> None:
    assert_same_parameters(read_checkpoint(str(UNTIED / "hub")).state_dict, golden_parameters("mlm_untied"))


# --- hub ---


@pytest.mark.parametrize("kind", FOLDERS)
def test_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    repository, cache = write_folder(tmp_path / "repository", kind), tmp_path / "cache"
    (repository / "training_data.parquet").write_text("large")

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == "someone/perceiver-io-mlm"
        cache.mkdir(exist_ok=True)
        for file in repository.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copyfile(file, cache / file.name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    checkpoint = read_checkpoint("someone/perceiver-io-mlm")
    assert_same_parameters(checkpoint.state_dict, golden_parameters("mlm_tied"))
    downloaded = {file.name for file in cache.iterdir()}
    assert "training_data.parquet" not in downloaded
    if kind == "both":  # the unsafe twin is not downloaded
        assert downloaded == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("repo_id", ["someone/no-such-model", "no-such-model"])
def test_missing_hub_repository_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repo_id: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{repo_id} is neither a file, nor a folder, nor a repository"):
        read_checkpoint(repo_id)


# --- what is not there ---


@pytest.mark.parametrize("source", ["missing.ckpt", "./missing", "/missing/folder", "a/b/missing", "logs/missing.ckpt"])
def test_missing_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no checkpoint file or folder {source}"):
        read_checkpoint(source)


def test_folder_without_config(tmp_path: Path) -> None:
    save_file(published_weights(), tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} has no config.json")):
        read_checkpoint(tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    shutil.copyfile(HUB / "config.json", tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors and no pytorch_model\.bin"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["sharded safetensors", "sharded bin"])
def test_folder_without_one_of_its_shards(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "model", kind)
    (shard,) = folder.glob("*-00002-of-00003.*")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00003"):
        read_checkpoint(folder)


# --- what can't be read ---


class WritesAFile:
    """Pickles to a call that writes a file when it is unpickled carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "run")


def malicious(target: Path, path: Path, *, zipped: bool) -> None:
    content: dict[str, Any] = {"state_dict": {"model.a": torch.zeros(2)}, "hyper_parameters": {"b": WritesAFile(path)}}
    torch.save(content, target, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["lit.ckpt", "pytorch_model.bin"])
def test_code_in_a_file_does_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    written, file = tmp_path / "written.txt", tmp_path / name
    malicious(file, written, zipped=zipped)
    source = file if name == "lit.ckpt" else tmp_path
    shutil.copyfile(HUB / "config.json", tmp_path / "config.json")
    with pytest.raises(ValueError, match=rf"{file} contains something else than parameters, refused:.*GLOBAL"):
        read_checkpoint(source)
    assert not written.exists()
    # the file is dangerous indeed
    torch.load(file, weights_only=False)
    assert written.read_text() == "run"


def test_code_in_a_plain_pickle_does_not_run(tmp_path: Path) -> None:
    written, file = tmp_path / "written.txt", tmp_path / "a.ckpt"
    file.write_bytes(pickle.dumps(WritesAFile(written), protocol=2))
    with pytest.raises(ValueError, match=str(file)):
        read_checkpoint(file)
    assert not written.exists()


class Unknown:
    pass


def test_unknown_class_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.a": torch.zeros(2)}, "hyper_parameters": {"x": Unknown()}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt contains something else than parameters, refused:.*Unknown"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.02, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_lightning_file(tmp_path: Path, kept: float, zipped: bool) -> None:
    torch.save(
        {"state_dict": {"model.a": torch.randn(5000)}, "hyper_parameters": {}},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=zipped,
    )
    truncate(tmp_path / "a.ckpt", kept)
    with pytest.raises(ValueError, match=r"a\.ckpt can't be read, it may be damaged"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.02, 0.3, 0.95])
@pytest.mark.parametrize("kind, name", [("bin", "pytorch_model.bin"), ("safetensors", "model.safetensors")])
def test_truncated_weights_of_a_folder(tmp_path: Path, kind: str, name: str, kept: float) -> None:
    folder = write_folder(tmp_path / "model", kind)
    truncate(folder / name, kept)
    with pytest.raises(ValueError, match=rf"{name} can't be read, it may be damaged"):
        read_checkpoint(folder)


def truncate(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])


def test_truncated_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bin")
    truncate(folder / "config.json", 0.5)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_checkpoint(folder)


def test_text_file_instead_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 75080\n")
    with pytest.raises(ValueError, match=r"a\.ckpt can't be read"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"state_dict": {}}, {"weight": torch.zeros(2)}])
def test_other_files_of_torch(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="is not a Lightning checkpoint: it has no state_dict and hyper_parameters"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("names", [["net.weight", "net.bias"], []])
def test_lightning_file_of_something_else(tmp_path: Path, names: list[str]) -> None:
    state_dict = {name: torch.zeros(2) for name in names}
    torch.save({"state_dict": state_dict, "hyper_parameters": {}}, tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match=rf"has no parameter model\.\*, but {'net.bias, net.weight' if names else 'none'}"
    ):
        read_checkpoint(tmp_path / "a.ckpt")


def test_folder_of_a_transformers_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(ValueError, match=r"config\.json has no model_config, its model_type is 'bert'"):
        read_checkpoint(folder)


def test_folder_of_an_unconverted_official_model() -> None:
    with pytest.raises(ValueError, match=r"model_type is 'perceiver'\. Convert it first, with convert_model\(\)"):
        read_checkpoint(TIED.parent / "hf_mlm" / "hf_src")


def test_folder_whose_parameters_belong_to_something_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bin")
    torch.save({"bert.a": torch.zeros(2), "bert.b": torch.zeros(2)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no parameter backend_model\.\*, but bert\.a, bert\.b"):
        read_checkpoint(folder)


# --- load_parameters ---


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(5, 7)


def test_load_parameters() -> None:
    source, target = Model(), Model()
    load_parameters(target, source.state_dict(), "x.ckpt")
    assert_same_parameters(target.state_dict(), source.state_dict())


def test_wrong_names_and_shapes_are_named_together() -> None:
    state_dict = Model().state_dict()
    del state_dict["a.weight"]
    state_dict |= {"c.weight": torch.zeros(1), "b.weight": torch.zeros(11, 13)}
    expected = (
        "parameters of x.ckpt don't fit Model; 1 missing: a.weight; 1 unexpected: c.weight; "
        "1 of another shape: b.weight (11, 13) instead of (7, 5)"
    )
    target = Model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_parameters(target, state_dict, "x.ckpt")
    assert_same_parameters(target.state_dict(), before)


def test_only_the_first_few_names_are_listed() -> None:
    with pytest.raises(ValueError, match=r"4 missing: a\.bias, a\.weight, b\.bias, \.\.\.$"):
        load_parameters(Model(), {}, "x.ckpt")


def test_parameters_outlive_their_file(tmp_path: Path) -> None:
    """Files are mapped to memory: a model that was loaded must not change when the file is replaced."""
    shutil.copyfile(TIED / "lit.ckpt", tmp_path / "a.ckpt")
    weight = "0.latent_provider._query"
    holder = nn.ParameterDict()
    holder["w"] = nn.Parameter(torch.zeros(6, 20))
    load_parameters(holder, {"w": read_checkpoint(tmp_path / "a.ckpt").state_dict[weight]}, "a.ckpt")
    (tmp_path / "a.ckpt").write_bytes(b"\0" * (tmp_path / "a.ckpt").stat().st_size)
    assert torch.equal(holder["w"], golden_parameters("mlm_tied")[weight])


def test_json_copy_and_safetensors_agree_with_the_published_file(tmp_path: Path) -> None:
    """The test data itself: what the folder tests write is what was published."""
    folder = write_folder(tmp_path / "model", "safetensors")
    assert_same_parameters(load_file(folder / "model.safetensors"), published_weights())
    assert MaskedLanguageModelConfig.from_dict(published_config()).to_dict() == published_config()
