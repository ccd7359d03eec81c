"""Base of the Hugging Face classifiers: names of the classes, loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from perceiver.model.core.checkpoint import Checkpoint
from perceiver.model.core.classification import classification_loss, problem_type_of
from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.model import PerceiverBackendModel


class PerceiverClassifier(PerceiverBackendModel):
    """Hugging Face model around a classifier, whose decoder config has `num_classes`. The config names them all."""

    def __init__(self, config: PerceiverBackendConfig, backend_model: nn.Module | None = None):
        super().__init__(config, backend_model)
        self._check_labels()

    @classmethod
    def checkpoint_config(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        names = checkpoint.hyper_parameters.get("label_names")
        return {
            "id2label": None if names is None else dict(enumerate(names)),
            "problem_type": checkpoint.hyper_parameters.get("problem_type"),
        }

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """The loss of `config.problem_type`, see `classification_loss`; where that is None, the first labels set it,
        as in transformers."""
        if labels is None:
            return None
        problem_type = self.config.problem_type or problem_type_of(labels, logits.shape[-1])
        loss = classification_loss(logits, labels, problem_type)
        self.config.problem_type = problem_type  # what is saved tells the pipeline what to make of logits
        return loss

    def set_labels(self, id2label: Mapping[int, str], label2id: Mapping[str, int] | None = None) -> None:
        """Names the classes.

        Raises:
            ValueError: if there are more or fewer names than classes.
        """
        self.config.id2label = {int(i): label for i, label in id2label.items()}
        self.config.label2id = dict(label2id or {label: int(i) for i, label in id2label.items()})
        self._check_labels()

    def _check_labels(self) -> None:
        id2label, num_classes = self.config.id2label or {}, self.backend_model.config.decoder.num_classes
        if sorted(id2label) != list(range(num_classes)):
            raise ValueError(
                f"id2label names {len(id2label)} classes, {sorted(id2label)[:8]}, the model has {num_classes}"
            )
