"""Perceiver IO image classifier (arXiv 2107.14795, section 4.5 and appendix A; Perceiver, arXiv 2103.03206).

    images (B, H, W, channels) -> input adapter -> (B, M, C) -> encoder -> latents (B, N, D) -> decoder -> logits

The input adapter is one of three, as in the paper's table 6:

    fourier   every pixel with the Fourier features of its position
    learned   every pixel, after a 1x1 convolution, with a learned position
    conv      convolution and pooling to a quarter of height and width, then Fourier features of the positions
    conv_same the same, padded as in DeepMind's code; transformers, and so `conv`, pads otherwise

Images of another size than the model was made for are taken, too: the same positions from -1 to 1, more or less dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter
from perceiver.model.core.classification import classification_output
from perceiver.model.core.config import SINCE_1_0, ClassificationDecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.linear import Linear
from perceiver.model.core.perceiver_io import PerceiverIO, assemble
from perceiver.model.core.position import FourierPositionEncoding


@dataclass
class ImageEncoderConfig(EncoderConfig):
    """Encoder of images. Query/key channels of its cross-attention are by default the input channels C.

    Attributes:
        image_shape: Height, width and channels of images.
        num_frequency_bands: Frequencies of the Fourier features, per dimension (all but learned).
        adapter: What becomes of an image: see the module's docstring.
        num_adapter_channels: Channels of the convolution (learned, conv and conv_same), and of a learned position.
    """

    image_shape: tuple[int, int, int] = (224, 224, 3)
    num_frequency_bands: int = 32
    adapter: Literal["fourier", "learned", "conv", "conv_same"] = field(default="fourier", metadata=SINCE_1_0)
    num_adapter_channels: int = field(default=256, metadata=SINCE_1_0)

    qk_channels_of_input = True


@dataclass
class ImageClassifierConfig(PerceiverIOConfig):
    """Image classifier."""

    encoder: ImageEncoderConfig
    decoder: ClassificationDecoderConfig


def perceiver_io_fourier() -> ImageClassifierConfig:
    """48,440,627 parameters, the geometry of `deepmind/vision-perceiver-fourier`: arXiv 2107.14795, table 6."""
    return _imagenet_config(ImageEncoderConfig(num_frequency_bands=64))


def perceiver_io_learned() -> ImageClassifierConfig:
    """62,255,848 parameters, the geometry of `deepmind/vision-perceiver-learned`: arXiv 2107.14795, table 6."""
    return _imagenet_config(ImageEncoderConfig(adapter="learned", num_adapter_channels=256))


def perceiver_io_conv() -> ImageClassifierConfig:
    """48,646,522 parameters, the geometry of `deepmind/vision-perceiver-conv`: arXiv 2107.14795, table 6."""
    return _imagenet_config(ImageEncoderConfig(adapter="conv", num_adapter_channels=64, num_frequency_bands=64))


def _imagenet_config(encoder: ImageEncoderConfig) -> ImageClassifierConfig:
    return ImageClassifierConfig(
        encoder=replace(
            encoder,
            num_cross_attention_heads=1,
            num_self_attention_layers_per_block=6,
            num_self_attention_blocks=8,
            dropout=0.1,
        ),
        decoder=ClassificationDecoderConfig(
            num_classes=1000, num_output_query_channels=1024, num_cross_attention_heads=1, dropout=0.1
        ),
        num_latents=512,
        num_latent_channels=1024,
    )


def perceiver_io_mnist() -> ImageClassifierConfig:
    """907,212 parameters, for images of 28 x 28 grey pixels: the published MNIST classifier."""
    return ImageClassifierConfig(
        encoder=ImageEncoderConfig(
            image_shape=(28, 28, 1),
            num_cross_attention_layers=2,
            num_cross_attention_heads=1,
            num_self_attention_blocks=3,
            num_self_attention_layers_per_block=3,
            first_self_attention_block_shared=False,
            dropout=0.1,
            init_scale=0.1,
        ),
        decoder=ClassificationDecoderConfig(
            num_classes=10, num_output_query_channels=128, num_cross_attention_heads=1, dropout=0.1, init_scale=0.1
        ),
        num_latents=32,
        num_latent_channels=128,
    )


def concat_positions(x: Tensor, encoding: FourierPositionEncoding) -> Tensor:
    """Features (B, H, W, channels) -> (B, H * W, channels + Fourier features)"""
    codes = encoding(x.shape[0], shape=tuple(x.shape[1:-1]), device=x.device)
    return torch.cat([rearrange(x, "b h w c -> b (h w) c"), codes.to(x.dtype)], dim=-1)


class FourierImageAdapter(InputAdapter):
    """Pixels (B, H, W, channels), with Fourier features of their positions -> (B, H * W, C)"""

    def __init__(self, config: ImageEncoderConfig):
        *shape, num_image_channels = config.image_shape
        encoding = FourierPositionEncoding(tuple(shape), config.num_frequency_bands)
        super().__init__(num_image_channels + encoding.num_position_encoding_channels())
        self.position_encoding = encoding

    def forward(self, x: Tensor) -> Tensor:
        return concat_positions(x, self.position_encoding)


class LearnedImageAdapter(InputAdapter):
    """Pixels (B, H, W, channels) through a 1x1 convolution, with learned positions -> (B, H * W, C)

    Positions of images of another size are interpolated, bicubically.
    """

    def __init__(self, config: ImageEncoderConfig):
        height, width, num_image_channels = config.image_shape
        num_channels = config.num_adapter_channels
        super().__init__(2 * num_channels)
        self.shape = (height, width)
        self.linear = Linear(num_image_channels, num_channels)
        self.pos_embedding = nn.Embedding(height * width, num_channels)
        self.pos_projection = Linear(num_channels, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        batch_size, height, width, _ = x.shape
        positions = self.pos_embedding.weight
        if (height, width) != self.shape:
            grid = rearrange(positions, "(h w) c -> 1 c h w", h=self.shape[0])
            grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
            positions = rearrange(grid, "1 c h w -> (h w) c")
        positions = self.pos_projection(positions).expand(batch_size, -1, -1)
        return torch.cat([rearrange(self.linear(x), "b h w c -> b (h w) c"), positions], dim=-1)


class ConvImageAdapter(InputAdapter):
    """Images (B, H, W, channels) through convolution and pooling, with Fourier features of positions -> (B, M, C)

    Convolution (7x7, stride 2), batch norm, ReLU, max pooling (3x3, stride 2, not padded): 224 x 224 pixels become
    55 x 55 inputs. With `conv_same` both are padded to half of height and width, as XLA's "SAME": 56 x 56 inputs. The
    frequencies are those of a grid of a quarter of `image_shape`.
    """

    MIN_SIZE = 5  # pixels, for one output of the pooling

    def __init__(self, config: ImageEncoderConfig):
        *shape, num_image_channels = config.image_shape
        self.check_size(*shape)
        encoding = FourierPositionEncoding(tuple(size // 4 for size in shape), config.num_frequency_bands)
        num_channels = config.num_adapter_channels
        super().__init__(num_channels + encoding.num_position_encoding_channels())
        self.is_same = config.adapter == "conv_same"
        padding = 0 if self.is_same else 3
        self.conv = nn.Conv2d(num_image_channels, num_channels, kernel_size=7, stride=2, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(num_channels)
        self.position_encoding = encoding

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(*x.shape[1:3])
        x = rearrange(x, "b h w c -> b c h w")
        x = self.conv(pad_same(x, 7) if self.is_same else x)
        if self.norm.weight.requires_grad:
            x = self.norm(x)
        else:  # frozen: its statistics, which are no parameters, would still follow the training data
            norm = self.norm
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        x = F.relu(x, inplace=True)
        x = F.max_pool2d(pad_same(x, 3) if self.is_same else x, kernel_size=3, stride=2)  # what is padded is no maximum
        return concat_positions(rearrange(x, "b c h w -> b h w c"), self.position_encoding)

    def check_size(self, height: int, width: int) -> None:
        if min(height, width) < self.MIN_SIZE:
            raise ValueError(f"images of {height} x {width} pixels are too small, at least 5 x 5 are needed")


def pad_same(x: Tensor, kernel_size: int) -> Tensor:
    """Pads (B, C, H, W) with zeros so that a kernel with stride 2 gives half of height and width, rounded up.

    As XLA does, what can't be halved is more on the right and below.
    """
    padding: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((math.ceil(size / 2) - 1) * 2 + kernel_size - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


ADAPTERS: dict[str, Callable[[ImageEncoderConfig], InputAdapter]] = {
    "fourier": FourierImageAdapter,
    "learned": LearnedImageAdapter,
    "conv": ConvImageAdapter,
    "conv_same": ConvImageAdapter,
}


class ImageClassifier(PerceiverIO):
    """Image classifier. `forward` takes images (B, H, W, channels) and returns logits (B, classes), or (B, O, classes)
    for more than one output query."""

    def __init__(self, config: ImageClassifierConfig):
        input_adapter = ADAPTERS[config.encoder.adapter](config.encoder)
        super().__init__(*assemble(config, input_adapter, *classification_output(config.decoder)))
        self.config = config

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # images have no padding
        """Classifies images.

        Args:
            x: Images (B, H, W, channels), floating point, normalised as in training. Height and width may differ from
                those of `image_shape`.

        Returns:
            Logits (B, classes), or (B, O, classes).
        """
        num_channels = self.config.encoder.image_shape[-1]
        if x.ndim != 4 or x.shape[-1] != num_channels or 0 in x.shape[1:3] or not x.is_floating_point():
            raise ValueError(
                f"images are {x.dtype} {tuple(x.shape)}, expected floating point "
                f"(batch size, height, width, {num_channels})"
            )
        return super().forward(x)
