"""What the Lightning modules of a `PerPositionModel` have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perceiver.model.lightning.model import LitModel, padding_if_any
from perceiver.model.text.common.backend import PerPositionModel, max_num_labels


class LitPerPositionModel(LitModel):
    """Trains a `PerPositionModel`. A batch is (labels, input_ids, pad_mask), each (B, M), labels -100 where none is."""

    model: PerPositionModel

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M) -> logits (B, M, E)"""
        return self.model(x, pad_mask)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        labels, x, pad_mask = batch
        return labels, x, padding_if_any(pad_mask), max_num_labels(labels)

    def step(self, batch: Any) -> Tensor:
        labels, x, pad_mask, *num_positions = batch
        return self.model.loss(labels, x, pad_mask, *num_positions)

    def num_targets(self, batch: Any) -> Tensor:
        return (batch[0] != -100).sum()
