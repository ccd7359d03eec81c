"""Hugging Face models of other libraries' Perceivers: folders, Auto classes, Trainer, generation, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments

from perceiver.model import foreign
from perceiver.model.core.decoding_step import DecodingStep
from perceiver.model.foreign import (
    GatedDecoderConfig,
    GatedEncoderConfig,
    GooglePerceiverARConfig,
    LucidrainsPerceiverARConfig,
    LucidrainsPerceiverConfig,
    LucidrainsPerceiverIOConfig,
    LucidrainsPerceiverLMConfig,
    MeanDecoderConfig,
)
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.tasks import FOREIGN

ENCODER: dict[str, Any] = {
    "num_latents": 5,
    "num_latent_channels": 12,
    "num_blocks": 2,
    "num_distinct_blocks": 2,
    "num_cross_attention_channels": 14,
    "num_cross_attention_heads": 2,
    "num_self_attention_channels": 18,
    "num_self_attention_heads": 3,
    "init_scale": 0.2,
}
AR: dict[str, Any] = {
    "vocab_size": 17,
    "max_seq_len": 12,
    "max_latents": 7,
    "num_channels": 24,
    "num_heads": 2,
    "num_self_attention_layers": 2,
    "cross_attention_dropout": 0.0,
    "init_scale": 0.2,
}
DECODER = GatedDecoderConfig(num_query_channels=9, num_output_channels=17, num_channels=10, mlp=True)
LM_ENCODER = GatedEncoderConfig(9, **ENCODER)
CONFIGS: dict[str, Any] = {
    "lucidrains-perceiver": LucidrainsPerceiverConfig(
        GatedEncoderConfig(3 + 2 * 7, **ENCODER), MeanDecoderConfig(4), num_frequency_bands=3
    ),
    "lucidrains-perceiver-io": LucidrainsPerceiverIOConfig(LM_ENCODER, DECODER),
    "lucidrains-perceiver-lm": LucidrainsPerceiverLMConfig(
        LM_ENCODER, replace(DECODER, num_output_channels=None), vocab_size=17, max_seq_len=12
    ),
    "lucidrains-perceiver-ar": LucidrainsPerceiverARConfig(**AR, num_head_channels=34),
    "google-perceiver-ar": GooglePerceiverARConfig(
        **AR, num_cross_attention_heads=4, num_rotary_channels=4, num_self_attention_rotary_layers=-1
    ),
}
every_model = pytest.mark.parametrize("name", CONFIGS)


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    model_class = getattr(foreign, FOREIGN[name].huggingface)
    return model_class(model_class.config_class(CONFIGS[name])).eval()


def example(name: str, generator: torch.Generator) -> dict[str, Tensor]:
    if name == "lucidrains-perceiver":
        return {"inputs": torch.randn(6, 4, 3, generator=generator), "labels": torch.tensor(1)}
    if name == "lucidrains-perceiver-io":
        queries = torch.randn(4, 9, generator=generator)
        return {"inputs": torch.randn(11, 9, generator=generator), "queries": queries, "labels": torch.arange(4)}
    ids = torch.randint(17, (12,), generator=generator)
    return {"input_ids": ids, "labels": ids}


def examples(name: str, n: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [example(name, generator) for _ in range(n)]


def batch(name: str) -> dict[str, Tensor]:
    return {key: torch.stack([e[key] for e in examples(name, 2)]) for key in examples(name, 1)[0]}


def test_every_foreign_model_is_here() -> None:
    assert CONFIGS.keys() == FOREIGN.keys()
    assert {FOREIGN[name].huggingface for name in FOREIGN} <= set(foreign.__all__)


@every_model
def test_folders(name: str, tmp_path: Path) -> None:
    model, inputs = model_of(name), batch(name)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == name and saved["model_config"]["init_scale" if "ar" in name[-2:] else "encoder"]
    auto_class = {"lucidrains-perceiver-lm": AutoModelForMaskedLM}.get(
        name, AutoModelForCausalLM if name.endswith("ar") else AutoModel
    )
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and AutoConfig.from_pretrained(tmp_path).backend_config == CONFIGS[name]
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


@every_model
def test_trainer_trains(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=30,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    with torch.no_grad():
        before = model(**batch(name)).loss.item()
    Trainer(model, arguments, train_dataset=examples(name, 4)).train()
    with torch.no_grad():
        assert model.eval()(**batch(name)).loss.item() < 0.7 * before


@every_model
def test_gradient_checkpointing_and_padding(name: str) -> None:
    """Every parameter has a gradient; what is padding changes nothing."""
    model, inputs = model_of(name), batch(name)
    model(**inputs).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    key = "inputs" if "inputs" in inputs else "input_ids"
    shape = inputs[key].shape if key == "input_ids" else inputs[key].shape[:-1]
    mask = torch.ones(shape, dtype=torch.long)
    place = (slice(None), *(0 for _ in shape[1:]))  # Perceiver AR is padded on the left
    mask[place] = 0
    others = {k: v for k, v in inputs.items() if k not in (key, "labels")}
    changed = inputs[key].clone()
    changed[place] = 1 + changed[place] if key == "inputs" else (changed[place] + 1) % 17
    with torch.no_grad():
        a, b, c = (
            model(**{key: x}, attention_mask=m, **others).logits
            for x, m in ((inputs[key], mask), (changed, mask), (changed, None))
        )
    kept = (slice(None), slice(1, None)) if key == "input_ids" else (slice(None),)
    torch.testing.assert_close(a[kept], b[kept])
    assert not torch.allclose(a[kept], c[kept], atol=1e-4)


@pytest.mark.parametrize("name", ["lucidrains-perceiver-ar", "google-perceiver-ar"])
def test_generation_with_and_without_cache(name: str) -> None:
    model = model_of(name)
    prompt = torch.randint(17, (2, 5))
    cached, uncached = (
        model.generate(prompt, max_new_tokens=5, do_sample=False, use_cache=use_cache, num_latents=3)
        for use_cache in (True, False)
    )
    assert cached.shape == (2, 10) and torch.equal(cached, uncached)


@pytest.mark.parametrize("name", ["lucidrains-perceiver-ar", "google-perceiver-ar"])
def test_generation_with_other_caches(name: str) -> None:
    """A static one, and that of a step as a function of tensors, until everything slides."""
    model = model_of(name)
    prompt = torch.randint(17, (1, 5))
    sizes = {"max_new_tokens": 15, "do_sample": False, "num_latents": 1}
    expected = model.generate(prompt, **sizes)
    static = model.generate(prompt, **sizes, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, expected)
    step = DecodingStep(model.backend_model).eval()
    tokens, prefix, past, position = prompt, prompt[:, :4], step.empty_past(), 0
    with torch.no_grad():
        while tokens.shape[1] < 20:
            logits, *past = step(tokens[:, -1:], prefix, torch.tensor([position]), *past)
            past, prefix, position = step.in_windows(past), prompt[:, :0], tokens.shape[1]
            tokens = torch.cat([tokens, logits.argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("name", ["lucidrains-perceiver-ar", "google-perceiver-ar"])
def test_causality(name: str) -> None:
    """No later token changes an earlier output."""
    backend = model_of(name).backend_model
    embedding = backend.input_adapter.txt_embedding
    recorded: list[Tensor] = []
    embedding.register_forward_hook(lambda _m, _a, out: recorded.append(out.requires_grad_()) or out)
    logits = backend(torch.randint(17, (1, 12)), 5)
    for i in (0, 3, 6):
        (gradient,) = torch.autograd.grad(logits[0, i].sum(), recorded[0], retain_graph=True)
        nonzero = gradient[0].abs().sum(-1) > 0
        assert nonzero[: 5 + i + 1].all() and not nonzero[5 + i + 1 :].any()


def test_models_without_head_return_latents() -> None:
    config = LucidrainsPerceiverConfig(GatedEncoderConfig(3, **ENCODER), None, 1, fourier_features=False)
    model = foreign.LucidrainsPerceiverModel(foreign.LucidrainsPerceiverModelConfig(config))
    output = model(torch.randn(2, 7, 3))
    assert output.logits is None and output.last_hidden_state.shape == (2, 5, 12)
    with pytest.raises(ValueError, match="labels were given, but this model has no classifier"):
        model(torch.randn(2, 7, 3), labels=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="labels were given without queries"):
        model_of("lucidrains-perceiver-io")(torch.randn(2, 7, 9), labels=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("lucidrains-perceiver", {"inputs": torch.zeros(2, 6, 3)}, r"\(2, 6, 3\), expected .* 3 channels with 2 dim"),
        ("lucidrains-perceiver", {"inputs": torch.zeros(2, 6, 3, 4)}, "expected floating point values of 3 channels"),
        (
            "lucidrains-perceiver-io",
            {"inputs": torch.zeros(2, 6, 4)},
            r"\(2, 6, 4\), expected \(batch size, inputs, 9\)",
        ),
        (
            "lucidrains-perceiver-io",
            {"inputs": torch.zeros(2, 6, 9), "queries": torch.zeros(2, 6, 4)},
            r"queries have shape \(2, 6, 4\), expected \(batch size or 1, queries, 9\)",
        ),
        ("lucidrains-perceiver-lm", {"input_ids": torch.zeros(2, 13, dtype=torch.long)}, "13"),
    ],
)
def test_wrong_inputs(name: str, inputs: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(name)(**inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedEncoderConfig(9, num_blocks=2), r"num_distinct_blocks=6 must be in \[1, num_blocks=2\]"),
        (lambda: LucidrainsPerceiverConfig(LM_ENCODER, None), "num_input_channels=9 must be more than the 26 channels"),
        (lambda: LucidrainsPerceiverLMConfig(LM_ENCODER, GatedDecoderConfig(8)), "must be equal"),
        (lambda: LucidrainsPerceiverLMConfig(LM_ENCODER, DECODER), "num_output_channels=17 must be None"),
        (lambda: LucidrainsPerceiverARConfig(**AR, num_head_channels=31), "num_head_channels=31 must be at least 32"),
        (lambda: GooglePerceiverARConfig(**AR), "num_channels=24 with num_cross_attention_heads=16"),
    ],
)
def test_wrong_configurations(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_vocabulary_can_grow() -> None:
    for name in ("lucidrains-perceiver-lm", "lucidrains-perceiver-ar", "google-perceiver-ar"):
        model: PerceiverBackendModel = model_of(name)
        inputs = batch(name)
        with torch.no_grad():
            before = model(**inputs).logits
            model.resize_token_embeddings(19)
            after = model(**inputs).logits
        assert after.shape[-1] == 19
        torch.testing.assert_close(after[..., :17], before)
