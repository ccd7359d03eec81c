"""A tiny model of optical flow with pairwise different sizes, and the recorded one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceiver.model.vision.optical_flow.backend import (
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
)
from tests.model.helpers import GOLDEN, randomise_vectors

FLOW = GOLDEN / "optical_flow"
HUB = FLOW / "hub"

H, W = 7, 11  # pixels


def flow_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> OpticalFlowConfig:
    """C is 5 + 2 * (2 * 3 + 1) = 19."""
    encoder_values: dict[str, Any] = {
        "image_shape": (H, W),
        "num_patch_hidden_channels": 5,
        "num_frequency_bands": 3,
        "num_cross_attention_heads": 1,
        "num_self_attention_heads": 4,
        "num_self_attention_layers_per_block": 2,
        "init_scale": 0.3,
    }
    decoder_values: dict[str, Any] = {
        "image_shape": (H, W),
        "num_cross_attention_heads": 2,
        "num_cross_attention_qk_channels": 8,
        "num_cross_attention_v_channels": 6,
        "cross_attention_residual": False,
        "rescale_factor": 10.0,
        "init_scale": 0.4,
    }
    return OpticalFlowConfig(
        OpticalFlowEncoderConfig(**(encoder_values | (encoder or {}))),
        OpticalFlowDecoderConfig(**(decoder_values | (decoder or {}))),
        **({"num_latents": 3, "num_latent_channels": 20} | kwargs),
    )


def flow_model(config: OpticalFlowConfig | None = None, seed: int = 0) -> OpticalFlow:
    torch.manual_seed(seed)
    model = OpticalFlow(config or flow_config())
    randomise_vectors(model)
    return model.eval()


def frames(batch_size: int = 2, height: int = H, width: int = W, features: int = 27) -> Tensor:
    return torch.randn(batch_size, 2, features, height, width)
