"""Contract: a config survives its own JSON. Unknown fields are errors that name them, missing ones get defaults."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any

import pytest

from perceiver.model.core.config import Config, DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import MaskedLanguageModelConfig, TextDecoderConfig, perceiver_io_language_base
from tests.model.helpers import json_copy, mlm_config


@dataclass
class ShapeConfig(Config):
    """A config with tuples, as the vision configs have."""

    image_shape: tuple[int, ...] = (2, 3, 5)
    patch: tuple[int, int] | None = None


@dataclass
class NestedConfig(Config):
    shape: ShapeConfig
    scale: float = 0.5


CONFIGS = [
    EncoderConfig(),
    EncoderConfig(num_cross_attention_qk_channels=7, dropout=0.1, freeze=True),
    DecoderConfig(),
    PerceiverIOConfig(EncoderConfig(), DecoderConfig(), num_latents=3, num_latent_channels=5),
    TextEncoderConfig(params="some/folder"),
    TextDecoderConfig(num_output_query_channels=11),
    mlm_config(activation_checkpointing=True),
    perceiver_io_language_base(),
    ShapeConfig(image_shape=(7, 11)),
    NestedConfig(ShapeConfig(image_shape=(13,))),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)


@every_config
def test_survives_its_own_json(config: Config) -> None:
    again = type(config)(**json.loads(json.dumps(asdict(config))))
    assert again == config
    for field in fields(config):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name)), field.name


@every_config
def test_from_dict_equals_constructor(config: Config) -> None:
    assert type(config).from_dict(json_copy(config)) == config


@every_config
def test_is_itself_a_dataclass_with_typed_nested_configs(config: Config) -> None:
    # otherwise the command line has `--model.encoder.init_args.x` instead of `--model.encoder.x`
    assert "__dataclass_fields__" in vars(type(config))
    nested = [getattr(config, field.name) for field in fields(config) if is_dataclass(getattr(config, field.name))]
    assert all(isinstance(value, Config) for value in nested)


def test_any_mapping_becomes_a_nested_config() -> None:
    config = NestedConfig(MappingProxyType({"image_shape": [17, 19]}))  # type: ignore[arg-type]
    assert config.shape == ShapeConfig(image_shape=(17, 19))


def test_missing_fields_get_their_defaults() -> None:
    values = json_copy(mlm_config())
    del values["activation_checkpointing"], values["encoder"]["dropout"], values["decoder"]["init_scale"]
    config = MaskedLanguageModelConfig.from_dict(values)
    assert (config.activation_checkpointing, config.encoder.dropout, config.decoder.init_scale) == (False, 0.0, 0.02)


def test_missing_required_field_is_an_error_that_names_it() -> None:
    values = json_copy(mlm_config())
    del values["num_latents"]
    with pytest.raises(ValueError, match=r"MaskedLanguageModelConfig.*num_latents"):
        MaskedLanguageModelConfig.from_dict(values)


def test_what_a_config_is_not_made_from() -> None:
    values: Any
    for values in (None, [1], "x"):
        with pytest.raises(ValueError, match="MaskedLanguageModelConfig is made from a dictionary, not from "):
            MaskedLanguageModelConfig.from_dict(values)


def test_unknown_fields_are_an_error_that_names_them_and_the_known_ones() -> None:
    values = json_copy(mlm_config()) | {"num_heads": 2, "depth": 3}
    with pytest.raises(ValueError, match=r"MaskedLanguageModelConfig has no field depth, num_heads.*num_latents"):
        MaskedLanguageModelConfig.from_dict(values)


def test_hyper_parameters_may_have_further_names_but_no_further_fields_of_a_part() -> None:
    values = json_copy(mlm_config())
    of = MaskedLanguageModelConfig.of_hyper_parameters
    assert of(values | {"optimizer_init": 3}) == mlm_config()
    values["encoder"]["num_bands"] = 3
    with pytest.raises(ValueError, match="TextEncoderConfig has no field num_bands"):
        of(values)


@pytest.mark.parametrize("part, name", [("encoder", "TextEncoderConfig"), ("decoder", "TextDecoderConfig")])
def test_unknown_nested_fields_are_an_error_that_names_them(part: str, name: str) -> None:
    values = json_copy(mlm_config())
    values[part]["num_bands"] = 3
    with pytest.raises(ValueError, match=f"{name} has no field num_bands"):
        MaskedLanguageModelConfig.from_dict(values)
    with pytest.raises(ValueError, match=f"{name} has no field num_bands"):
        MaskedLanguageModelConfig(**values)


def test_asdict_of_a_config_is_plain() -> None:
    plain = (dict, int, float, bool, str, type(None))
    values = asdict(mlm_config())
    assert all(isinstance(v, plain) for part in (values, values["encoder"], values["decoder"]) for v in part.values())
