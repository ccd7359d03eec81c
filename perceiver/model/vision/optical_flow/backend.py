"""Perceiver IO optical flow (arXiv 2107.14795, section 4.2 and appendix H).

    features of two frames (B, 2, 27, H, W) -> input adapter -> (B, M, C), M = H * W -> encoder -> latents (B, N, D)
    the same (B, M, C) as output queries -> decoder -> flow (B, H, W, 2)

The features of a pixel are the 3x3 pixels around it, of both frames. Flow is where a pixel of the first frame is in the
second one, relative to where it was: x (right) first, y (down) second, in units of `PIXELS_PER_UNIT` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, QueryProvider
from perceiver.model.core.config import DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.linear import Linear
from perceiver.model.core.perceiver_io import PerceiverIO, assemble
from perceiver.model.core.position import FourierPositionEncoding

NUM_FRAMES = 2
PIXELS_PER_UNIT = 20.0  # the official model was trained on flow that was divided by it


@dataclass
class OpticalFlowEncoderConfig(EncoderConfig):
    """Encoder of two frames. Query/key channels of its cross-attention are by default the input channels C.

    Attributes:
        image_shape: Height and width of frames.
        num_patch_input_channels: Features of a pixel in one frame.
        num_patch_hidden_channels: Channels that the features of a pixel in both frames are projected to.
        num_frequency_bands: Frequencies of the Fourier features, per dimension.
    """

    image_shape: tuple[int, int] = (368, 496)
    num_patch_input_channels: int = 27
    num_patch_hidden_channels: int = 64
    num_frequency_bands: int = 64

    qk_channels_of_input = True


@dataclass
class OpticalFlowDecoderConfig(DecoderConfig):
    """Decoder whose queries are the encoder's inputs.

    Attributes:
        image_shape: Height and width of frames, the encoder's.
        rescale_factor: What outputs are divided by.
    """

    image_shape: tuple[int, int] = (368, 496)
    rescale_factor: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rescale_factor:
            raise ValueError("rescale_factor=0 must be positive: outputs are divided by it")


@dataclass
class OpticalFlowConfig(PerceiverIOConfig):
    """Optical flow."""

    encoder: OpticalFlowEncoderConfig
    decoder: OpticalFlowDecoderConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.image_shape != self.decoder.image_shape:
            raise ValueError(
                f"encoder.image_shape={self.encoder.image_shape} and decoder.image_shape={self.decoder.image_shape} "
                "must be equal"
            )


def perceiver_io_optical_flow() -> OpticalFlowConfig:
    """41,057,134 parameters, the geometry of `deepmind/optical-flow-perceiver`: arXiv 2107.14795, appendix H."""
    return OpticalFlowConfig(
        encoder=OpticalFlowEncoderConfig(
            num_cross_attention_heads=1,
            num_self_attention_heads=16,
            num_self_attention_layers_per_block=24,
            dropout=0.1,
        ),
        decoder=OpticalFlowDecoderConfig(
            num_cross_attention_heads=1,
            num_cross_attention_qk_channels=512,
            num_cross_attention_v_channels=512,
            cross_attention_residual=False,
            dropout=0.1,
        ),
        num_latents=2048,
        num_latent_channels=512,
    )


class OpticalFlowInputAdapter(InputAdapter):
    """Features (B, 2, features, H, W), projected, with Fourier features of their positions -> (B, H * W, C)"""

    def __init__(self, config: OpticalFlowEncoderConfig):
        encoding = FourierPositionEncoding(config.image_shape, config.num_frequency_bands)
        super().__init__(config.num_patch_hidden_channels + encoding.num_position_encoding_channels())
        self.linear = Linear(NUM_FRAMES * config.num_patch_input_channels, config.num_patch_hidden_channels)
        self.position_encoding = encoding

    def forward(self, x: Tensor) -> Tensor:
        codes = self.position_encoding(x.shape[0], shape=tuple(x.shape[-2:]), device=x.device)
        x = self.linear(rearrange(x, "b t c h w -> b (h w) (t c)"))
        return torch.cat([x, codes.to(x.dtype)], dim=-1)


class OpticalFlowOutputAdapter(nn.Module):
    """Flow from a linear layer."""

    def __init__(self, *, num_query_channels: int, rescale_factor: float):
        super().__init__()
        self.linear = Linear(num_query_channels, 2)
        self.rescale_factor = rescale_factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, F) -> (B, O, 2)"""
        return self.linear(x) / self.rescale_factor


class OpticalFlow(PerceiverIO):
    """Optical flow between two frames."""

    def __init__(self, config: OpticalFlowConfig):
        input_adapter = OpticalFlowInputAdapter(config.encoder)
        num_channels = input_adapter.num_input_channels  # the decoder's queries are the encoder's inputs
        output_adapter = OpticalFlowOutputAdapter(
            num_query_channels=num_channels, rescale_factor=config.decoder.rescale_factor
        )
        super().__init__(*assemble(config, input_adapter, output_adapter, QueryProvider(num_channels)))
        self.config = config

    def forward(self, x: Tensor, decode_at_once: int = 2**15) -> Tensor:  # type: ignore[override]  # frames, no padding
        """Estimates flow.

        Args:
            x: Features of two frames (B, 2, features, H, W), floating point. Height and width may differ from those of
                `image_shape`, which the official model was not trained for.
            decode_at_once: Pixels of an example that are decoded at a time: the fewer, the less memory is needed.
                Values are equal.

        Returns:
            Flow (B, H, W, 2) in units of `PIXELS_PER_UNIT` pixels.
        """
        num_features = self.config.encoder.num_patch_input_channels
        is_pair = x.ndim == 5 and x.shape[1:3] == (NUM_FRAMES, num_features) and 0 not in x.shape[3:]
        if not is_pair or not x.is_floating_point():
            raise ValueError(
                f"frames are {x.dtype} {tuple(x.shape)}, expected floating point "
                f"(batch size, {NUM_FRAMES}, {num_features}, height, width)"
            )
        if decode_at_once < 1:
            raise ValueError(f"decode_at_once={decode_at_once} must be at least 1")
        height = x.shape[-2]
        x = self.encoder.input_adapter(x)  # B M C
        latents = self.encoder(x, adapted=True)  # B N D
        flow = torch.cat([self.decoder(latents, query) for query in torch.split(x, decode_at_once, dim=1)], dim=1)
        return rearrange(flow, "b (h w) c -> b h w c", h=height)


def end_point_error(flow: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each pixel's end point from the true one.

    Args:
        flow: (B, H, W, 2) in units of `PIXELS_PER_UNIT` pixels, as the model returns it.
        target: (B, H, W, 2) in pixels. Where it is not finite, flow is unknown.

    Returns:
        Errors in pixels (B, H, W), float32, 0 where flow is unknown, and whether it is known, (B, H, W).
    """
    if flow.shape != target.shape:
        raise ValueError(f"flow has shape {tuple(flow.shape)}, its target {tuple(target.shape)}: they must be equal")
    known = target.isfinite().all(dim=-1)
    difference = (flow.float() * PIXELS_PER_UNIT - target.float()).where(known[..., None], 0.0)
    return torch.linalg.vector_norm(difference, dim=-1), known


def flow_loss(flow: Tensor, target: Tensor) -> Tensor:
    """Mean end-point error in pixels, over pixels whose flow is known; 0 if there are none. See `end_point_error`."""
    errors, known = end_point_error(flow, target)
    return errors.sum() / known.sum().clamp(min=1)


def outlier_rate(flow: Tensor, target: Tensor) -> Tensor:
    """Share of pixels that are off by more than 3 pixels and more than 5 % of their motion (KITTI 2015, "Fl").

    Arguments are those of `end_point_error`.
    """
    errors, known = end_point_error(flow, target)
    length = torch.linalg.vector_norm(target.float(), dim=-1)
    outliers = (errors > 3.0) & (errors > 0.05 * length) & known
    return outliers.sum() / known.sum().clamp(min=1)
