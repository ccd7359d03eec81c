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

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from perceiver.model.core.adapter import check_indices
from perceiver.model.core.perceiver_io import PerceiverIO, assemble
from perceiver.model.multimodal.autoencoder.adapter import (
    Modality,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    MultimodalInputAdapter,
    MultimodalOutputAdapter,
    MultimodalQueryProvider,
)


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
    """Autoencoder of video, audio and label."""

    def __init__(self, config: MultimodalAutoencoderConfig):
        query_provider = MultimodalQueryProvider(config)
        output_adapter = MultimodalOutputAdapter(config, num_query_channels=query_provider.num_query_channels)
        super().__init__(*assemble(config, MultimodalInputAdapter(config), output_adapter, query_provider))
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
        check_indices(f"{modality}_points", points, num_points)
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
    """
    for name, x, target in (("video", output.video, video), ("audio", output.audio, audio)):
        if x.shape != target.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, its target {tuple(target.shape)}: they must be equal")
    if labels.shape != output.label.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {tuple(output.label.shape[:1])}")
    check_indices("labels", labels.where(labels != -100, 0), output.label.shape[-1])
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
