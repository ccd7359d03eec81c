"""The text classifier: recorded values, output queries, what each setting changes, errors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from perceiver.model.core.adapter import ClassificationOutputAdapter
from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from tests.model.helpers import golden_cases, golden_parameters, json_copy, token_ids
from tests.model.text.classifier.helpers import CKPTS, HUB, clf_config, clf_model, padded_ids


@pytest.mark.parametrize("source", [HUB, *CKPTS], ids=lambda source: source.name)
def test_recorded_outputs(source: Any) -> None:
    checkpoint = read_checkpoint(source)
    model = TextClassifier(TextClassifierConfig.of_hyper_parameters(checkpoint.hyper_parameters)).eval()
    load_parameters(model, checkpoint.state_dict, source)
    for case in golden_cases("txt_clf", "forward"):
        mask = case.inputs.get("attention_mask")
        pad_mask = None if mask is None else mask == 0
        torch.testing.assert_close(model(case.inputs["input_ids"], pad_mask), case.outputs["logits"], atol=1e-4, rtol=0)
        latents = model.encoder(case.inputs["input_ids"], pad_mask)
        torch.testing.assert_close(latents, case.outputs["encoder_latents"], atol=1e-4, rtol=0)


def test_parameter_names_are_the_published_ones() -> None:
    config = TextClassifierConfig.from_dict(read_checkpoint(HUB).hyper_parameters)
    shapes = {name: value.shape for name, value in TextClassifier(config).state_dict().items()}
    assert shapes == {name: value.shape for name, value in golden_parameters("txt_clf").items()}


def test_config_survives_its_json() -> None:
    config = clf_config({"params": "x"}, num_latents=4)
    assert TextClassifierConfig(**json_copy(config)) == config


def test_published_defaults() -> None:
    config = ClassificationDecoderConfig()
    assert (config.num_output_queries, config.num_output_query_channels, config.num_classes) == (1, 256, 100)
    assert (config.num_cross_attention_heads, config.cross_attention_residual) == (8, True)


@pytest.mark.parametrize(
    "name, value, shapes",
    [
        ("num_classes", 7, {"output_adapter.linear.weight": (7, 14), "output_adapter.linear.bias": (7,)}),
        ("num_output_queries", 3, {"output_query_provider._query": (3, 14)}),
        ("num_output_query_channels", 6, {"output_query_provider._query": (1, 6)}),
    ],
)
def test_each_field_of_the_decoder_has_an_effect(name: str, value: int, shapes: dict[str, tuple[int, ...]]) -> None:
    assert value != asdict(clf_config().decoder)[name]
    state_dict = clf_model(clf_config(decoder={name: value})).decoder.state_dict()
    assert {n: tuple(state_dict[n].shape) for n in shapes} == shapes


def test_output_queries_give_logits_of_their_own() -> None:
    model, (x, pad_mask) = clf_model(clf_config(decoder={"num_output_queries": 3})), padded_ids(4, 11)
    logits = model(x, pad_mask)
    assert logits.shape == (4, 3, 5)
    latents = model.encoder(x, pad_mask)
    for i in range(3):
        query = model.decoder.output_query_provider()[:, i : i + 1]
        torch.testing.assert_close(model.decoder(latents, query), logits[:, i], atol=1e-5, rtol=1e-5)
    assert (logits[:, 0] - logits[:, 1]).abs().mean() > 1e-3


def test_one_query_gives_logits_without_a_dimension_for_it() -> None:
    adapter = ClassificationOutputAdapter(num_classes=5, num_output_query_channels=14)
    x = torch.randn(2, 3, 14)
    torch.testing.assert_close(adapter(x), adapter.linear(x))
    torch.testing.assert_close(adapter(x[:, :1]), adapter.linear(x[:, 0]))


def test_batch_of_one_keeps_its_dimension() -> None:
    assert clf_model()(token_ids(1, 7)).shape == (1, 5)


def test_padding_changes_nothing() -> None:
    model, (x, pad_mask) = clf_model(), padded_ids(5, 11)
    logits = model(x, pad_mask)
    for i, pads in enumerate(pad_mask):
        torch.testing.assert_close(model(x[i : i + 1, ~pads]), logits[i : i + 1], atol=1e-5, rtol=1e-5)


def test_initial_values_and_freezing() -> None:
    torch.manual_seed(0)
    model = TextClassifier(clf_config({"freeze": True}, {"init_scale": 0.01}))
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())
    weight = model.decoder.output_adapter.linear.weight
    assert abs(weight.std().item() - 0.01) < 0.003 and (model.decoder.output_adapter.linear.bias == 0).all()


@pytest.mark.parametrize("name", ["num_classes", "num_output_queries"])
def test_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0 of ClassificationDecoderConfig must be an integer, at least 1"):
        TextClassifier(clf_config(decoder={name: 0}))


def test_bad_input() -> None:
    model = clf_model()
    with pytest.raises(ValueError, match=r"sequence length 20 exceeds max_seq_len=19"):
        model(token_ids(1, 20))
    with pytest.raises(ValueError, match=r"token ids span \[37, 37\], allowed is \[0, 36\]"):
        model(torch.tensor([[37]]))
    with pytest.raises(ValueError, match=r"pad_mask is torch.bool \(2, 4\), expected torch.bool \(2, 5\)"):
        model(token_ids(2, 5), torch.zeros(2, 4, dtype=torch.bool))
