"""Tiny image classifiers with pairwise different sizes, and the recorded ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.vision.image_classifier.backend import ImageClassifier, ImageClassifierConfig, ImageEncoderConfig
from tests.model.helpers import GOLDEN, randomise_vectors

MODELS = ("img_clf_mnist", "img_clf_fourier")
MNIST, FOURIER = (GOLDEN / name for name in MODELS)
SOURCES = [MNIST / "hub", MNIST / "lit.ckpt", MNIST / "lit_080.ckpt", FOURIER / "hub", FOURIER / "lit.ckpt"]
KINDS = ("fourier", "learned", "conv")

H, W = 11, 13  # pixels


def img_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> ImageClassifierConfig:
    """C is 17 (fourier), 18 (learned) or 23 (conv)."""
    encoder_values: dict[str, Any] = {
        "image_shape": (H, W, 3),
        "num_frequency_bands": 3,
        "num_adapter_channels": 9,
        "num_cross_attention_heads": 1,
        "num_self_attention_heads": 4,
        "num_self_attention_layers_per_block": 2,
        "init_scale": 0.3,
    }
    decoder_values: dict[str, Any] = {
        "num_classes": 5,
        "num_output_query_channels": 14,
        "num_cross_attention_heads": 2,
        "init_scale": 0.4,
    }
    return ImageClassifierConfig(
        ImageEncoderConfig(**(encoder_values | (encoder or {}))),
        ClassificationDecoderConfig(**(decoder_values | (decoder or {}))),
        **({"num_latents": 6, "num_latent_channels": 20} | kwargs),
    )


def img_model(config: ImageClassifierConfig | None = None, seed: int = 0) -> ImageClassifier:
    """All parameters are random, and so are the statistics of a batch norm."""
    torch.manual_seed(seed)
    model = ImageClassifier(config or img_config())
    randomise_vectors(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def images(batch_size: int = 2, height: int = H, width: int = W, channels: int = 3) -> Tensor:
    return torch.randn(batch_size, height, width, channels)
