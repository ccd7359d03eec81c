"""Configurations and adapters of the multimodal autoencoder: what becomes of video, audio and label (`backend.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, QueryProvider, TrainableQueryProvider
from perceiver.model.core.config import DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.linear import Linear
from perceiver.model.core.position import FourierPositionEncoding

Modality = Literal["audio", "video", "label"]
MODALITIES: tuple[Modality, ...] = ("audio", "video", "label")  # in the order of the inputs


@dataclass
class MultimodalEncoderConfig(EncoderConfig):
    """Encoder of all modalities. Query/key channels of its cross-attention are by default the input channels C.

    Attributes:
        num_modality_channels: Learned channels of the modality with the most others. Their sum is C.
    """

    num_modality_channels: int = 4

    qk_channels_of_input = True


@dataclass
class MultimodalDecoderConfig(DecoderConfig):
    """Decoder of all modalities.

    Attributes:
        num_classes: Number of classes of the label.
        num_label_query_channels: Channels of the label's output query, which is learned.
        num_modality_channels: Learned channels of the modality whose query has the most others. Their sum is F.
        num_output_channels: Channels that video, audio and label are projected from.
    """

    num_classes: int = 700
    num_label_query_channels: int = 1024
    num_modality_channels: int = 2
    num_output_channels: int = 512


@dataclass
class MultimodalAutoencoderConfig(PerceiverIOConfig):
    """Multimodal autoencoder.

    Attributes:
        video_shape: Frames, height, width and channels of videos.
        video_patch_size: Height and width of a patch. Height and width of videos are multiples of it.
        num_video_frequency_bands: Frequencies of the Fourier features of pixels and patches, per dimension.
        num_audio_samples: Samples of the sound of a video.
        audio_patch_size: Samples of a patch. The number of samples is a multiple of it.
        num_audio_frequency_bands: Frequencies of the Fourier features of audio patches.
    """

    encoder: MultimodalEncoderConfig
    decoder: MultimodalDecoderConfig
    video_shape: tuple[int, int, int, int] = (16, 224, 224, 3)
    video_patch_size: int = 4
    num_video_frequency_bands: int = 32
    num_audio_samples: int = 30720
    audio_patch_size: int = 16
    num_audio_frequency_bands: int = 192

    def __post_init__(self) -> None:
        super().__post_init__()
        _, height, width, _ = self.video_shape
        if height % self.video_patch_size or width % self.video_patch_size:
            raise ValueError(
                f"video_patch_size={self.video_patch_size} must divide height and width of "
                f"video_shape={self.video_shape}"
            )
        if self.num_audio_samples % self.audio_patch_size:
            raise ValueError(
                f"audio_patch_size={self.audio_patch_size} must divide num_audio_samples={self.num_audio_samples}"
            )

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """Patches of a video: frames, rows, columns."""
        num_frames, height, width, _ = self.video_shape
        return num_frames, height // self.video_patch_size, width // self.video_patch_size

    @property
    def num_audio_patches(self) -> int:
        return self.num_audio_samples // self.audio_patch_size


def position_encodings(config: MultimodalAutoencoderConfig) -> dict[Modality, FourierPositionEncoding]:
    """Of inputs and outputs alike: pixels have the frequencies of video patches, audio patches those of samples."""
    return {
        "audio": FourierPositionEncoding((config.num_audio_samples,), config.num_audio_frequency_bands),
        "video": FourierPositionEncoding(config.video_grid, config.num_video_frequency_bands),
    }


def modality_vectors(num_channels: dict[Modality, int]) -> nn.ModuleDict:
    """A learned vector (1, 1, channels) for each modality."""
    return nn.ModuleDict({modality: TrainableQueryProvider(1, n) for modality, n in num_channels.items()})


class MultimodalInputAdapter(InputAdapter):
    """Video, audio and label -> (B, M, C), audio first, label last."""

    def __init__(self, config: MultimodalAutoencoderConfig):
        encodings = position_encodings(config)
        num_patch_channels = config.video_patch_size**2 * config.video_shape[-1]
        num_channels: dict[Modality, int] = {
            "audio": config.audio_patch_size + encodings["audio"].num_position_encoding_channels(),
            "video": num_patch_channels + encodings["video"].num_position_encoding_channels(),
            "label": config.decoder.num_classes,
        }
        super().__init__(max(num_channels.values()) + config.encoder.num_modality_channels)
        self.config = config
        self.position_encodings = encodings
        self.padding = modality_vectors({name: self.num_input_channels - n for name, n in num_channels.items()})
        self.mask = modality_vectors(dict.fromkeys(MODALITIES, self.num_input_channels))

    def forward(
        self, video: Tensor | None, audio: Tensor | None, label: Tensor | None, label_mask: Tensor | None = None
    ) -> Tensor:
        """See `MultimodalAutoencoder.encode`."""
        batch_size = self._checked_batch_size(video, audio, label, label_mask)
        inputs = {
            "audio": None if audio is None else self.audio_patches(audio),
            "video": None if video is None else self.video_patches(video),
            "label": None if label is None else rearrange(label, "b c -> b 1 c"),
        }
        sizes = {"audio": self.config.num_audio_patches, "video": prod(self.config.video_grid), "label": 1}
        result = []
        for modality in MODALITIES:
            mask, x = self.mask[modality](), inputs[modality]
            if x is None:
                x = mask.expand(batch_size, sizes[modality], -1)
            else:
                padding = self.padding[modality]().expand(*x.shape[:2], -1)
                x = torch.cat([x.to(padding.dtype), padding], dim=-1)  # B M C
                if modality == "label" and label_mask is not None:
                    x = torch.where(rearrange(label_mask, "b -> b 1 1"), mask, x)
            result.append(x)
        x = torch.cat(result, dim=1)
        if torch.is_grad_enabled():
            # A vector that this batch has no use for has a gradient of zero: without one, distributed training stops.
            x = x + 0.0 * torch.stack([vector.sum() for vector in self.parameters()]).sum()
        return x

    def audio_patches(self, audio: Tensor) -> Tensor:
        """(B, samples) -> patches with Fourier features of their positions"""
        x = rearrange(audio, "b (m s) -> b m s", s=self.config.audio_patch_size)
        codes = self.position_encodings["audio"](x.shape[0], shape=(x.shape[1],), device=x.device)
        return torch.cat([x, codes.to(x.dtype)], dim=-1)

    def video_patches(self, video: Tensor) -> Tensor:
        """(B, T, H, W, channels) -> patches with Fourier features of their positions"""
        size = self.config.video_patch_size
        x = rearrange(video, "b t (h p) (w q) c -> b (t h w) (p q c)", p=size, q=size)
        codes = self.position_encodings["video"](x.shape[0], device=x.device)
        return torch.cat([x, codes.to(x.dtype)], dim=-1)

    def _checked_batch_size(
        self, video: Tensor | None, audio: Tensor | None, label: Tensor | None, label_mask: Tensor | None
    ) -> int:
        config = self.config
        inputs = {
            "video": (video, config.video_shape),
            "audio": (audio, (config.num_audio_samples,)),
            "label": (label, (config.decoder.num_classes,)),
        }
        batch_sizes = {modality: x.shape[:1] for modality, (x, _) in inputs.items() if x is not None}
        if not batch_sizes:
            raise ValueError("there must be video, audio or label")
        (first, batch_size), *_ = batch_sizes.items()
        for modality, (x, shape) in inputs.items():
            if x is not None and (x.shape != batch_size + shape or not x.is_floating_point()):
                raise ValueError(
                    f"{modality} is {x.dtype} {tuple(x.shape)}, expected floating point (batch size, "
                    f"{', '.join(map(str, shape))}), and the batch size of {first}"
                )
        if label_mask is not None and (
            label is None or label_mask.dtype != torch.bool or label_mask.shape != batch_size
        ):
            raise ValueError(
                f"label_mask is {label_mask.dtype} {tuple(label_mask.shape)}, expected torch.bool {tuple(batch_size)}, "
                "together with a label"
            )
        return batch_size[0]


class MultimodalQueryProvider(QueryProvider):
    """Output queries: Fourier features of points, or a learned vector for the label, filled up to F channels."""

    def __init__(self, config: MultimodalAutoencoderConfig):
        encodings = position_encodings(config)
        num_channels: dict[Modality, int] = {
            "audio": encodings["audio"].num_position_encoding_channels(),
            "video": encodings["video"].num_position_encoding_channels(),
            "label": config.decoder.num_label_query_channels,
        }
        super().__init__(max(num_channels.values()) + config.decoder.num_modality_channels)
        self.grids = {"audio": (config.num_audio_patches,), "video": config.video_shape[:3], "label": (1,)}
        self.position_encodings = encodings
        self.label_query = TrainableQueryProvider(1, config.decoder.num_label_query_channels)
        self.padding = modality_vectors({name: self.num_query_channels - n for name, n in num_channels.items()})

    def forward(self, modality: Modality, points: Tensor) -> Tensor:  # type: ignore[override]  # those asked for
        """Points (B, P), or (1, P) for all examples -> queries (B, P, F) or (1, P, F)"""
        if modality == "label":
            query = self.label_query(points)
        else:
            grid = self.grids[modality]
            index = torch.stack(torch.unravel_index(points, grid), dim=-1)  # B P dimensions
            # From -1 to almost 1, as in the official model; those of the inputs go from -1 to 1.
            positions = -1 + 2 * index / torch.tensor(grid, device=points.device)
            query = self.position_encodings[modality].encode(positions)
        padding = self.padding[modality]().expand(*query.shape[:2], -1)
        return torch.cat([query.to(padding.dtype), padding], dim=-1)


class MultimodalOutputAdapter(nn.Module):
    """Pixels, samples or logits from two linear layers, the second one of the modality's own."""

    def __init__(self, config: MultimodalAutoencoderConfig, *, num_query_channels: int):
        super().__init__()
        num_channels = config.decoder.num_output_channels
        sizes = {
            "audio": config.audio_patch_size,
            "video": config.video_shape[-1],
            "label": config.decoder.num_classes,
        }
        self.linear = Linear(num_query_channels, num_channels)
        self.heads = nn.ModuleDict({modality: Linear(num_channels, size) for modality, size in sizes.items()})

    def forward(self, x: Tensor, *, modality: Modality) -> Tensor:
        """(B, P, F) -> (B, P, size of an output of the modality)"""
        y: Tensor = self.heads[modality](self.linear(x))
        return y
