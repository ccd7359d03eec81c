"""Reading transformers' Perceiver models (the official weights, arXiv 2107.14795), and their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PerceiverConfig, PreTrainedModel

from perceiver.model.core.config import ClassificationDecoderConfig


def official_config(source_repo_id: str | Path) -> PerceiverConfig:
    """Reads the configuration of a transformers Perceiver.

    Raises:
        ValueError: if it is that of another kind of model.
    """
    config = AutoConfig.from_pretrained(source_repo_id)
    if not isinstance(config, PerceiverConfig):
        raise ValueError(f"{source_repo_id} is a {config.model_type!r} model, expected 'perceiver'")
    return config


def official_model(source_repo_id: str | Path, model_class: type[PreTrainedModel], kind: str) -> PreTrainedModel:
    """Reads a transformers Perceiver with a certain head.

    Raises:
        ValueError: if there are other parameters than the model has, or of other shapes. The message says that it is no
            `kind`.
    """
    loaded: Any = model_class.from_pretrained(source_repo_id, output_loading_info=True, ignore_mismatched_sizes=True)
    source, report = loaded
    if lacking := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        raise ValueError(f"{source_repo_id} is no {kind}, it lacks {', '.join(lacking[:5])}")
    assert isinstance(source, PreTrainedModel)
    return source


def encoder_fields(config: PerceiverConfig, num_input_channels: int) -> dict[str, Any]:
    """The fields of our `EncoderConfig` for an encoder whose input adapter makes C = `num_input_channels`.

    Raises:
        ValueError: if our encoder can't express the configuration.
    """
    if config.hidden_act not in ("gelu", "gelu_python"):
        raise ValueError(f"hidden_act={config.hidden_act!r} can't be converted, only 'gelu' (exact)")
    if not config.use_query_residual:
        raise ValueError("use_query_residual=False can't be converted: our encoder always has a query residual")
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
    }


def classification_decoder_config(config: PerceiverConfig) -> ClassificationDecoderConfig:
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
