"""Perceiver IO multimodal autoencoder (arXiv 2107.14795, section 4.3 and appendix I).

    video (B, T, H, W, channels) -> patches ------\\
    audio (B, samples)           -> patches -------> input adapter -> (B, M, C) -> encoder -> latents (B, N, D)
    label (B, classes), or a mask token ----------/

    latents -> decoder -> video, audio and logits of the label, all of them or those at chosen points

Video and audio patches have Fourier features of their positions. A learned vector of each modality fills up its inputs
to C channels, and its output queries to F channels. Output queries are made of positions, so they don't depend on the
inputs: the latents have to know everything. One cross-attention decodes them all.

An output point of video is a pixel of a frame, one of audio is a patch, in row-major order. Values are those of the
official model: video from 0 to 1, audio from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, QueryProvider, TrainableQueryProvider, check_range
from perceiver.model.core.config import DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.linear import Linear
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverEncoder, PerceiverIO
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

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """Patches of a video: frames, rows, columns."""
        num_frames, height, width, _ = self.video_shape
        return num_frames, height // self.video_patch_size, width // self.video_patch_size

    @property
    def num_audio_patches(self) -> int:
        return self.num_audio_samples // self.audio_patch_size

    def check(self) -> None:
        """Raises ValueError if a size is smaller than one, or if patches don't divide what they are patches of."""
        shape, patch_size = self.video_shape, self.video_patch_size
        if len(shape) != 4 or min(*shape, patch_size) < 1 or shape[1] % patch_size or shape[2] % patch_size:
            raise ValueError(
                f"video_shape={shape} must be frames, height, width and channels, all at least 1, and "
                f"video_patch_size={patch_size} must divide height and width"
            )
        num_samples, patch_size = self.num_audio_samples, self.audio_patch_size
        if min(num_samples, patch_size) < 1 or num_samples % patch_size:
            raise ValueError(
                f"audio_patch_size={patch_size} must divide num_audio_samples={num_samples}, both at least 1"
            )
        sizes = {
            "encoder.num_modality_channels": self.encoder.num_modality_channels,
            "decoder.num_modality_channels": self.decoder.num_modality_channels,
            "decoder.num_classes": self.decoder.num_classes,
            "decoder.num_label_query_channels": self.decoder.num_label_query_channels,
            "decoder.num_output_channels": self.decoder.num_output_channels,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")


def perceiver_io_multimodal() -> MultimodalAutoencoderConfig:
    """19,858,855 parameters, the geometry of `deepmind/multimodal-perceiver`: arXiv 2107.14795, appendix I.

    Its 30,720 samples of audio are 1,920 patches of 16, as in the official code. The paper's count of 50,657 inputs
    would need 480 patches of 64.
    """
    return MultimodalAutoencoderConfig(
        encoder=MultimodalEncoderConfig(num_cross_attention_heads=1),
        decoder=MultimodalDecoderConfig(
            num_cross_attention_heads=1,
            num_cross_attention_qk_channels=512,
            num_cross_attention_v_channels=512,
            cross_attention_residual=False,
        ),
        num_latents=784,
        num_latent_channels=512,
    )


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
        return torch.cat(result, dim=1)

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


@dataclass(frozen=True)
class MultimodalOutput:
    """What the autoencoder makes of its inputs.

    Attributes:
        video: (B, T, H, W, channels), or the pixels (B, P, channels) of P chosen points.
        audio: (B, samples), or the patches (B, P, samples of a patch) of P chosen points.
        label: Logits (B, classes).
    """

    video: Tensor
    audio: Tensor
    label: Tensor


class MultimodalAutoencoder(PerceiverIO):
    """Autoencoder of video, audio and label.

    Raises:
        ValueError: if a size is smaller than one, if patches don't divide videos or audio, or if heads don't divide
            channels.
    """

    def __init__(self, config: MultimodalAutoencoderConfig):
        config.check()
        input_adapter, query_provider = MultimodalInputAdapter(config), MultimodalQueryProvider(config)
        num_qk_channels = config.encoder.num_cross_attention_qk_channels or input_adapter.num_input_channels
        shared: dict[str, Any] = {
            "num_latent_channels": config.num_latent_channels,
            "activation_checkpointing": config.activation_checkpointing,
            "activation_offloading": config.activation_offloading,
        }
        super().__init__(
            PerceiverEncoder(
                input_adapter,
                replace(config.encoder, num_cross_attention_qk_channels=num_qk_channels),
                num_latents=config.num_latents,
                **shared,
            ),
            PerceiverDecoder(
                MultimodalOutputAdapter(config, num_query_channels=query_provider.num_query_channels),
                config.decoder,
                output_query_provider=query_provider,
                **shared,
            ),
        )
        self.config = config

    @property
    def num_points(self) -> dict[Modality, int]:
        """Output points of each modality."""
        return {"audio": self.config.num_audio_patches, "video": prod(self.config.video_shape[:3]), "label": 1}

    def forward(  # type: ignore[override]  # three inputs, no padding
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        label: Tensor | None = None,
        *,
        label_mask: Tensor | None = None,
        video_points: Tensor | None = None,
        audio_points: Tensor | None = None,
        decode_at_once: int = 2**14,
    ) -> MultimodalOutput:
        """Encodes and decodes. Arguments and errors are those of `encode` and `decode`."""
        latents = self.encode(video, audio, label, label_mask=label_mask)
        return self.decode(latents, video_points=video_points, audio_points=audio_points, decode_at_once=decode_at_once)

    def encode(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        label: Tensor | None = None,
        *,
        label_mask: Tensor | None = None,
    ) -> Tensor:
        """Encodes what is given. A modality that is not given is masked: all its inputs are its mask token.

        The official model was trained with masked labels only. Without label it is a classifier.

        Args:
            video: (B, T, H, W, channels), floating point, as all inputs.
            audio: (B, samples)
            label: Probabilities of classes (B, classes), 0 and 1 where they are known.
            label_mask: Boolean (B,), True where the label is masked.

        Returns:
            Latents (B, N, D)

        Raises:
            ValueError: if nothing is given, if something has another shape or data type than that, or if there is a
                `label_mask` and no label.
        """
        x = self.encoder.input_adapter(video, audio, label, label_mask)  # B M C
        return self.encoder(x, adapted=True)

    def decode(
        self,
        latents: Tensor,
        *,
        video_points: Tensor | None = None,
        audio_points: Tensor | None = None,
        decode_at_once: int = 2**14,
    ) -> MultimodalOutput:
        """Decodes all of video and audio, or chosen points, and the label.

        Args:
            latents: (B, N, D)
            video_points: Numbers of pixels (P,), or (B, P) if each example has its own. Pixel (t, y, x) has the number
                (t * H + y) * W + x. Default: all.
            audio_points: Numbers of audio patches, likewise.
            decode_at_once: Points of an example that are decoded at a time: the fewer, the less memory is needed.
                Values are equal.

        Raises:
            ValueError: if points have another shape, if (on CPU) there is no such point, or if `decode_at_once` is
                smaller than one.
        """
        if decode_at_once < 1:
            raise ValueError(f"decode_at_once={decode_at_once} must be at least 1")
        video = self._decode("video", latents, video_points, decode_at_once)
        audio = self._decode("audio", latents, audio_points, decode_at_once)
        label = self._decode("label", latents, None, decode_at_once)
        if video_points is None:
            num_frames, height, _, _ = self.config.video_shape
            video = rearrange(video, "b (t h w) c -> b t h w c", t=num_frames, h=height)
        if audio_points is None:
            audio = rearrange(audio, "b m s -> b (m s)")
        return MultimodalOutput(video, audio, rearrange(label, "b 1 c -> b c"))

    def _decode(self, modality: Modality, latents: Tensor, points: Tensor | None, decode_at_once: int) -> Tensor:
        num_points = self.num_points[modality]
        if points is None:
            points = torch.arange(num_points, device=latents.device)
        if points.is_floating_point() or points.ndim == 0 or points.shape[:-1] not in ((), latents.shape[:1]):
            raise ValueError(
                f"{modality}_points are {points.dtype} {tuple(points.shape)}, expected integers (points,) or "
                f"({len(latents)}, points)"
            )
        check_range(f"{modality}_points", points, num_points)
        parts = torch.split(points[None] if points.ndim == 1 else points, decode_at_once, dim=1)
        queries = (self.decoder.output_query_provider(modality, part) for part in parts)  # one part exists at a time
        return torch.cat([self.decoder(latents, query, modality=modality) for query in queries], dim=1)

    def targets(
        self,
        video: Tensor,
        audio: Tensor,
        *,
        video_points: Tensor | None = None,
        audio_points: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What video and audio of the output are, with the same points, if it is exact."""
        if video_points is not None:
            video = at_points(rearrange(video, "b t h w c -> b (t h w) c"), video_points)
        if audio_points is not None:
            audio = at_points(rearrange(audio, "b (m s) -> b m s", s=self.config.audio_patch_size), audio_points)
        return video, audio


def at_points(x: Tensor, points: Tensor) -> Tensor:
    """Outputs (B, O, E) at points (P,) or (B, P) -> (B, P, E)"""
    return torch.take_along_dim(x, points[None, :, None] if points.ndim == 1 else points[..., None], dim=1)


def autoencoder_loss(
    output: MultimodalOutput,
    video: Tensor,
    audio: Tensor,
    labels: Tensor,
    *,
    video_weight: float = 0.03,
    audio_weight: float = 1.0,
    label_weight: float = 1e-4,
) -> Tensor:
    """Weighted sum of mean absolute errors and cross-entropy, in float32; a mean over examples.

    Args:
        output: What the model makes of its inputs.
        video: What it should make, see `MultimodalAutoencoder.targets`.
        audio: Likewise.
        labels: Classes (B,). An example with -100 counts for nothing.
        video_weight: Weight of video, as all weights by default that of arXiv 2107.14795, appendix I.
        audio_weight: Weight of audio.
        label_weight: Weight of the label.

    Raises:
        ValueError: if shapes don't fit, or if (on CPU) a class is out of range.
    """
    for name, x, target in (("video", output.video, video), ("audio", output.audio, audio)):
        if x.shape != target.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, its target {tuple(target.shape)}: they must be equal")
    if labels.shape != output.label.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {tuple(output.label.shape[:1])}")
    check_range("labels", labels.where(labels != -100, 0), output.label.shape[-1])
    losses = (
        video_weight * (output.video.float() - video.float()).abs().flatten(1).mean(dim=1)
        + audio_weight * (output.audio.float() - audio.float()).abs().flatten(1).mean(dim=1)
        + label_weight * F.cross_entropy(output.label.float(), labels, reduction="none")
    )
    return mean_over_examples(losses, labels)


def mean_over_examples(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of a value per example (B,), without examples whose label is -100; 0 if there are no others."""
    counted = labels != -100
    return values.where(counted, 0).sum() / counted.sum().clamp(min=1)


def psnr(x: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB, for a peak of 1: -10 log10 of the mean squared error. At most 100."""
    squared_errors = (x.float() - target.float()).square().flatten(1)
    return -10 * squared_errors.mean(dim=1).clamp(min=1e-10).log10()
