"""Contract 1: the names that README, docs and issues use, and the short programs that they show."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.model.helpers import TIED

MLM = [
    "LitMaskedLanguageModel",
    "MaskedLanguageModel",
    "MaskedLanguageModelConfig",
    "PerceiverMaskedLanguageModel",
    "PerceiverMaskedLanguageModelConfig",
    "TextDecoderConfig",
    "TextEncoderConfig",
    "convert_checkpoint",
    "convert_model",
    "fill_masks",
    "perceiver_io_language_base",
]
MODULES = [
    "InputAdapter",
    "MultiHeadAttention",
    "CrossAttention",
    "SelfAttention",
    "SelfAttentionBlock",
    "MLP",
    "TrainableQueryProvider",
    "PerceiverEncoder",
    "PerceiverDecoder",
    "PerceiverIO",
    "FourierPositionEncoding",
]
CONFIGS = ["EncoderConfig", "DecoderConfig", "PerceiverIOConfig"]
NAMES = [("perceiver.model.text.mlm", name) for name in MLM]
NAMES += [("perceiver.model.core.modules", name) for name in MODULES]
NAMES += [("perceiver.model.core.config", name) for name in CONFIGS]
NAMES += [("perceiver.model.core.checkpoint", "read_checkpoint")]


@pytest.mark.parametrize("module, name", NAMES)
def test_name_exists(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert callable(found) and found.__name__ == name and found.__doc__


def test_all_lists_what_mlm_offers() -> None:
    from perceiver.model.text import mlm

    assert sorted(mlm.__all__) == sorted(MLM)


def test_unknown_name() -> None:
    from perceiver.model.text import mlm

    with pytest.raises(AttributeError, match=r"'perceiver.model.text.mlm' has no attribute 'MaskedModel'"):
        _ = mlm.MaskedModel  # type: ignore[attr-defined]


def test_the_program_of_the_issue(tmp_path: Path) -> None:
    """As written there, with a folder in place of the hub id."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    from perceiver.model.text import mlm

    repo_id = str(TIED / "hub")
    model = AutoModelForMaskedLM.from_pretrained(repo_id)
    tokenizer = AutoTokenizer.from_pretrained(repo_id)
    assert type(model) is mlm.PerceiverMaskedLanguageModel
    encoding = tokenizer("words are[MASK][MASK][MASK]", return_tensors="pt")
    assert model(**encoding).logits.shape[:2] == encoding["input_ids"].shape
    assert len(pipeline("fill-mask", model=repo_id)("words are[MASK][MASK][MASK]")) == 3

    backend_model = model.backend_model
    assert type(backend_model) is mlm.MaskedLanguageModel
    backend_config = backend_model.config
    assert backend_config == model.config.backend_config
    lit_model = mlm.LitMaskedLanguageModel.create(backend_config, params=repo_id)
    assert type(lit_model.backend_model) is mlm.MaskedLanguageModel
    mlm.MaskedLanguageModel(backend_config)
    mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(backend_config))
    mlm.LitMaskedLanguageModel.create(backend_config)
    mlm.convert_checkpoint(save_dir=str(tmp_path / "a"), ckpt_url=str(TIED / "lit.ckpt"), tokenizer_name=repo_id)
    source = str(TIED.parent / "hf_mlm" / "hf_src")
    mlm.convert_model(save_dir=str(tmp_path / "b"), source_repo_id=source)
    assert (tmp_path / "a" / "model.safetensors").exists() and (tmp_path / "b" / "model.safetensors").exists()
