"""Base of the Lightning modules that train classifiers (Perceiver IO, arXiv 2107.14795, sections 4.1 and 4.5)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from perceiver.model.core.classification import ProblemType, classification_accuracy, classification_loss
from perceiver.model.lightning.model import LitModel


class LitClassifier(LitModel):
    """Trains a classifier. Subclasses define `unpack`.

    Args:
        model: Backend model, whose decoder config has `num_classes`.
        problem_type: What the labels are, see `classification_loss`. None: what they look like.
        label_names: Names of the classes, `label_names` of the trainer's data module by default.
        label_smoothing: Of the training loss, see `classification_loss`.
        params: See `LitModel`.
        params_strict: See `LitModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        problem_type: ProblemType | None,
        label_names: list[str] | None,
        label_smoothing: float,
        params: str | None,
        params_strict: bool = True,
    ):
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1]")
        super().__init__(
            model,
            params,
            params_strict,
            problem_type=problem_type,
            label_names=label_names,
            label_smoothing=label_smoothing,
        )
        self.problem_type = problem_type
        self.label_smoothing = label_smoothing

    def unpack(self, batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        """The model's inputs, and the labels, of a batch."""
        raise NotImplementedError

    def step(self, batch: Any) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]  # as in published checkpoints
        """Loss and accuracy of a batch; a regression has no accuracy."""
        inputs, labels = self.unpack(batch)
        logits = self.model(*inputs)
        label_smoothing = self.label_smoothing if self.training else 0.0
        return (
            classification_loss(logits, labels, self.problem_type, label_smoothing),
            classification_accuracy(logits, labels, self.problem_type),
        )

    def num_targets(self, batch: Any) -> int | Tensor:
        _, labels = self.unpack(batch)
        return labels.numel() if labels.is_floating_point() else (labels != -100).sum()

    def metrics(self, batch: Any, split: str) -> dict[str, Any]:
        loss, accuracy = self.step(batch)
        return {"loss": loss} if accuracy is None else {"loss": loss, "acc": accuracy}
