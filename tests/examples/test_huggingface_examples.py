"""The examples of docs/huggingface.md, in short runs."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from perceiver.data.text import pydoc
from perceiver.model.text import clm
from tests.examples.scripts import load
from tests.tokenizers import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing. is deprecated:FutureWarning")


def test_lora_clm(tmp_path: Path) -> None:
    config = clm.CausalLanguageModelConfig(
        max_seq_len=32, max_latents=16, num_channels=16, num_heads=2, num_self_attention_layers=1
    )
    model = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config))
    model.save_pretrained(tmp_path / "start")
    byte_tokenizer(tmp_path / "start")
    before, after = load("huggingface/lora_clm.py").main(
        [str(tmp_path / "start"), f"--output_dir={tmp_path}", "--max_steps=15", "--num_files=3"]
    )
    assert after < before
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(merged) is clm.PerceiverCausalLanguageModel and not isinstance(merged, PeftModel)
    assert merged.state_dict().keys() == model.state_dict().keys()


@pytest.mark.slow
def test_trainer_mlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pydoc, "topics", {name: f"The {name} statement. " * 40 for name in "abcdefgh"})
    example = load("huggingface/trainer_mlm.py")
    model = example.mlm.MaskedLanguageModel(example.model_config(262))
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in example.model_config.__doc__
    arguments = [f"--output_dir={tmp_path}", "--max_steps=4"]
    assert example.main(arguments) > 0
    assert (tmp_path / "checkpoint-4").is_dir() and (tmp_path / "model" / "model.safetensors").is_file()
    example.main(arguments)  # goes on from its end
    assert "validation loss" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript.*")
def test_onnx_image(tmp_path: Path) -> None:
    example = load("huggingface/onnx_image.py")
    assert sum(p.numel() for p in example.mnist_model().parameters()) == 907_212
    assert example.main([f"--output={tmp_path / 'model.onnx'}", "--batch_size=3", "--repeats=1"]) < 1e-4
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript.*")
@pytest.mark.filterwarnings("ignore:.*The axis name.*will not be used:UserWarning")  # the exporter's own
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_onnx_clm(tmp_path: Path) -> None:
    """Until the windows of latents (32) and of all tokens (128) slide. The prompt has 45 tokens."""
    example = load("huggingface/onnx_clm.py")
    results = example.main([f"--output={tmp_path}", "--num_latents=3", "--max_new_tokens=100"])
    assert len(results["torch"]) == 100 and results["float32"] == results["torch"]
    assert results["int8"][0] == results["torch"][0] and len(results["int8"]) == 100
    sizes = [(tmp_path / name).stat().st_size for name in ("step.onnx", "step-int8.onnx")]
    assert torch.is_grad_enabled() and len(set(sizes)) == 2
