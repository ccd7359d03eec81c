"""The Hugging Face symbolic audio model: published folders, recorded generations, and that it never plays padding.

What it shares with the causal language model: tests/model/text/clm/test_huggingface.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from perceiver.model.audio import symbolic
from perceiver.processing.midi import PAD
from tests.model.helpers import GOLDEN, assert_same_parameters, golden_cases, golden_parameters

HUB = GOLDEN / "sam" / "hub"
TIGHT: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


def golden_hf() -> Any:
    return AutoModelForCausalLM.from_pretrained(HUB)


def fond_of_padding() -> Any:
    """A model for which padding is always the most probable token."""
    config = symbolic.SymbolicAudioModelConfig(
        max_seq_len=24, max_latents=8, num_channels=16, num_heads=2, num_self_attention_layers=1, init_scale=0.3
    )
    model: Any = symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(config)).eval()
    with torch.no_grad():
        model.backend_model.output_adapter.bias[PAD] = 1000.0
    return model


# --- loading and saving ---


def test_published_folder(tmp_path: Path) -> None:
    model = golden_hf()
    assert type(model) is symbolic.PerceiverSymbolicAudioModel
    assert type(model.backend_model) is symbolic.SymbolicAudioModel and not model.training
    config = AutoConfig.from_pretrained(HUB)
    assert type(config) is symbolic.PerceiverSymbolicAudioModelConfig
    assert config.backend_config == model.backend_model.config and config.vocab_size == 389
    expected = {k: v for k, v in golden_parameters("sam").items() if not k.endswith("inv_freq")}
    assert_same_parameters(model.backend_model.state_dict(), expected)
    model.save_pretrained(tmp_path)
    assert_same_parameters(AutoModelForCausalLM.from_pretrained(tmp_path).state_dict(), model.state_dict())
    published, saved = (json.loads((folder / "config.json").read_text()) for folder in (HUB, tmp_path))
    for key in ("model_config", "model_type", "architectures", "is_decoder"):
        assert saved[key] == published[key]


def test_checkpoint_is_converted(tmp_path: Path) -> None:
    symbolic.convert_checkpoint(tmp_path / "out", GOLDEN / "sam" / "lit.ckpt")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_same_parameters(converted.state_dict(), golden_hf().state_dict())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, it must be a folder"):
        symbolic.convert_checkpoint(tmp_path / "file", GOLDEN / "sam" / "lit.ckpt")


# --- recorded results ---


def test_recorded_logits() -> None:
    case = golden_cases("sam", "forward")[0]
    output = golden_hf()(
        case.inputs["input_ids"],
        prefix_len=case.kwargs["prefix_len"],
        attention_mask=(~case.inputs["pad_mask"]).long(),
        output_hidden_states=True,
    )
    torch.testing.assert_close(output.logits, case.outputs["logits"], **TIGHT)
    torch.testing.assert_close(output.hidden_states[-1], case.outputs["last_hidden_state"], **TIGHT)


# --- padding ---

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_p": 0.9},
    "beams": {"num_beams": 3, "do_sample": False},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 2, "do_sample": False},
    "reset": {"do_sample": False, "reset_latents": True},
    "other tokens, too": {"do_sample": False, "suppress_tokens": [60]},
    "configuration": {"generation_config": GenerationConfig(do_sample=False)},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_padding_is_never_generated(search: str) -> None:
    model, x = fond_of_padding(), torch.tensor([[372, 60, 280]])
    output = model.generate(x, max_new_tokens=20, **SEARCHES[search])
    assert output.shape == (1, 23) and not (output == PAD).any()
    if "suppress_tokens" in SEARCHES[search]:
        first = model.generate(x, max_new_tokens=1, do_sample=False, suppress_tokens=[])[0, -1].item()
        second = model.generate(x, max_new_tokens=1, do_sample=False, suppress_tokens=[first])[0, -1].item()
        assert second not in (first, PAD)
    assert model.generation_config.suppress_tokens is None, "the model's own configuration stays as it is"


def test_padding_of_prompts_is_recognised() -> None:
    model, x = fond_of_padding(), torch.tensor([[372, 60, 280, 188, 265]])
    padded = torch.cat([torch.full((1, 4), PAD), x], dim=1)
    kwargs = {"max_new_tokens": 20, "do_sample": False, "num_latents": 3}
    alone = model.generate(x, **kwargs)
    assert torch.equal(model.generate(padded, **kwargs)[:, 4:], alone)
    assert torch.equal(model.generate(padded, attention_mask=(padded != PAD).long(), **kwargs)[:, 4:], alone)
