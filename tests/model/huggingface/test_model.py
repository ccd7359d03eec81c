"""The base of the Hugging Face models: configs that compare, folders that are written whole or not at all, uploads."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, ModelCard
from transformers import PerceiverTokenizer

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.huggingface import folder as folder_module, saving
from perceiver.model.huggingface.forward import pad_mask_of
from perceiver.model.huggingface.saving import save_converted
from perceiver.model.text import mlm
from perceiver.model.text.mlm import PerceiverMaskedLanguageModel, PerceiverMaskedLanguageModelConfig
from tests.model.clm_helpers import clm_config
from tests.model.helpers import (
    assert_same_parameters,
    json_copy,
    mlm_config,
    mlm_model,
    text_config,
)

Config = PerceiverMaskedLanguageModelConfig


def hf_model(seed: int = 0, **kwargs: Any) -> PerceiverMaskedLanguageModel:
    config = text_config(**kwargs)
    model = PerceiverMaskedLanguageModel(Config(config)).eval()
    model.backend_model.load_state_dict(mlm_model(config, seed).state_dict())
    return model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder).state_dict


# --- configs ---


def test_config_holds_the_backend_config() -> None:
    config = Config(mlm_config())
    assert config.backend_config == mlm_config()
    assert config.model_config == mlm_config().to_dict()  # without what 0.11 does not know, where it is the default
    assert Config(model_config=json_copy(mlm_config())).backend_config == mlm_config()


def test_configs_are_equal_if_and_only_if_their_models_are() -> None:
    assert Config(mlm_config()) == Config(model_config=json_copy(mlm_config()))
    assert Config(mlm_config()) != Config(mlm_config(num_latents=5))
    assert Config(mlm_config()) != Config(mlm_config({"dropout": 0.1}))


def test_missing_fields_get_defaults_and_unknown_ones_are_named() -> None:
    values = json_copy(mlm_config())
    del values["encoder"]["dropout"], values["activation_checkpointing"]
    config = Config(model_config=values)
    assert config.model_config == Config(mlm_config()).model_config
    values["encoder"]["num_experts"] = 3
    with pytest.raises(ValueError, match="TextEncoderConfig has no field num_experts"):
        Config(model_config=values)


def test_what_a_config_and_a_model_are_not_made_from() -> None:
    with pytest.raises(ValueError, match="must be a MaskedLanguageModelConfig, not a CausalLanguageModelConfig"):
        Config(clm_config())
    with pytest.raises(ValueError, match="not a dict; model_config takes a dictionary"):
        Config(json_copy(mlm_config()))
    with pytest.raises(ValueError, match="hidden_size='24' must be an integer"):
        Config(mlm_config(), hidden_size="24")
    with pytest.raises(ValueError, match=r"is made from a \w+, which takes the MaskedLanguageModelConfig"):
        PerceiverMaskedLanguageModel(mlm_config())


def test_unknown_fields_in_a_file_are_named(tmp_path: Path) -> None:
    Config(mlm_config()).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["model_config"]["num_experts"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="MaskedLanguageModelConfig has no field num_experts"):
        Config.from_pretrained(tmp_path)


def test_config_survives_saving_and_copying(tmp_path: Path) -> None:
    config = Config(mlm_config(), id2label={0: "a", 1: "b"})
    config.save_pretrained(tmp_path)
    for again in (Config.from_pretrained(tmp_path), copy.deepcopy(config), Config.from_dict(config.to_dict())):
        assert again.backend_config == mlm_config() and again.id2label == {0: "a", 1: "b"}
    assert Config.from_pretrained(tmp_path) == Config.from_pretrained(tmp_path)


def test_config_without_a_model_is_that_of_the_default_variant(tmp_path: Path) -> None:
    assert Config().backend_config == mlm.perceiver_io_language_base()
    Config().save_pretrained(tmp_path)  # says so, also when it will be another one
    assert json.loads((tmp_path / "config.json").read_text())["model_config"] == Config().model_config


def test_pad_mask() -> None:
    assert pad_mask_of(None) is None
    mask = pad_mask_of(torch.tensor([[1, 0], [0, 1]]))
    assert mask is not None and mask.tolist() == [[False, True], [True, False]]


# --- saving ---


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class FailingTokenizer:
    """Writes one file and fails, as on a full disk."""

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "tokenizer_config.json").write_text("{")
        raise OSError("no space left on device")


def test_new_folder(tmp_path: Path) -> None:
    model = hf_model()
    save_converted(model, PerceiverTokenizer(), tmp_path / "a" / "model")
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= files(tmp_path / "a" / "model").keys()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]
    assert_same_parameters(weights(tmp_path / "a" / "model"), model.backend_model.state_dict())


def test_relative_and_string_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    save_converted(hf_model(), PerceiverTokenizer(), "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"):
        save_converted(hf_model(), FailingTokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_an_existing_folder_as_it_was(tmp_path: Path) -> None:
    save_converted(hf_model(seed=0), PerceiverTokenizer(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(OSError, match="no space left"):
        save_converted(hf_model(seed=1), FailingTokenizer(), tmp_path / "model")
    assert files(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_existing_folder_is_updated_and_foreign_files_stay(tmp_path: Path) -> None:
    save_converted(hf_model(seed=0), PerceiverTokenizer(), tmp_path / "model")
    for name in ("README.md", "model_backup.safetensors"):
        (tmp_path / "model" / name).write_text("mine")
    new = hf_model(seed=1, num_latents=5)
    save_converted(new, PerceiverTokenizer(), tmp_path / "model")
    assert_same_parameters(weights(tmp_path / "model"), new.backend_model.state_dict())
    for name in ("README.md", "model_backup.safetensors"):
        assert (tmp_path / "model" / name).read_text() == "mine"
    assert PerceiverMaskedLanguageModel.from_pretrained(tmp_path / "model").config.backend_config.num_latents == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("sizes", [("10KB", None), (None, "10KB"), ("10KB", "20KB")])
def test_no_stale_weights_win_over_new_ones(tmp_path: Path, sizes: tuple[str | None, str | None]) -> None:
    """A folder that held one file gets shards, or the other way round."""
    new = hf_model(seed=1)
    for model, size in zip((hf_model(seed=0), new), sizes, strict=True):
        kwargs = {} if size is None else {"max_shard_size": size}
        save_converted(model, PerceiverTokenizer(), tmp_path / "model", **kwargs)
    assert_same_parameters(weights(tmp_path / "model"), new.backend_model.state_dict())
    loaded = PerceiverMaskedLanguageModel.from_pretrained(tmp_path / "model")
    assert_same_parameters(loaded.state_dict(), new.state_dict())


def test_failure_of_the_last_step_leaves_the_old_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_converted(hf_model(seed=0), PerceiverTokenizer(), tmp_path / "model")
    before = files(tmp_path)

    def failing(*paths: Path) -> None:
        raise OSError("stopped")

    monkeypatch.setattr(folder_module, "_exchange", failing)
    with pytest.raises(OSError, match="stopped"):
        save_converted(hf_model(seed=1), PerceiverTokenizer(), tmp_path / "model")
    assert files(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_failed_upload_leaves_the_folder_as_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(hub, "create_commit", failing)
    with pytest.raises(OSError, match="no network"):
        save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "model", push_to_hub=True)
    assert list(tmp_path.iterdir()) == []


def test_save_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"save_dir=.*file is a file, it must be a folder"):
        save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


# --- uploads ---


class Hub:
    """Stands in for `HfApi` and remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.there: set[str] = set()
        self.uploaded: dict[str, bytes] = {}

    def __call__(self, token: str | None = None) -> Hub:
        self.calls.append(("api", {"token": token}))
        return self

    def create_repo(self, repo_id: str, **kwargs: Any) -> SimpleNamespace:
        self.calls.append(("create_repo", {"repo_id": repo_id, **kwargs}))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None) -> bool:
        return filename in self.there

    def create_commit(self, repo_id: str, operations: list[CommitOperationAdd], **kwargs: Any) -> None:
        for operation in operations:
            with operation.as_file() as file:
                self.uploaded[operation.path_in_repo] = file.read()
        self.calls.append(("create_commit", {"repo_id": repo_id, **kwargs}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(saving, "HfApi", hub)
    return hub


def test_nothing_is_uploaded_unless_asked_for(hub: Hub, tmp_path: Path) -> None:
    save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "model", repo_id="someone/model")
    assert hub.calls == []


def test_upload_is_one_commit_to_the_folders_name(hub: Hub, tmp_path: Path) -> None:
    save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "my-model", push_to_hub=True)
    assert hub.calls == [
        ("api", {"token": None}),
        ("create_repo", {"repo_id": "my-model", "private": None, "exist_ok": True}),
        ("create_commit", {"repo_id": "me/my-model", "revision": None, "commit_message": "Upload model"}),
    ]
    written = {name: (tmp_path / "my-model" / name).read_bytes() for name in files(tmp_path / "my-model")}
    assert hub.uploaded == {**written, "README.md": hub.uploaded["README.md"]} and "README.md" not in written


def test_model_card(hub: Hub, tmp_path: Path) -> None:
    model = hf_model()
    model.push_to_hub("me/my-mlm", processor=PerceiverTokenizer(), metrics={"val_loss": 1.16543})
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= hub.uploaded.keys()
    card = ModelCard(hub.uploaded["README.md"].decode())
    assert card.data.pipeline_tag == "fill-mask" and card.data.library_name == "transformers"
    assert f"{model.num_parameters():,} parameters" in card.text and "| val_loss | 1.1654 |" in card.text
    usage, config = re.findall(r"```\w+\n(.*?)```", card.text, flags=re.DOTALL)
    assert json.loads(config) == model.config.model_config
    assert usage.splitlines() == [
        "from transformers import pipeline",
        "from perceiver.model.text import mlm  # registers the model",
        "",
        'model = pipeline("fill-mask", model="me/my-mlm")',
    ]
    hub.there = {"README.md"}
    hub.uploaded.clear()
    model.push_to_hub("me/my-mlm")
    assert "config.json" in hub.uploaded and "README.md" not in hub.uploaded, "somebody's card stays"


def test_upload_arguments(hub: Hub, tmp_path: Path) -> None:
    kwargs = {"repo_id": "a/b", "token": "x", "private": True, "revision": "dev", "commit_message": "why"}
    save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "model", push_to_hub=True, **kwargs)
    assert hub.calls == [
        ("api", {"token": "x"}),
        ("create_repo", {"repo_id": "a/b", "private": True, "exist_ok": True}),
        ("create_commit", {"repo_id": "a/b", "revision": "dev", "commit_message": "why"}),
    ]


def test_upload_leaves_foreign_files_at_home(hub: Hub, tmp_path: Path) -> None:
    """`save_dir` may be a folder in which other things are: training logs, a .env file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".env").write_text("SECRET=1")
    save_converted(hf_model(), PerceiverTokenizer(), tmp_path / "model", push_to_hub=True)
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= hub.uploaded.keys()
    assert ".env" not in hub.uploaded


def test_failed_conversion_is_not_uploaded(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"):
        save_converted(hf_model(), FailingTokenizer(), tmp_path / "model", push_to_hub=True)
    assert hub.calls == []
