"""Masked language model: recorded outputs, and the properties that hold for every model.

Padding changes nothing, positions can be decoded alone, the loss is the full one, checkpointing changes no result, and
every field of the configuration has an effect.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.export import Dim

from perceiver.model.core import layers
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.text.common.backend import TextEncoderConfig, labelled_positions
from perceiver.model.text.mlm.backend import (
    MaskedLanguageModel,
    MaskedLanguageModelConfig,
    TextDecoderConfig,
    perceiver_io_language_base,
)
from tests.model.helpers import (
    GOLDEN,
    MODELS,
    alike,
    assert_close,
    golden_cases,
    golden_parameters,
    gradients,
    json_copy,
    mlm_config,
    mlm_model,
    token_ids,
)

B, M = 3, 13
TIGHT = {"atol": 1e-5, "rtol": 1e-5}

UNTIED = {"num_output_query_channels": 17, "num_cross_attention_heads": 7, "num_cross_attention_v_channels": 14}
CONFIGS = {
    "tied": mlm_config(),
    "untied": mlm_config(decoder=UNTIED),
    "no residual": mlm_config(decoder={"cross_attention_residual": False}),
    "repeated": mlm_config({"num_self_attention_blocks": 3, "num_cross_attention_layers": 2}),
    "repeated, own weights": mlm_config(
        {
            "num_self_attention_blocks": 3,
            "num_cross_attention_layers": 2,
            "first_cross_attention_layer_shared": True,
            "first_self_attention_block_shared": False,
        }
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def golden_model(name: str) -> MaskedLanguageModel:
    values = json.loads((GOLDEN / name / "hub" / "config.json").read_text())["model_config"]
    model = MaskedLanguageModel(MaskedLanguageModelConfig.from_dict(values)).eval()
    model.load_state_dict(golden_parameters(name))
    return model


# --- recorded values ---


@pytest.mark.parametrize("name", MODELS)
def test_recorded_outputs(name: str) -> None:
    model = golden_model(name)
    for case in golden_cases(name, "forward"):
        mask = case.inputs.get("attention_mask")
        pad_mask = None if mask is None else mask == 0
        latents = model.encoder(case.inputs["input_ids"], pad_mask)
        torch.testing.assert_close(latents, case.outputs["encoder_latents"], atol=1e-4, rtol=1e-4)
        logits = model(case.inputs["input_ids"], pad_mask)
        torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_loss(name: str) -> None:
    (case,) = golden_cases(name, "lit_step")
    loss = golden_model(name).loss(case.inputs["labels"], case.inputs["input_ids"], case.inputs["pad_mask"])
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=1e-4)


def test_official_geometry_has_201_million_parameters() -> None:
    with torch.device("meta"):
        model = MaskedLanguageModel(perceiver_io_language_base())
    assert sum(parameter.numel() for parameter in model.parameters()) == 201_108_230


# --- shapes ---


@every_config
@pytest.mark.parametrize("length", [1, 2, 13, 19])
def test_as_many_logits_as_inputs(config: MaskedLanguageModelConfig, length: int) -> None:
    assert mlm_model(config)(token_ids(2, length)).shape == (2, length, 37)


def test_decoder_may_be_longer_or_shorter_than_the_encoder() -> None:
    assert mlm_model(mlm_config(decoder={"max_seq_len": 23}))(token_ids(2, 19)).shape == (2, 19, 37)
    model = mlm_model(mlm_config(decoder={"max_seq_len": 17}))
    with pytest.raises(ValueError, match="sequence length 19 exceeds max_seq_len=17 of the decoder"):
        model(token_ids(2, 19))


def test_loss_of_a_sequence_that_is_too_long_for_the_decoder() -> None:
    model, x = mlm_model(mlm_config(decoder={"max_seq_len": 17})), token_ids(2, 19)
    with pytest.raises(ValueError, match=r"positions span \[0, 18\], allowed is \[0, 16\]"):
        model.loss(x, x)


@pytest.mark.parametrize("position", [19, 100, -1])
def test_output_positions_out_of_range(position: int) -> None:
    with pytest.raises(ValueError, match="positions span"):
        mlm_model()(token_ids(2, 5), output_positions=torch.tensor([[0, position], [1, 2]]))


def test_bad_input() -> None:
    model = mlm_model()
    with pytest.raises(ValueError, match="sequence length 20 exceeds max_seq_len=19"):
        model(token_ids(2, 20))
    with pytest.raises(ValueError, match=r"token ids span \[37, 37\], allowed is \[0, 36\]"):
        model(torch.full((2, 5), 37))
    with pytest.raises(ValueError, match=r"pad_mask is torch.bool \(2, 4\), expected torch.bool \(2, 5\)"):
        model(token_ids(2, 5), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"token ids have shape \(5,\), expected \(batch size, sequence length\)"):
        model(token_ids(2, 5)[0])
    for shape in ((3,), (3, 1), (2, 1, 1)):
        with pytest.raises(ValueError, match=r"output_positions have shape .*, expected \(2 or 1, positions\)"):
            model(token_ids(2, 5), output_positions=torch.zeros(shape, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels span \[1, 37\], allowed is \[0, 36\]"):
        model.loss(torch.tensor([[37, -100, 1]]), token_ids(1, 3))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 4\), inputs \(2, 5\)"):
        model.loss(token_ids(2, 4), token_ids(2, 5))
    with pytest.raises(ValueError, match=r"equal vocabularies: encoder\.vocab_size=37, decoder\.vocab_size=41"):
        mlm_model(mlm_config(decoder={"vocab_size": 41}))
    with pytest.raises(ValueError, match="num_qk_channels=15 must be a positive multiple of num_heads=4"):
        mlm_model(mlm_config({"num_self_attention_heads": 4}))


def test_untied_vocabularies_may_differ() -> None:
    config = mlm_config(decoder=UNTIED | {"vocab_size": 41})
    assert mlm_model(config)(token_ids(2, 5)).shape == (2, 5, 41)


def test_tied_output_uses_the_embedding() -> None:
    model, x = mlm_model(), token_ids(2, 5)
    hidden = model.decoder.cross_attn(model.decoder.output_query_provider()[:, :5], model.encoder(x))
    expected = hidden @ model.txt_embedding.weight.T + model.state_dict()["1.output_adapter.bias"]
    torch.testing.assert_close(model(x), expected, **TIGHT)


# --- properties ---


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, M), min_size=1, max_size=4),
    left=st.booleans(),
    extra=st.integers(0, 19 - M),
    config=st.sampled_from(list(CONFIGS)),
)
def test_padding_changes_nothing(lengths: list[int], left: bool, extra: int, config: str) -> None:
    """Each example of a padded batch equals that example alone. Learned positions start at the first token, so the
    padding on the left is compared with the same positions: an example after `n` masked tokens."""
    model = mlm_model(CONFIGS[config])
    length = max(lengths) + extra
    x, pad_mask = token_ids(len(lengths), length), torch.ones(len(lengths), length, dtype=torch.bool)
    for i, n in enumerate(lengths):
        pad_mask[i, length - n :] = False
        if not left:
            pad_mask[i] = pad_mask[i].flip(0)
    logits = model(x, pad_mask)
    other = model(torch.where(pad_mask, token_ids(*x.shape), x), pad_mask)
    torch.testing.assert_close(other, logits, **TIGHT)  # what stands in the padding has no influence
    for i, n in enumerate(lengths):
        if left:
            alone = model(x[i : i + 1], pad_mask[i : i + 1])[0]
            torch.testing.assert_close(logits[i], alone, **TIGHT)
        else:
            torch.testing.assert_close(logits[i, :n], model(x[i : i + 1, :n])[0], **TIGHT)


@every_config
def test_padding_changes_no_gradient(config: MaskedLanguageModelConfig) -> None:
    model, lengths = mlm_model(config), [13, 4, 9]
    x, labels = token_ids(B, M), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor(lengths)[:, None]
    labels[pad_mask] = -100
    (model.loss(labels, x, pad_mask) * sum(lengths)).backward()
    padded = gradients(model)
    for i, n in enumerate(lengths):
        (model.loss(labels[i : i + 1, :n], x[i : i + 1, :n]) * n).backward()
    assert_close(padded, gradients(model), atol=1e-4, rtol=1e-4)


def test_padding_in_the_middle() -> None:
    """A pad mask removes keys: the encoder's result does not depend on where in memory the others are."""
    model, x = mlm_model(), token_ids(1, M)
    pad_mask = torch.zeros(1, M, dtype=torch.bool)
    pad_mask[0, [2, 3, 7]] = True
    adapted = model.encoder.input_adapter(x)[:, ~pad_mask[0]]
    latents = model.encoder.self_attn_1(model.encoder.cross_attn_1(model.encoder.latent_provider(), adapted))
    torch.testing.assert_close(model.encoder(x, pad_mask), latents, **TIGHT)


@pytest.mark.parametrize("training", [False, True])
def test_an_example_of_padding_only_is_no_nan(training: bool) -> None:
    model, x = mlm_model().train(training), token_ids(2, M)
    pad_mask = torch.zeros(2, M, dtype=torch.bool)
    pad_mask[1] = True
    labels = torch.where(pad_mask, -100, x)
    loss = model.loss(labels, x, pad_mask)
    loss.backward()
    assert loss.isfinite() and model(x, pad_mask).isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    torch.testing.assert_close(loss, model.loss(labels[:1], x[:1]), **TIGHT)


@every_config
def test_examples_do_not_influence_each_other(config: MaskedLanguageModelConfig) -> None:
    model, x, order = mlm_model(config), token_ids(B, M), torch.tensor([2, 0, 1])
    pad_mask = torch.arange(M) >= torch.tensor([13, 4, 9])[:, None]
    torch.testing.assert_close(model(x, pad_mask)[order], model(x[order], pad_mask[order]), **TIGHT)


@every_config
def test_output_positions_are_the_full_output_gathered(config: MaskedLanguageModelConfig) -> None:
    model, x = mlm_model(config), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor([13, 4, 9])[:, None]
    full = model(x, pad_mask)
    for positions in (torch.randint(0, M, (B, 5)), torch.zeros(B, 1, dtype=torch.long), torch.tensor([[4, 4, 12]])):
        chosen = model(x, pad_mask, output_positions=positions)
        index = positions.expand(B, -1)[..., None].expand(-1, -1, 37)
        torch.testing.assert_close(chosen, full.gather(1, index), **TIGHT)


def label_patterns() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 37, (B, M), generator=generator)
    some = labels.masked_fill(torch.rand(B, M, generator=generator) < 0.8, -100)
    uneven = labels.clone()
    uneven[0] = -100
    uneven[1, 1:] = -100
    return {"all": labels, "some": some, "uneven": uneven}


@pytest.mark.parametrize("pattern", label_patterns())
@every_config
def test_loss_is_the_full_cross_entropy(config: MaskedLanguageModelConfig, pattern: str) -> None:
    model, x, labels = mlm_model(config).train(), token_ids(B, M), label_patterns()[pattern]
    pad_mask = torch.arange(M) >= torch.tensor([13, 11, 13])[:, None]
    loss = model.loss(labels, x, pad_mask)
    loss.backward()
    found = gradients(model)
    full = nn.functional.cross_entropy(model(x, pad_mask).flatten(0, 1), labels.flatten())
    full.backward()
    torch.testing.assert_close(loss, full, **TIGHT)
    assert_close(found, gradients(model), **TIGHT)


def test_loss_decodes_no_more_than_the_labelled_positions() -> None:
    model, x = mlm_model(), token_ids(B, M)
    labels = torch.full((B, M), -100)
    labels[0, 3] = labels[2, 5] = labels[2, 12] = 1
    decoded: list[tuple[int, ...]] = []
    model.decoder.register_forward_hook(lambda module, args, output: decoded.append(tuple(output.shape)))
    model.loss(labels, x)
    assert decoded == [(B, 2, 37)]


@every_config
def test_no_labels_no_loss(config: MaskedLanguageModelConfig) -> None:
    model, x = mlm_model(config).train(), token_ids(B, M)
    loss = model.loss(torch.full((B, M), -100), x)
    loss.backward()
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(model).values())


def test_loss_is_computed_in_float32() -> None:
    logits, labels = torch.randn(2, 3, 37), torch.randint(0, 37, (2, 3))
    loss = token_cross_entropy(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    expected = nn.functional.cross_entropy(logits.bfloat16().float().flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, expected, **TIGHT)


def test_labelled_positions_by_hand() -> None:
    labels = torch.tensor([[-100, 7, -100, 5], [-100, -100, 3, -100]])
    positions, chosen = labelled_positions(labels, torch.zeros(2, 4))
    assert positions[0].tolist() == [1, 3] and positions[1, 0] == 2
    assert chosen.tolist() == [[7, 5], [3, -100]]
    with pytest.raises(ValueError, match="num_positions=0 must be at least 1"):
        labelled_positions(labels, torch.zeros(2, 4), 0)


@pytest.mark.parametrize("offloading", [False, True])
@every_config
def test_checkpointing_changes_no_output_and_no_gradient(config: MaskedLanguageModelConfig, offloading: bool) -> None:
    x, labels = token_ids(B, M), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor([13, 11, 13])[:, None]
    results = []
    for on in (False, True):
        model = mlm_model(replace(config, activation_checkpointing=on, activation_offloading=on and offloading)).train()
        loss = model.loss(labels, x, pad_mask)
        loss.backward()
        results.append({"loss": loss.detach(), "logits": model(x, pad_mask).detach()} | gradients(model))
    assert_close(results[1], results[0])


def test_evaluation_is_deterministic_and_dropout_is_not() -> None:
    model, x = mlm_model(mlm_config({"dropout": 0.3}, {"dropout": 0.3})), token_ids(B, M)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert not torch.allclose(model(x), model(x), atol=1e-3)


def test_bfloat16_is_close_to_float32() -> None:
    model, x = mlm_model(), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor([13, 4, 9])[:, None]
    expected = model(x, pad_mask)
    logits = model.bfloat16()(x, pad_mask)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


# --- compiler and export ---


def test_compiles_to_one_graph() -> None:
    model, x = mlm_model(), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor([13, 4, 9])[:, None]
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, pad_mask), model(x, pad_mask), **TIGHT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own compiler uses it
@every_config
def test_compiled_code_equals_eager_in_values_and_gradients(config: MaskedLanguageModelConfig) -> None:
    model, x = mlm_model(config), token_ids(B, M)
    pad_mask = torch.arange(M) >= torch.tensor([13, 4, 9])[:, None]
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x, pad_mask), model(x, pad_mask), **TIGHT)
    compiled(x, pad_mask).square().sum().backward()
    found = gradients(model)
    model(x, pad_mask).square().sum().backward()
    assert_close(found, gradients(model), atol=1e-3, rtol=1e-4)


def test_exports_with_dynamic_batch_and_length() -> None:
    model = mlm_model(CONFIGS["repeated, own weights"])
    dims = {0: Dim("batch", min=1, max=64), 1: Dim("length", min=2, max=19)}
    example = (token_ids(B, M), torch.zeros(B, M, dtype=torch.bool))
    program = torch.export.export(model, example, dynamic_shapes=(dims, dims))
    for batch, length in ((B, M), (7, 19), (2, 5)):
        x = token_ids(batch, length)
        pad_mask = torch.arange(length).expand(batch, -1) >= torch.randint(1, length + 1, (batch, 1))
        torch.testing.assert_close(program.module()(x, pad_mask), model(x, pad_mask), **TIGHT)


# --- every field of the configuration has an effect ---


@dataclass
class Change:
    """A value that a field is changed to, and what else must be set for the field to matter."""

    value: Any
    encoder: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    model: dict[str, Any] | None = None


ENCODER = {
    "num_cross_attention_heads": Change(1),
    "num_cross_attention_qk_channels": Change(8),
    "num_cross_attention_v_channels": Change(14),
    "num_cross_attention_layers": Change(2, {"num_self_attention_blocks": 2}),
    "first_cross_attention_layer_shared": Change(
        True, {"num_self_attention_blocks": 2, "num_cross_attention_layers": 2}
    ),
    "cross_attention_widening_factor": Change(2),
    "num_self_attention_heads": Change(1),
    "num_self_attention_qk_channels": Change(9),
    "num_self_attention_v_channels": Change(9),
    "num_self_attention_layers_per_block": Change(3),
    "num_self_attention_blocks": Change(2),
    "first_self_attention_block_shared": Change(False, {"num_self_attention_blocks": 2}),
    "self_attention_widening_factor": Change(2),
    "dropout": Change(0.3),
    "init_scale": Change(0.5),
    "freeze": Change(True),
    "cross_attention_residual": Change(False),
    "vocab_size": Change(41, decoder=UNTIED),
    "max_seq_len": Change(23),
    "num_input_channels": Change(17),
}
DECODER = {
    "num_cross_attention_heads": Change(7, decoder={"num_cross_attention_v_channels": 14}),
    "num_cross_attention_qk_channels": Change(8),
    "num_cross_attention_v_channels": Change(9),
    "cross_attention_widening_factor": Change(3),
    "cross_attention_residual": Change(False),
    "dropout": Change(0.3),
    "init_scale": Change(0.5),
    "freeze": Change(True),
    "num_output_query_channels": Change(14),
    "vocab_size": Change(41, decoder=UNTIED),
    "max_seq_len": Change(23),
}
MODEL = {
    "num_latents": Change(5),
    "num_latent_channels": Change(17),
    "activation_checkpointing": Change(True),
    "activation_offloading": Change(True, model={"activation_checkpointing": True}),
}
# `encoder.params` is read by the Lightning module: tests/model/text/mlm/test_lightning.py
ELSEWHERE = {"encoder": {"params"}, "decoder": set(), "model": {"encoder", "decoder"}}
CHANGES = {"encoder": ENCODER, "decoder": DECODER, "model": MODEL}
CLASSES = {"encoder": TextEncoderConfig, "decoder": TextDecoderConfig, "model": MaskedLanguageModelConfig}


@pytest.mark.parametrize("part", CHANGES)
def test_every_field_is_listed(part: str) -> None:
    assert {field.name for field in fields(CLASSES[part])} == CHANGES[part].keys() | ELSEWHERE[part]


def observed(config: MaskedLanguageModelConfig, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that can be seen of a model: its parameters, a training step and what it keeps in memory, its outputs."""
    moved: list[int] = []

    @contextmanager
    def save_on_cpu(pin_memory: bool) -> Any:
        moved.append(1)
        yield

    monkeypatch.setattr(layers, "save_on_cpu", save_on_cpu)
    kept: list[int] = []
    torch.manual_seed(0)
    model = MaskedLanguageModel(config)
    shapes = [(name, tuple(p.shape), p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()]
    x = token_ids(B, M)
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        training = model.train()(x)
    evaluation = model.eval()(x)
    return [shapes, sum(kept), sum(moved), training.double().sum().item(), evaluation.double().sum().item()]


FIELDS = [(part, name) for part in CHANGES for name in CHANGES[part]]


@pytest.mark.parametrize("part, name", FIELDS)
def test_every_field_has_an_effect(monkeypatch: pytest.MonkeyPatch, part: str, name: str) -> None:
    change = CHANGES[part][name]
    base = mlm_config(change.encoder, change.decoder, **(change.model or {}))
    values = json_copy(base)
    target = values if part == "model" else values[part]
    assert target[name] != change.value
    target[name] = change.value
    changed = MaskedLanguageModelConfig.from_dict(values)
    before = observed(base, monkeypatch)
    assert alike(observed(base, monkeypatch), before)  # nothing else than the field makes the difference
    assert not alike(observed(changed, monkeypatch), before)
