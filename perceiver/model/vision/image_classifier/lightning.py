"""Training of the image classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perceiver.model.core.classification import ProblemType
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.lightning.classification import LitClassifier
from perceiver.model.vision.image_classifier.backend import ImageClassifier, ImageClassifierConfig, ImageEncoderConfig


class LitImageClassifier(LitClassifier):
    """Image classifier. A batch is {"image": (B, H, W, channels), "label": classes (B,)}.

    With mixed images, labels are probabilities (B, classes). Labels of other problem types, and for several output
    queries, are those of `classification_loss`.

    Args:
        encoder: Encoder configuration.
        decoder: Decoder configuration.
        problem_type: What the labels are.
        label_names: Names of the classes, `label_names` of the trainer's data module by default. They are part of
            checkpoints, and of what `convert_checkpoint` makes of them.
        label_smoothing: Share of the probability that goes to all classes alike, in training only.
        params: Checkpoint, folder or hub id of an image classifier that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The other fields of `ImageClassifierConfig`.
    """

    config_class = ImageClassifierConfig
    model: ImageClassifier

    def __init__(
        self,
        encoder: ImageEncoderConfig,
        decoder: ClassificationDecoderConfig,
        problem_type: ProblemType = "single_label_classification",
        label_names: list[str] | None = None,
        label_smoothing: float = 0.0,
        params: str | None = None,
        params_strict: bool = True,
        **kwargs: Any,
    ):
        super().__init__(
            ImageClassifier(ImageClassifierConfig(encoder, decoder, **kwargs)),
            problem_type=problem_type,
            label_names=label_names,
            label_smoothing=label_smoothing,
            params=params,
            params_strict=params_strict,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, H, W, channels) -> logits (B, classes), or (B, O, classes)"""
        return self.model(x)

    def unpack(self, batch: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        return (batch["image"],), batch["label"]
