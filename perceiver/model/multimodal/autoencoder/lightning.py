"""Training of the multimodal autoencoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.model.lightning.model import LitModel
from perceiver.model.multimodal.autoencoder.adapter import (
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
)
from perceiver.model.multimodal.autoencoder.backend import (
    MultimodalAutoencoder,
    MultimodalOutput,
    autoencoder_loss,
    mean_over_examples,
    psnr,
)


class LitMultimodalAutoencoder(LitModel):
    """Multimodal autoencoder. A batch is {"video": (B, T, H, W, channels), "audio": (B, samples), "label": (B,)}, with
    video from 0 to 1, audio from -1 to 1, and classes. An example whose class is -100 counts for nothing.

    Training decodes random points of each example, and masks the labels of some examples (arXiv 2107.14795, appendix
    I). Validation decodes as many points, always the same, test all of them. Both mask all labels, so that accuracy is
    that of a classifier of video and audio; they also log signal-to-noise ratios, see `psnr`.

    Args:
        encoder: Encoder configuration.
        decoder: Decoder configuration.
        num_video_points: Pixels of an example that training and validation decode; all if there are not more.
        num_audio_points: Audio patches, likewise.
        label_mask_prob: Probability that training masks the label of an example.
        video_weight: Weight of video in the loss.
        audio_weight: Weight of audio.
        label_weight: Weight of the label.
        label_names: Names of the classes, `label_names` of the trainer's data module by default. They are part of
            checkpoints, and of what `convert_checkpoint` makes of them.
        params: Checkpoint, folder or hub id of a multimodal autoencoder that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The other fields of `MultimodalAutoencoderConfig`.
    """

    config_class = MultimodalAutoencoderConfig
    model: MultimodalAutoencoder

    def __init__(
        self,
        encoder: MultimodalEncoderConfig,
        decoder: MultimodalDecoderConfig,
        num_video_points: int = 512,
        num_audio_points: int = 512,
        label_mask_prob: float = 0.5,
        video_weight: float = 0.03,
        audio_weight: float = 1.0,
        label_weight: float = 1e-4,
        label_names: list[str] | None = None,
        params: str | None = None,
        params_strict: bool = True,
        **kwargs: Any,
    ):
        if min(num_video_points, num_audio_points) < 1:
            raise ValueError(f"{num_video_points=} and {num_audio_points=} must be at least 1")
        if not 0.0 <= label_mask_prob <= 1.0:
            raise ValueError(f"label_mask_prob={label_mask_prob} must be in [0, 1]")
        super().__init__(
            MultimodalAutoencoder(MultimodalAutoencoderConfig(encoder, decoder, **kwargs)),
            params,
            params_strict,
            num_video_points=num_video_points,
            num_audio_points=num_audio_points,
            label_mask_prob=label_mask_prob,
            video_weight=video_weight,
            audio_weight=audio_weight,
            label_weight=label_weight,
            label_names=label_names,
        )
        for modality in ("video", "audio"):  # they are never masked: distributed training wants no idle parameters
            self.model.encoder.get_submodule(f"input_adapter.mask.{modality}").requires_grad_(False)

    def forward(self, video: Tensor, audio: Tensor) -> MultimodalOutput:
        """Video (B, T, H, W, channels) and audio (B, samples) -> all of both, and logits of the label (B, classes)"""
        return self.model(video, audio)

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        video, audio, labels = batch["video"], batch["audio"], batch["label"]
        label = F.one_hot(labels.clamp(min=0), self.model.config.decoder.num_classes).to(video.dtype)
        label_mask = (torch.rand(len(labels)) < self.hparams["label_mask_prob"]).to(labels.device)
        points = self.random_points(len(labels))
        return self.loss(self.model(video, audio, label, label_mask=label_mask, **points), batch, points)

    def random_points(self, *batch_size: int, generator: torch.Generator | None = None) -> dict[str, Tensor | None]:
        """Arguments `video_points` and `audio_points` of the model, (`batch_size`, number) or None for all points."""
        result: dict[str, Tensor | None] = {}
        for modality in ("video", "audio"):
            num_points, number = self.model.num_points[modality], self.hparams[f"num_{modality}_points"]
            points = torch.randint(num_points, (*batch_size, number), generator=generator).to(self.device)
            result[f"{modality}_points"] = points if number < num_points else None
        return result

    def loss(self, output: MultimodalOutput, batch: dict[str, Tensor], points: dict[str, Tensor | None]) -> Tensor:
        """The loss of an output at `points`, see `autoencoder_loss`."""
        weights = {name: self.hparams[name] for name in ("video_weight", "audio_weight", "label_weight")}
        targets = self.model.targets(batch["video"], batch["audio"], **points)
        return autoencoder_loss(output, *targets, batch["label"], **weights)

    def num_targets(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["label"] != -100).sum()

    def metrics(self, batch: dict[str, Tensor], split: str) -> dict[str, Any]:
        if split == "train":
            return super().metrics(batch, split)
        points: dict[str, Tensor | None] = {}
        if split == "val":
            points = self.random_points(generator=torch.Generator().manual_seed(0))
        output = self.model(batch["video"], batch["audio"], **points)
        video, audio = self.model.targets(batch["video"], batch["audio"], **points)
        scores = {
            "video_psnr": psnr(output.video, video),
            "audio_psnr": psnr(output.audio, audio),
            "acc": (output.label.argmax(dim=-1) == batch["label"]).float(),
        }
        means = {name: mean_over_examples(score, batch["label"]) for name, score in scores.items()}
        return {"loss": self.loss(output, batch, points), **means}
