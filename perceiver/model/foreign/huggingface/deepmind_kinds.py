"""Which models DeepMind's pickles hold (arXiv 2107.14795), a row for each. `deepmind.py` reads them.

    perceiver_io/{language_perceiver_io_bytes.pickle, imagenet_*.pystate, optical_flow_checkpoint.pystate,
    video_autoencoding_checkpoint.pystate} on storage.googleapis.com

transformers' classes of two compute something else than DeepMind's code, which ours don't:

* the learned position classifier's decoder has no query residual (`imagenet_classification.ipynb`), transformers' has;
* the convolution of the conv classifier is padded as "SAME", and its kernels are (height, width, in, out);
  transformers pads otherwise, and its script exchanges height and width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from perceiver.model.core.config import Config
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.official import OfficialWeights
from perceiver.model.multimodal.autoencoder import huggingface as multimodal
from perceiver.model.text.mlm import huggingface as mlm
from perceiver.model.vision.image_classifier import huggingface as image_classifier
from perceiver.model.vision.image_classifier.backend import ImageClassifierConfig
from perceiver.model.vision.optical_flow import huggingface as optical_flow

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
        scopes: Modules of transformers: scopes, for what is not in the encoder. Names of parameters are among them.
        values: Configuration of transformers' class, where it differs from its defaults.
        sizes: Fields of that configuration, besides those that all kinds have: a parameter of transformers' class, and
            the dimension of Haiku's that tells the field.
        encoder: Scope of the encoder.
        adapted: What becomes of our configuration, where DeepMind's code is not transformers'.
        is_transformers: Whether transformers' class computes the same.
    """

    name: str
    mark: str
    model_class: type[PerceiverBackendModel]
    weights: OfficialWeights
    scopes: Mapping[str, str]
    values: Mapping[str, Any]
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
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
_CLASSES = {"num_labels": (f"{_DECODER}.final_layer.weight", 1)}
_CONV = "image_preprocessor/~/conv2_d_downsample/~"
_NETWORK_INPUTS = "image_preprocessor/~_build_network_inputs"
_MODALITIES = "perceiver.output_postprocessor.modalities"
_LABEL_QUERY = "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"


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
        sizes={
            "vocab_size": (f"{_PREPROCESSOR}.embeddings.weight", 0),
            "max_position_embeddings": (f"{_PREPROCESSOR}.position_embeddings.weight", 0),
            "qk_channels": ("perceiver.encoder.self_attends.0.attention.self.query.weight", 1),
            "v_channels": ("perceiver.encoder.self_attends.0.attention.self.value.weight", 1),
        },
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
            _LABEL_QUERY: "classification_decoder/~/basic_decoder/~/trainable_position_encoding/pos_embs",
            **{
                f"{_MODALITIES}.{modality}.classifier": f"{scope}_postprocessor/linear"
                for modality, scope in (("audio", "audio"), ("image", "projection"), ("label", "classification"))
            },
        },
        {"num_self_attention_heads": 8, "num_cross_attention_heads": 1},
        sizes={
            "num_labels": (f"{_MODALITIES}.label.classifier.weight", 1),
            "samples_per_patch": (f"{_MODALITIES}.audio.classifier.weight", 1),
            "output_num_channels": (f"{_DECODER}.final_layer.weight", 1),
            "_label_trainable_num_channels": (_LABEL_QUERY, 1),
        },
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
        sizes={**_CLASSES, "image_size": (f"{_PREPROCESSOR}.position_embeddings.position_embeddings", 0)},
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
        sizes=_CLASSES,
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
        sizes=_CLASSES,
    ),
)


def recognised_kind(names: Iterable[str]) -> Kind | None:
    """The model that has these parameters."""
    names = set(names)
    has_encoder = any(re.match(r"(perceiver_)?encoder/~/cross_attention/", name) for name in names)
    return next((kind for kind in KINDS if has_encoder and kind.mark in names), None)
