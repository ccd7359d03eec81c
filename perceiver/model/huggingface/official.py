"""Official weights: transformers' Perceiver models (arXiv 2107.14795), their configurations and parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PerceiverConfig, PreTrainedModel

from perceiver.model.core.config import ClassificationDecoderConfig, Config
from perceiver.model.huggingface.names import perceiver_names, renamed


@dataclass(frozen=True)
class OfficialWeights:
    """A kind of official weights, that is a head of transformers' Perceiver. Conversion renames parameters.

    Attributes:
        model_class: The class of transformers.
        config: Its configuration -> that of our backend. A ValueError says what ours can't express.
        modules: Modules of our backend: modules there, see `perceiver_names`.
    """

    model_class: type[PreTrainedModel]
    config: Callable[[PerceiverConfig], Config]
    modules: Mapping[str, str]

    def read(self, source_repo_id: str | Path) -> PreTrainedModel:
        """Reads a model of the class.

        Raises:
            ValueError: if there are other parameters than the model has, or of other shapes: it is of another kind.
        """
        loaded: Any = self.model_class.from_pretrained(
            source_repo_id, output_loading_info=True, ignore_mismatched_sizes=True
        )
        source, report = loaded
        if lacking := sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"]):
            name = self.model_class.__name__
            raise ValueError(f"{source_repo_id} is no {name}, it lacks {', '.join(lacking[:5])}")
        assert isinstance(source, PreTrainedModel)
        return source

    def state_dict(self, source: PreTrainedModel, backend: nn.Module) -> dict[str, Tensor]:
        """The parameters of a model of the class under the names of our backend model.

        Raises:
            ValueError: if there is a parameter that has no name of ours, or lacks one.
        """
        own = backend.state_dict()
        found = renamed(source.state_dict(), perceiver_names(own, self.modules))
        return {name: value.reshape(own[name].shape) for name, value in found.items()}  # a 1x1 convolution is linear


def official_config(source_repo_id: str | Path) -> PerceiverConfig:
    """Reads the configuration of a transformers Perceiver.

    Raises:
        ValueError: if it is that of another kind of model.
    """
    config = AutoConfig.from_pretrained(source_repo_id)
    if not isinstance(config, PerceiverConfig):
        raise ValueError(f"{source_repo_id} is a {config.model_type!r} model, expected 'perceiver'")
    return config


def encoder_fields(config: PerceiverConfig, num_input_channels: int) -> dict[str, Any]:
    """The fields of our `EncoderConfig` for an encoder whose input adapter makes C = `num_input_channels`.

    Raises:
        ValueError: if our encoder can't express the configuration.
    """
    if config.hidden_act not in ("gelu", "gelu_python"):
        raise ValueError(f"hidden_act={config.hidden_act!r} can't be converted, only 'gelu' (exact)")
    cross_qk_channels = config.qk_channels
    if cross_qk_channels is None:
        shapes = {"q": config.d_latents, "kv": num_input_channels}
        cross_qk_channels = shapes[config.cross_attention_shape_for_attention]
    self_qk_channels = config.qk_channels or config.d_latents
    self_v_channels = config.v_channels or self_qk_channels
    if self_v_channels != config.d_latents:
        raise ValueError(
            f"v_channels={self_v_channels} of the self-attention must equal d_latents={config.d_latents}, its residual"
        )
    return {
        "num_cross_attention_heads": config.num_cross_attention_heads,
        "num_cross_attention_qk_channels": cross_qk_channels,
        "num_cross_attention_v_channels": config.v_channels or cross_qk_channels,
        "cross_attention_widening_factor": config.cross_attention_widening_factor,
        "num_self_attention_heads": config.num_self_attention_heads,
        "num_self_attention_qk_channels": self_qk_channels,
        "num_self_attention_v_channels": self_v_channels,
        "num_self_attention_layers_per_block": config.num_self_attends_per_block,
        "num_self_attention_blocks": config.num_blocks,
        "self_attention_widening_factor": config.self_attention_widening_factor,
        "dropout": config.attention_probs_dropout_prob,
        "init_scale": config.initializer_range,
        "cross_attention_residual": config.use_query_residual,
    }


def official_classification_decoder(config: PerceiverConfig) -> ClassificationDecoderConfig:
    """The decoder of transformers' classifiers. They fix all but the last three fields, whatever the config says."""
    assert config.num_labels is not None
    return ClassificationDecoderConfig(
        num_cross_attention_heads=1,
        cross_attention_widening_factor=1,
        cross_attention_residual=True,
        num_output_queries=1,
        num_output_query_channels=config.d_latents,
        num_classes=config.num_labels,
        dropout=config.attention_probs_dropout_prob,
        init_scale=config.initializer_range,
    )


_DECODER = "perceiver.decoder.decoder"
OFFICIAL_CLASSIFIER = {
    "1.cross_attn": f"{_DECODER}.decoding_cross_attention",
    "1.output_query_provider._query": f"{_DECODER}.output_position_encodings.position_embeddings",
    "1.output_adapter.linear": f"{_DECODER}.final_layer",
}
