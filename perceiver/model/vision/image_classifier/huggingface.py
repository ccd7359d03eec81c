"""Image classifier for Hugging Face: Auto classes, image-classification pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PerceiverConfig,
    PerceiverForImageClassificationConvProcessing,
    PerceiverForImageClassificationFourier,
    PerceiverForImageClassificationLearned,
)
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.models.perceiver.modeling_perceiver import PerceiverClassifierOutput

from perceiver.model.huggingface.body import PerceiverBody
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter, model_converter
from perceiver.model.huggingface.forward import model_forward
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.official import (
    OFFICIAL_CLASSIFIER,
    OfficialWeights,
    encoder_fields,
    official_classification_decoder,
)
from perceiver.model.vision.image_classifier.backend import (
    ADAPTERS,
    ImageClassifier,
    ImageClassifierConfig,
    ImageEncoderConfig,
)
from perceiver.processing.image import MNISTPreprocessor, PerceiverImageClassifierInputProcessor
from perceiver.tasks import TASKS

PerceiverImageClassifierConfig = config_class(TASKS["image-classifier"])


class PerceiverImageClassifierBody(PerceiverBody):
    """Encoder of an image classifier, registered with `AutoModel`."""

    config_class = PerceiverImageClassifierConfig
    backend_class = ImageClassifier
    main_input_name = "pixel_values"

    @model_forward()
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithCrossAttentions:
        """Images (B, H, W, channels) -> latents (B, N, D)"""
        return self.output(self.backend_model.encoder(pixel_values))


class PerceiverImageClassifier(PerceiverClassifier):
    """Image classifier, registered with `AutoModelForImageClassification`."""

    config_class = PerceiverImageClassifierConfig
    backend_class = ImageClassifier
    body_class = PerceiverImageClassifierBody
    backend_model: ImageClassifier
    main_input_name = "pixel_values"

    @model_forward()
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> PerceiverClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: Images (B, H, W, channels) as `PerceiverImageClassifierInputProcessor` makes them.
            labels: They give the loss. What they are is said by `config.problem_type`, see `classification_loss`; where
                that is None, the first labels set it, as in transformers.
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.

        Returns:
            `loss`, if there are labels. `logits`: (B, classes), or (B, O, classes) for more than one output query.
        """
        logits = self.backend_model(pixel_values)
        return PerceiverClassifierOutput(loss=self.loss(logits, labels), logits=logits)

    def official_processor(self, source: str | Path) -> PerceiverImageClassifierInputProcessor:
        """Ours with the settings of the official one, whose images have their channels first."""
        settings, _ = PerceiverImageClassifierInputProcessor.get_image_processor_dict(source)
        for name in ("image_processor_type", "feature_extractor_type"):
            settings.pop(name, None)
        return PerceiverImageClassifierInputProcessor(**settings | {"channels_last": True})


def official_backend_config(encoder: ImageEncoderConfig, config: PerceiverConfig) -> ImageClassifierConfig:
    """`encoder` is what the class of the model fixes, and not its configuration."""
    if encoder.adapter == "learned":
        assert isinstance(config.image_size, int)  # as in transformers, which squares it
        encoder = replace(encoder, image_shape=(config.image_size, config.image_size, 3))
    with torch.device("meta"):
        num_input_channels = ADAPTERS[encoder.adapter](encoder).num_input_channels
    return ImageClassifierConfig(
        replace(encoder, **encoder_fields(config, num_input_channels)),
        official_classification_decoder(config),
        num_latents=config.num_latents,
        num_latent_channels=config.d_latents,
    )


_PREPROCESSOR = "perceiver.input_preprocessor"
OFFICIAL = (
    OfficialWeights(
        PerceiverForImageClassificationFourier,
        partial(official_backend_config, ImageEncoderConfig(adapter="fourier", num_frequency_bands=64)),
        modules=OFFICIAL_CLASSIFIER,
    ),
    OfficialWeights(
        PerceiverForImageClassificationLearned,
        partial(official_backend_config, ImageEncoderConfig(adapter="learned", num_adapter_channels=256)),
        modules={
            **OFFICIAL_CLASSIFIER,
            "0.input_adapter.linear": f"{_PREPROCESSOR}.convnet_1x1",
            "0.input_adapter.pos_embedding.weight": f"{_PREPROCESSOR}.position_embeddings.position_embeddings",
            "0.input_adapter.pos_projection": f"{_PREPROCESSOR}.positions_projection",
        },
    ),
    OfficialWeights(
        PerceiverForImageClassificationConvProcessing,
        partial(
            official_backend_config,
            ImageEncoderConfig(adapter="conv", num_frequency_bands=64, num_adapter_channels=64),
        ),
        modules={
            **OFFICIAL_CLASSIFIER,
            "0.input_adapter.conv": f"{_PREPROCESSOR}.convnet.conv",
            "0.input_adapter.norm": f"{_PREPROCESSOR}.convnet.batchnorm",
        },
    ),
)
convert_checkpoint = checkpoint_converter(PerceiverImageClassifier)
convert_model = model_converter(PerceiverImageClassifier, *OFFICIAL)


def convert_mnist_classifier_checkpoint(save_dir: str | Path, ckpt_url: str | Path, **kwargs: Any) -> None:
    """`convert_checkpoint` of a classifier of MNIST digits: grayscale images of -1 to 1, classes 0 to 9."""
    image_processor = MNISTPreprocessor().image_processor
    convert_checkpoint(save_dir, ckpt_url, image_processor, id2label={i: i for i in range(10)}, **kwargs)


register_model(PerceiverImageClassifier)
