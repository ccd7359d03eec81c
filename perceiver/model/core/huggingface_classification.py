"""Base of the Hugging Face classifiers: names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perceiver.model.core.checkpoint import Checkpoint
from perceiver.model.core.huggingface import PerceiverBackendModel
from perceiver.model.core.huggingface_config import PerceiverBackendConfig


class PerceiverClassifier(PerceiverBackendModel):
    """Hugging Face model around a classifier, whose decoder config has `num_classes`.

    Raises:
        ValueError: if the config does not name each of the model's classes, and no others.
    """

    def __init__(self, config: PerceiverBackendConfig):
        super().__init__(config)
        self._check_labels()

    @classmethod
    def checkpoint_config(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        names = checkpoint.hyper_parameters.get("label_names")
        return {"id2label": None if names is None else dict(enumerate(names))}

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
