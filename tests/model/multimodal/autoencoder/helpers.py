"""A tiny multimodal autoencoder with pairwise different sizes, and inputs for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceiver.model.multimodal.autoencoder.backend import (
    MultimodalAutoencoder,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
)
from tests.model.helpers import randomise_vectors

T, H, W, CHANNELS, PATCH = 5, 4, 6, 3, 2  # a grid of 5 x 2 x 3 patches
SAMPLES, AUDIO_PATCH = 21, 3  # 7 patches
CLASSES = 11
CLOSE = {"atol": 5e-5, "rtol": 1e-5}  # outputs are of size 10


def mm_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> MultimodalAutoencoderConfig:
    """C is 2 * 2 * 3 + 3 * (2 * 2 + 1) + 2 = 29, F is 3 * (2 * 2 + 1) + 1 = 16."""
    encoder_values: dict[str, Any] = {
        "num_modality_channels": 2,
        "num_cross_attention_heads": 1,
        "num_self_attention_heads": 4,
        "num_self_attention_layers_per_block": 2,
        "init_scale": 0.3,
    }
    decoder_values: dict[str, Any] = {
        "num_classes": CLASSES,
        "num_label_query_channels": 13,
        "num_modality_channels": 1,
        "num_output_channels": 17,
        "num_cross_attention_heads": 2,
        "num_cross_attention_qk_channels": 10,
        "num_cross_attention_v_channels": 6,
        "cross_attention_residual": False,
        "init_scale": 0.4,
    }
    values: dict[str, Any] = {
        "num_latents": 8,
        "num_latent_channels": 20,
        "video_shape": (T, H, W, CHANNELS),
        "video_patch_size": PATCH,
        "num_video_frequency_bands": 2,
        "num_audio_samples": SAMPLES,
        "audio_patch_size": AUDIO_PATCH,
        "num_audio_frequency_bands": 4,
    }
    return MultimodalAutoencoderConfig(
        MultimodalEncoderConfig(**(encoder_values | (encoder or {}))),
        MultimodalDecoderConfig(**(decoder_values | (decoder or {}))),
        **(values | kwargs),
    )


def mm_model(config: MultimodalAutoencoderConfig | None = None, seed: int = 0) -> MultimodalAutoencoder:
    torch.manual_seed(seed)
    model = MultimodalAutoencoder(config or mm_config())
    randomise_vectors(model)
    return model.eval()


def clips(batch_size: int = 2) -> dict[str, Tensor]:
    """Video, audio and label, as the model takes them."""
    return {
        "video": torch.rand(batch_size, T, H, W, CHANNELS),
        "audio": torch.rand(batch_size, SAMPLES) * 2 - 1,
        "label": torch.eye(CLASSES)[torch.arange(batch_size) * 3 % CLASSES],
    }
