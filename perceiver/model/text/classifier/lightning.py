"""Training of the text classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perceiver.model.core.classification import ProblemType
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.lightning.classification import LitClassifier
from perceiver.model.lightning.model import padding_if_any
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.common.backend import TextEncoderConfig


class LitTextClassifier(LitClassifier):
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
        label_smoothing: Share of the probability that goes to all classes alike, in training only.
        params: Checkpoint, folder or hub id of a text classifier that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The other fields of `TextClassifierConfig`.
    """

    config_class = TextClassifierConfig
    data_task = "clf"
    model: TextClassifier

    def __init__(
        self,
        encoder: TextEncoderConfig,
        decoder: ClassificationDecoderConfig,
        problem_type: ProblemType | None = None,
        label_names: list[str] | None = None,
        label_smoothing: float = 0.0,
        params: str | None = None,
        params_strict: bool = True,
        **kwargs: Any,
    ):
        model = TextClassifier(TextClassifierConfig(encoder, decoder, **kwargs))
        super().__init__(
            model,
            problem_type=problem_type,
            label_names=label_names,
            label_smoothing=label_smoothing,
            params=params,
            params_strict=params_strict,
        )

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M) -> logits (B, classes), or (B, O, classes)"""
        return self.model(x, pad_mask)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        labels, x, pad_mask = batch
        return labels, x, padding_if_any(pad_mask)

    def unpack(self, batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        labels, x, pad_mask = batch
        return (x, pad_mask), labels
