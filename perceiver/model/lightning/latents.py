"""Training of a Perceiver IO that does with fewer latents than it has: nested dropout of latents (arXiv 1402.0915)."""

from __future__ import annotations

import random
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from perceiver.model.core.perceiver_io import PerceiverIO


class NestedLatents(Callback):
    """Trains with the first k latents, another k in each step; validates and tests with all of them.

    Such a model does with each of these numbers at inference:

        model.encoder.latent_provider.num_queries = 64

    The numbers are drawn from epoch and batch: all processes draw the same, and so does a training that was resumed.

    Args:
        numbers: What k is drawn from, each as likely as the others. By default all latents, a half, a quarter and an
            eighth of them.
    """

    def __init__(self, numbers: list[int] | None = None):
        self.numbers = numbers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module.model, PerceiverIO):
            raise ValueError(
                f"NestedLatents is for models with learned latents, {type(pl_module.model).__name__} has none"
            )
        self.latents = pl_module.model.encoder.latent_provider
        self.total = self.latents.num_queries
        self.choices = self.numbers or [max(self.total // part, 1) for part in (1, 2, 4, 8)]
        if min(self.choices) < 1 or max(self.choices) > self.total:
            raise ValueError(f"numbers={self.numbers} of latents must be in [1, {self.total}]")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        rng = random.Random(f"{trainer.current_epoch} {batch_idx}")
        self.latents.num_queries = rng.choice(self.choices)

    def on_train_batch_end(self, *_: Any) -> None:
        self.latents.num_queries = self.total

    def on_exception(self, *_: Any) -> None:
        if hasattr(self, "latents"):  # else it was raised before a model was set up
            self.latents.num_queries = self.total
