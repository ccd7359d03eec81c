"""DeepMind's pickles of Perceiver IO (arXiv 2107.14795): names of Haiku, and the models that they are.

    perceiver_io/{language_perceiver_io_bytes.pickle, imagenet_*.pystate, optical_flow_checkpoint.pystate,
    video_autoencoding_checkpoint.pystate} on storage.googleapis.com

Their parameters have the names that modules of Haiku have. transformers' public script
`convert_perceiver_haiku_to_pytorch.py` says which of its own they are; so names go from Haiku's to transformers' here,
and from there to ours. Two of its models compute something else than DeepMind's code, which ours don't:

* the learned position classifier's decoder has no query residual (`imagenet_classification.ipynb`), transformers' has;
* the convolution of the conv classifier is padded as "SAME", and its kernels are (height, width, in, out);
  transformers pads otherwise, and its script exchanges height and width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from transformers import PerceiverConfig

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.core.config import Config
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.names import perceiver_names
from perceiver.model.huggingface.official import OfficialWeights
from perceiver.model.multimodal.autoencoder import huggingface as multimodal
from perceiver.model.text.mlm import huggingface as mlm
from perceiver.model.vision.image_classifier import huggingface as image_classifier
from perceiver.model.vision.image_classifier.backend import ImageClassifierConfig
from perceiver.model.vision.optical_flow import huggingface as optical_flow

Parameters = dict[str, Tensor]

_IMAGENET = {
    "num_latents": 512,
    "d_latents": 1024,
    "num_blocks": 8,
    "num_self_attends_per_block": 6,
    "num_cross_attention_heads": 1,
    "num_self_attention_heads": 8,
}


@dataclass(frozen=True)
class Kind:
    """One of DeepMind's models.

    Attributes:
        name: What it is called in texts.
        mark: A parameter that it alone has.
        model_class: Our Hugging Face class.
        weights: transformers' class and ours.
        encoder: Scope of the encoder.
        scopes: Modules of transformers: scopes, for what is not in the encoder. Names of parameters are among them.
        values: Configuration of transformers' class, where it differs from its defaults.
        adapted: What becomes of our configuration, where DeepMind's code is not transformers'.
        is_transformers: Whether transformers' class computes the same.
    """

    name: str
    mark: str
    model_class: type[PerceiverBackendModel]
    weights: OfficialWeights
    scopes: Mapping[str, str]
    values: Mapping[str, Any]
    encoder: str = "perceiver_encoder"
    adapted: Callable[[Any], Config] = lambda config: config
    is_transformers: bool = True


_DECODER = "perceiver.decoder.decoder"
_PREPROCESSOR = "perceiver.input_preprocessor"


def _decoder(scope: str) -> dict[str, str]:
    return {
        f"{_DECODER}.decoding_cross_attention": f"{scope}/cross_attention",
        f"{_DECODER}.final_layer": f"{scope}/output",
    }


_CLASSIFIER = {
    **_decoder("classification_decoder/~/basic_decoder"),
    f"{_DECODER}.output_position_encodings.position_embeddings": (
        "classification_decoder/~/basic_decoder/~/trainable_position_encoding/pos_embs"
    ),
}
_CONV = "image_preprocessor/~/conv2_d_downsample/~"
_NETWORK_INPUTS = "image_preprocessor/~_build_network_inputs"


def _without_residual(config: ImageClassifierConfig) -> ImageClassifierConfig:
    return replace(config, decoder=replace(config.decoder, cross_attention_residual=False))


def _same_padding(config: ImageClassifierConfig) -> ImageClassifierConfig:
    return replace(config, encoder=replace(config.encoder, adapter="conv_same"))


_FOURIER, _LEARNED, _CONV_WEIGHTS = image_classifier.OFFICIAL
KINDS = (
    Kind(
        "masked language model",
        "embedding_decoder/bias",
        mlm.PerceiverMaskedLanguageModel,
        mlm.OFFICIAL,
        {
            f"{_PREPROCESSOR}.embeddings.weight": "embed/embeddings",
            f"{_PREPROCESSOR}.position_embeddings.weight": "trainable_position_encoding/pos_embs",
            "perceiver.decoder.decoding_cross_attention": "basic_decoder/cross_attention",
            "perceiver.decoder.output_position_encodings.position_embeddings": (
                "basic_decoder/~/trainable_position_encoding/pos_embs"
            ),
            "embedding_decoder.bias": "embedding_decoder/bias",
        },
        {"num_self_attention_heads": 8, "num_cross_attention_heads": 8},
    ),
    Kind(
        "optical flow",
        "flow_decoder/~/basic_decoder/output/w",
        optical_flow.OpticalFlowPerceiver,
        optical_flow.OFFICIAL,
        {
            f"{_PREPROCESSOR}.conv_after_patches": "image_preprocessor/patches_linear",
            **_decoder("flow_decoder/~/basic_decoder"),
        },
        {"num_self_attention_heads": 16, "num_cross_attention_heads": 1},
    ),
    Kind(
        "multimodal autoencoder",
        "multimodal_preprocessor/audio_padding/pos_embs",
        multimodal.PerceiverMultimodalAutoencoder,
        multimodal.OFFICIAL,
        {
            **{
                f"{_PREPROCESSOR}.{theirs}.{modality}": f"multimodal_preprocessor/{modality}_{ours}/pos_embs"
                for theirs, ours in (("padding", "padding"), ("mask", "mask_token"))
                for modality in ("audio", "image", "label")
            },
            **{
                f"perceiver.decoder.padding.{name}": f"multimodal_decoder/~decoder_query/{name}_padding/pos_embs"
                for name in ("audio", "image", "label")
            },
            **_decoder("multimodal_decoder/~/basic_decoder"),
            "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings": (
                "classification_decoder/~/basic_decoder/~/trainable_position_encoding/pos_embs"
            ),
            **{
                f"perceiver.output_postprocessor.modalities.{modality}.classifier": f"{scope}_postprocessor/linear"
                for modality, scope in (("audio", "audio"), ("image", "projection"), ("label", "classification"))
            },
        },
        {"num_self_attention_heads": 8, "num_cross_attention_heads": 1},
        encoder="encoder",
    ),
    Kind(
        "image classifier with learned positions",
        "image_preprocessor/~/conv2_d/w",
        image_classifier.PerceiverImageClassifier,
        _LEARNED,
        {
            **_CLASSIFIER,
            f"{_PREPROCESSOR}.convnet_1x1": "image_preprocessor/~/conv2_d",
            f"{_PREPROCESSOR}.position_embeddings.position_embeddings": (
                f"{_NETWORK_INPUTS}/trainable_position_encoding/pos_embs"
            ),
            f"{_PREPROCESSOR}.positions_projection": f"{_NETWORK_INPUTS}/position_encoding_projector/linear",
        },
        _IMAGENET,
        adapted=_without_residual,
        is_transformers=False,
    ),
    Kind(
        "image classifier with convolution",
        f"{_CONV}/conv/w",
        image_classifier.PerceiverImageClassifier,
        _CONV_WEIGHTS,
        {
            **_CLASSIFIER,
            f"{_PREPROCESSOR}.convnet.conv": f"{_CONV}/conv",
            f"{_PREPROCESSOR}.convnet.batchnorm.running_mean": f"{_CONV}/batchnorm/~/mean_ema/average",
            f"{_PREPROCESSOR}.convnet.batchnorm.running_var": f"{_CONV}/batchnorm/~/var_ema/average",
            f"{_PREPROCESSOR}.convnet.batchnorm.num_batches_tracked": f"{_CONV}/batchnorm/~/mean_ema/counter",
            f"{_PREPROCESSOR}.convnet.batchnorm": f"{_CONV}/batchnorm",
        },
        _IMAGENET,
        adapted=_same_padding,
        is_transformers=False,
    ),
    Kind(
        "image classifier with Fourier features",
        "classification_decoder/~/basic_decoder/output/w",  # the others have it, too: this is the last one
        image_classifier.PerceiverImageClassifier,
        _FOURIER,
        _CLASSIFIER,
        _IMAGENET,
    ),
)


def recognised(names: Iterable[str]) -> Kind | None:
    """The model that has these parameters."""
    names = set(names)
    has_encoder = any(re.match(r"(perceiver_)?encoder/~/cross_attention/", name) for name in names)
    return next((kind for kind in KINDS if has_encoder and kind.mark in names), None)


# Parts of an attention layer: the norms are numbered in the order in which they are called.
_CROSS = {
    "attention.self.layernorm1": "layer_norm",
    "attention.self.layernorm2": "layer_norm_1",
    "layernorm": "layer_norm_2",
}
_SELF = {"attention.self.layernorm1": "layer_norm", "layernorm": "layer_norm_1"}
_PARTS = {
    "attention.self.query": "attention/linear",
    "attention.self.key": "attention/linear_1",
    "attention.self.value": "attention/linear_2",
    "attention.output.dense": "attention/linear_3",
    "mlp.dense1": "mlp/linear",
    "mlp.dense2": "mlp/linear_1",
}


def haiku_name(theirs: str, kind: Kind) -> str:
    """The name `scope/parameter` of a parameter of transformers' class.

    Raises:
        ValueError: if the kind has no such parameter.
    """
    scopes = {
        "perceiver.embeddings.latents": f"{kind.encoder}/~/trainable_position_encoding/pos_embs",
        "perceiver.encoder.cross_attention": f"{kind.encoder}/~/cross_attention",
        **kind.scopes,
    }
    if match := re.fullmatch(r"perceiver\.encoder\.self_attends\.(\d+)\.(.+)", theirs):
        number = f"_{match[1]}" if match[1] != "0" else ""
        return f"{kind.encoder}/~/self_attention{number}/{_in_layer(match[2], _SELF)}"
    for module, scope in scopes.items():
        if theirs == module:
            return scope
        if theirs.startswith(f"{module}."):
            rest = theirs.removeprefix(f"{module}.")
            if scope.endswith("cross_attention"):
                return f"{scope}/{_in_layer(rest, _CROSS)}"
            is_norm = scope.endswith("batchnorm")
            return (
                f"{scope}/{({'weight': 'scale', 'bias': 'offset'} if is_norm else {'weight': 'w', 'bias': 'b'})[rest]}"
            )
    raise ValueError(f"DeepMind's {kind.name} has no {theirs}")


def _in_layer(name: str, norms: Mapping[str, str]) -> str:
    module, parameter = name.rsplit(".", 1)
    if module in norms:
        return f"{norms[module]}/{'scale' if parameter == 'weight' else 'offset'}"
    return f"{_PARTS[module]}/{'w' if parameter == 'weight' else 'b'}"


def from_haiku(parameters: Mapping[str, Tensor], kind: Kind, backend: nn.Module) -> Parameters:
    """Parameters of a pickle under the names of our backend model.

    Raises:
        ValueError: if one is missing, has another size, or has no name of ours.
    """
    left = {name: value for name, value in parameters.items() if not name.endswith(("/hidden", "var_ema/counter"))}
    own = backend.state_dict()
    result = {}
    for ours, theirs in perceiver_names(own, kind.weights.modules).items():
        name = haiku_name(theirs, kind)
        if name not in left:
            raise ValueError(f"the parameter {name} is missing")
        value = left.pop(name)
        if name.endswith("/w"):
            value = rearrange(value, "i o -> o i" if value.ndim == 2 else "h w i o -> o i h w")
        if value.numel() != own[ours].numel():
            raise ValueError(
                f"the parameter {name} has the shape {tuple(value.shape)}, expected {tuple(own[ours].shape)}"
            )
        result[ours] = value.reshape(own[ours].shape)  # norms of images are (1, 1, 1, C), 1x1 convolutions are linear
    if left:
        raise ValueError(f"the parameter {next(iter(left))} can't be converted: our {kind.name} has none like it")
    return result


def official_config(parameters: Mapping[str, Tensor], kind: Kind, given: Mapping[str, Any]) -> PerceiverConfig:
    """The configuration of transformers' class: what shapes tell, what is given, and DeepMind's values for the rest.

    Raises:
        ValueError: if something else is given than shapes tell, or there is no such field.
    """

    def size(theirs: str, dim: int) -> int:
        name = haiku_name(theirs, kind)
        if name not in parameters or parameters[name].ndim <= dim:
            raise ValueError(f"the parameter {name} is missing")
        return parameters[name].shape[dim]

    layers = "perceiver.encoder.self_attends"
    self_query = size(f"{layers}.0.attention.self.query.weight", 1)
    self_value = size(f"{layers}.0.attention.self.value.weight", 1)
    num_layers = sum(re.search(r"~/self_attention(_\d+)?/mlp/linear/w$", name) is not None for name in parameters)
    told: dict[str, Any] = {
        "num_latents": size("perceiver.embeddings.latents", 0),
        "d_latents": size("perceiver.embeddings.latents", 1),
        "d_model": size("perceiver.encoder.cross_attention.attention.self.key.weight", 0),
        "num_self_attends_per_block": num_layers,
    }
    if kind.model_class is mlm.PerceiverMaskedLanguageModel:
        told |= {"vocab_size": size(f"{_PREPROCESSOR}.embeddings.weight", 0)}
        told |= {"max_position_embeddings": size(f"{_PREPROCESSOR}.position_embeddings.weight", 0)}
        told |= {"qk_channels": self_query, "v_channels": self_value}
    if f"{_DECODER}.output_position_encodings.position_embeddings" in kind.scopes:
        told |= {"num_labels": size(f"{_DECODER}.final_layer.weight", 1)}
    if kind.mark == "image_preprocessor/~/conv2_d/w":
        told |= {"image_size": isqrt(size(f"{_PREPROCESSOR}.position_embeddings.position_embeddings", 0))}
    if kind.model_class is multimodal.PerceiverMultimodalAutoencoder:
        modality = "perceiver.output_postprocessor.modalities"
        told |= {
            "num_labels": size(f"{modality}.label.classifier.weight", 1),
            "samples_per_patch": size(f"{modality}.audio.classifier.weight", 1),
            "output_num_channels": size(f"{_DECODER}.final_layer.weight", 1),
        }
        label = "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"
        told |= {"_label_trainable_num_channels": size(label, 1)}
    for name, value in given.items():
        if name in told and told[name] != value:
            raise ValueError(f"{name}={value!r} was given, but the parameters say {told[name]!r}")
        if not hasattr(PerceiverConfig(), name):
            raise ValueError(f"there is no argument {name}: arguments are those of transformers.PerceiverConfig")
    return PerceiverConfig(**{**kind.values, **given, **told})


def converted(
    parameters: Mapping[str, Tensor], kind: Kind, given: Mapping[str, Any], source: str
) -> PerceiverBackendModel:
    """Our model with the parameters of a pickle."""
    config = official_config(parameters, kind, given)
    names: dict[str, Any] = {}
    if kind.model_class is mlm.PerceiverMaskedLanguageModel:
        names["tokenizer_class"] = "PerceiverTokenizer"
    backend_config = kind.adapted(kind.weights.config(config))
    model = kind.model_class(kind.model_class.config_class(backend_config, **names))
    load_parameters(model.backend_model, from_haiku(parameters, kind, model.backend_model), source)
    return model.eval()
