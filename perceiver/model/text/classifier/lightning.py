"""Training of the text classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perceiver.model.core.classification import ProblemType, checked_names, classification_accuracy, classification_loss
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.core.lightning import LitModel
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.common.backend import TextEncoderConfig


class LitTextClassifier(LitModel):
    """Text classifier. A batch is (labels, input_ids, pad_mask): labels (B,), the others (B, M).

    Labels of other problem types, and for several output queries, are those of `classification_loss`.

    Args:
        encoder: Encoder configuration. `params` names the checkpoint, folder or hub id of a masked language model that
            the encoder is initialised from.
        decoder: Decoder configuration.
        problem_type: What the labels are. Default: integers are classes, other numbers 0 or 1 for each class, and with
            one class it is a regression.
        label_names: Names of the classes, `label_names` of the trainer's data module by default. They are part of
            checkpoints, and of what `convert_checkpoint` makes of them.
        params: Checkpoint, folder or hub id of a text classifier that the model is initialised from.
        kwargs: The other fields of `TextClassifierConfig`.
    """

    config_class = TextClassifierConfig
    model: TextClassifier

    def __init__(
        self,
        encoder: TextEncoderConfig,
        decoder: ClassificationDecoderConfig,
        problem_type: ProblemType | None = None,
        label_names: list[str] | None = None,
        params: str | None = None,
        **kwargs: Any,
    ):
        model = TextClassifier(TextClassifierConfig(encoder, decoder, **kwargs))
        super().__init__(model, params, problem_type=problem_type, label_names=label_names)
        self.problem_type = problem_type

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M) -> logits (B, classes), or (B, O, classes)"""
        return self.model(x, pad_mask)

    def setup(self, stage: str) -> None:
        self.hparams["label_names"] = checked_names(
            self.hparams["label_names"] or getattr(getattr(self.trainer, "datamodule", None), "label_names", None),
            self.model.config.decoder.num_classes,
        )

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """Loss and accuracy of a batch; a regression has no accuracy."""
        labels, x, pad_mask = batch
        logits = self.model(x, pad_mask)
        return (
            classification_loss(logits, labels, self.problem_type),
            classification_accuracy(logits, labels, self.problem_type),
        )

    def num_targets(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        labels = batch[0]
        return labels.numel() if labels.is_floating_point() else int((labels != -100).sum())

    def _logged_step(self, batch: tuple[Tensor, Tensor, Tensor], split: str) -> Tensor:
        loss, accuracy = self.step(batch)
        values = {f"{split}_loss": loss} if accuracy is None else {f"{split}_loss": loss, f"{split}_acc": accuracy}
        if split == "train":
            self.log_dict(values, prog_bar=True)
        else:
            self.log_dict(values, prog_bar=True, sync_dist=True, batch_size=self.num_targets(batch))
        return loss
