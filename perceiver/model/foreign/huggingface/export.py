"""A folder of ours -> a folder of transformers' own Perceiver (arXiv 2107.14795), so that nobody is locked in.

The way back of `convert_model`. Parameters only change their names. What is written computes the same; what matters in
training alone (dropout of the decoder, freezing, checkpointing) is left out where transformers has nothing like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PerceiverConfig,
    PerceiverImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
)

from perceiver.model.core.config import Config, flat, is_training_field
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.names import perceiver_names
from perceiver.model.huggingface.official import OfficialWeights
from perceiver.model.huggingface.saving import save_converted
from perceiver.model.multimodal.autoencoder import huggingface as multimodal
from perceiver.model.text.classifier import huggingface as text_classifier
from perceiver.model.text.mlm import huggingface as mlm
from perceiver.model.vision.image_classifier import huggingface as image_classifier
from perceiver.model.vision.optical_flow import huggingface as optical_flow

_ADAPTERS = dict(zip(("fourier", "learned", "conv"), image_classifier.OFFICIAL, strict=True))
_OFFICIAL: dict[type[PerceiverBackendModel], OfficialWeights] = {
    mlm.PerceiverMaskedLanguageModel: mlm.OFFICIAL,
    text_classifier.PerceiverTextClassifier: text_classifier.OFFICIAL,
    optical_flow.OpticalFlowPerceiver: optical_flow.OFFICIAL,
    multimodal.PerceiverMultimodalAutoencoder: multimodal.OFFICIAL,
}
_CLASSES: tuple[type[PerceiverBackendModel], ...] = (*_OFFICIAL, image_classifier.PerceiverImageClassifier)
_MODELS = {model_class.config_class.model_type: model_class for model_class in _CLASSES}


def export_transformers(save_dir: str | Path, source: str | Path, **kwargs: Any) -> None:
    """Writes one of our folders as transformers' Perceiver, which needs nothing of this library. Outputs are equal.

    Args:
        save_dir: Folder to write. A failed export leaves it as it was.
        source: Folder or hub id of a masked language model, a text or image classifier, an optical flow model or a
            multimodal autoencoder of ours. Its tokenizer or image processor comes along if it has one.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if transformers has no such model, or can't express its configuration. The message says which.
    """
    values, _ = PreTrainedConfig.get_config_dict(source)  # AutoConfig knows tasks that are imported, no other
    model_type = values.get("model_type")
    if model_type not in _MODELS:
        raise ValueError(f"{source} is a {model_type!r} model, transformers has only {', '.join(_MODELS)}")
    model = _MODELS[model_type].from_pretrained(source).eval()
    weights = official_weights(model)
    config = transformers_config(weights, model)
    if isinstance(model, PerceiverClassifier):
        config.id2label, config.label2id = model.config.id2label, model.config.label2id
        config.problem_type = model.config.problem_type
    theirs = as_transformers(weights, model.backend_model, config)
    save_converted(theirs, _processor(source, model.config.task.processor), save_dir, **kwargs)


def official_weights(model: PerceiverBackendModel) -> OfficialWeights:
    """The class of transformers that is the same as one of our models.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(model, image_classifier.PerceiverImageClassifier):
        return _OFFICIAL[type(model)]
    adapter = model.backend_model.config.encoder.adapter
    if adapter not in _ADAPTERS:
        raise ValueError(f"encoder.adapter={adapter!r} can't be exported: transformers has {', '.join(_ADAPTERS)}")
    return _ADAPTERS[adapter]


def transformers_config(weights: OfficialWeights, model: PerceiverBackendModel) -> PerceiverConfig:
    """The configuration of transformers' class for one of our models: the inverse of `weights.config`.

    Raises:
        ValueError: if their configuration can't express ours. The message says the first field that it can't.
    """
    own = _fields(model.backend_model.config)
    nearest: dict[str, str] | None = None
    for config in _candidates(model.backend_model.config):
        try:
            found = weights.config(config)
        except ValueError:  # such channels can't be
            continue
        theirs = _fields(found)
        different = {
            name: f"{name}={value!r} can't be exported: {weights.model_class.__name__} has {theirs[name]!r}"
            for name, value in own.items()
            if value is not None and value != theirs[name]
        }
        different |= _other_shapes(weights, model, found) if not different else {}
        if not different:
            return config
        if nearest is None or len(different) < len(nearest):
            nearest = different
    if nearest is None:
        raise ValueError(f"the channels of {weights.model_class.__name__} can't be those of this model's attention")
    raise ValueError(next(iter(nearest.values())))


def as_transformers(weights: OfficialWeights, backend: nn.Module, config: PerceiverConfig) -> PreTrainedModel:
    """transformers' model with the parameters of ours, in evaluation mode."""
    theirs = weights.model_class(config)
    own, expected = backend.state_dict(), theirs.state_dict()
    names = perceiver_names(own, weights.modules)
    theirs.load_state_dict({names[ours]: value.reshape(expected[names[ours]].shape) for ours, value in own.items()})
    return theirs.to(next(backend.parameters()).dtype).eval()  # type: ignore[arg-type]  # a dtype


def _fields(config: Config) -> dict[str, Any]:
    """The fields that change outputs."""
    return {name: value for name, value in flat(asdict(config)).items() if not is_training_field(name)}


def _candidates(config: Any) -> Iterator[PerceiverConfig]:
    """Configurations that may be that of a model. Their numbers of channels follow from others, if not given."""
    encoder = config.encoder
    values = {
        "num_latents": config.num_latents,
        "d_latents": config.num_latent_channels,
        "num_blocks": encoder.num_self_attention_blocks,
        "num_self_attends_per_block": encoder.num_self_attention_layers_per_block,
        "num_self_attention_heads": encoder.num_self_attention_heads,
        "num_cross_attention_heads": encoder.num_cross_attention_heads,
        "self_attention_widening_factor": encoder.self_attention_widening_factor,
        "cross_attention_widening_factor": encoder.cross_attention_widening_factor,
        "use_query_residual": encoder.cross_attention_residual,
        "attention_probs_dropout_prob": encoder.dropout,
        "initializer_range": encoder.init_scale,
        **_values(config),
    }
    qk_channels, v_channels = encoder.num_cross_attention_qk_channels, encoder.num_cross_attention_v_channels
    for qk, v, shape in product(dict.fromkeys((None, qk_channels)), dict.fromkeys((None, v_channels)), ("kv", "q")):
        yield PerceiverConfig(**values, qk_channels=qk, v_channels=v, cross_attention_shape_for_attention=shape)


def _values(config: Any) -> dict[str, Any]:
    """What a configuration of transformers has for one kind of model."""
    encoder, decoder = config.encoder, config.decoder
    num_classes = getattr(decoder, "num_classes", None)
    result = {} if num_classes is None else {"num_labels": num_classes}
    if hasattr(encoder, "vocab_size"):
        result |= {"vocab_size": encoder.vocab_size, "max_position_embeddings": encoder.max_seq_len}
        result |= {"d_model": encoder.num_input_channels}
    elif hasattr(encoder, "adapter"):
        result |= {"image_size": encoder.image_shape[0]}
    elif hasattr(encoder, "image_shape"):
        result |= {"train_size": list(encoder.image_shape)}
    else:
        num_frames, height, *_ = config.video_shape
        result |= {
            "num_frames": num_frames,
            "image_size": height // 4,
            "output_shape": [1, *config.video_shape[:3]],
            "audio_samples_per_frame": config.num_audio_samples // num_frames,
            "samples_per_patch": config.audio_patch_size,
            "output_num_channels": decoder.num_output_channels,
            "_label_trainable_num_channels": decoder.num_label_query_channels,
        }
    return result


def _other_shapes(weights: OfficialWeights, model: PerceiverBackendModel, config: Config) -> dict[str, str]:
    """Parameters that would have another shape: what our configuration leaves open, the shapes tell."""
    with torch.device("meta"):
        expected = model.backend_class(config).state_dict()
    return {
        name: f"{name} of shape {tuple(value.shape)} can't be exported: {weights.model_class.__name__} has "
        f"{tuple(expected[name].shape)}"
        for name, value in model.backend_model.state_dict().items()
        if value.shape != expected[name].shape
    }


def _processor(source: str | Path, kind: str | None) -> Any:
    """The tokenizer or image processor of a folder, as one of transformers; None if it has none."""
    try:
        if kind == "tokenizer":
            return AutoTokenizer.from_pretrained(source)
        if kind == "image_processor":
            values = AutoImageProcessor.from_pretrained(source).to_dict()
            own = {
                name: values.pop(name, None) for name in ("image_processor_type", "processor_class", "single_channel")
            }
            return None if own["single_channel"] else PerceiverImageProcessorPil(**values)
    except (OSError, ValueError):  # the folder has a model only
        return None
    return None
