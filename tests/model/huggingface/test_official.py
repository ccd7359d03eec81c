"""Reading transformers' Perceiver models: what they are, what they lack, what ours can't express."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, PerceiverConfig, PerceiverForMaskedLM

from perceiver.model.core.config import EncoderConfig
from perceiver.model.huggingface.official import encoder_fields, official_classification_decoder, official_config
from perceiver.model.text.classifier.huggingface import OFFICIAL as OFFICIAL_CLASSIFIER
from perceiver.model.text.mlm.huggingface import OFFICIAL
from tests.model.helpers import GOLDEN

SOURCE = GOLDEN / "hf_mlm" / "hf_src"
VALUES: dict[str, Any] = {"d_latents": 24, "d_model": 16, "num_labels": 7}


def test_another_kind_of_model(tmp_path: Path) -> None:
    assert official_config(SOURCE).model_type == "perceiver"
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r" is a 'bert' model, expected 'perceiver'"):
        official_config(tmp_path)


def test_parameters_are_all_there() -> None:
    model = OFFICIAL.read(SOURCE)
    assert type(model) is PerceiverForMaskedLM and not model.training
    with pytest.raises(ValueError, match=r"no PerceiverForSequenceClassification, it lacks perceiver\.decoder"):
        OFFICIAL_CLASSIFIER.read(SOURCE)


def test_parameters_of_other_shapes(tmp_path: Path) -> None:
    """As if the configuration were that of another model."""
    model = OFFICIAL.read(SOURCE)
    model.save_pretrained(tmp_path)
    model.config.num_latents += 1
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no PerceiverForMaskedLM, it lacks .*perceiver\.embeddings\.latents"):
        OFFICIAL.read(tmp_path)


def test_every_field_of_the_encoder_is_set_but_what_official_models_have_not() -> None:
    unset = {
        "num_cross_attention_layers",
        "first_cross_attention_layer_shared",
        "first_self_attention_block_shared",
        "freeze",
    }
    assert (
        encoder_fields(PerceiverConfig(**VALUES), 11).keys() == {field.name for field in fields(EncoderConfig)} - unset
    )


@pytest.mark.parametrize(
    "kwargs, channels",
    [  # query/key and value channels of the cross-attention (inputs have 11), then of the self-attention
        ({}, (11, 11, 24, 24)),
        ({"cross_attention_shape_for_attention": "q"}, (24, 24, 24, 24)),
        ({"qk_channels": 8, "v_channels": 24}, (8, 24, 8, 24)),
        ({"v_channels": 24}, (11, 24, 24, 24)),
    ],
)
def test_channels_of_the_encoder(kwargs: dict[str, Any], channels: tuple[int, ...]) -> None:
    fields = encoder_fields(PerceiverConfig(**VALUES, **kwargs), 11)
    names = [f"num_{kind}_attention_{what}_channels" for kind in ("cross", "self") for what in ("qk", "v")]
    assert tuple(fields[name] for name in names) == channels


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' can't be converted"),
        ({"v_channels": 18}, "v_channels=18 of the self-attention must equal d_latents=24"),
    ],
)
def test_what_ours_cannot_express(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_fields(PerceiverConfig(**VALUES, **kwargs), 11)


def test_decoder_of_classifiers() -> None:
    config = official_classification_decoder(
        PerceiverConfig(**VALUES, attention_probs_dropout_prob=0.3, initializer_range=0.5, num_cross_attention_heads=4)
    )
    assert (config.num_classes, config.num_output_query_channels, config.num_output_queries) == (7, 24, 1)
    assert (config.dropout, config.init_scale, config.num_cross_attention_heads) == (0.3, 0.5, 1)


def test_weights_in_half_precision_are_read_as_they_are(tmp_path: Path) -> None:
    model = OFFICIAL.read(SOURCE)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = OFFICIAL.read(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
