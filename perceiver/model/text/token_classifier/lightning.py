"""Training of the token classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core.classification import checked_names
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.lightning.model import LitModel
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import labelled_positions
from perceiver.model.text.token_classifier.alignment import IGNORED, entity_counts
from perceiver.model.text.token_classifier.backend import (
    TokenClassificationDecoderConfig,
    TokenClassifier,
    TokenClassifierConfig,
)


class LitTokenClassifier(LitModel):
    """Token classifier. A batch is (labels, input_ids, pad_mask), each (B, M).

    Each token of a word has the word's label; between words it is -100.

    Validation and test also log the share of labelled tokens that are right (`val_acc`) and, if labels have names with
    B- or I-, the F1 of entities: those that have exactly the right words and type (`val_f1`). Words are
    runs of equal labels, which the bytes between words, without labels, keep apart; with tokenizers that have no tokens
    there, neighbours of one label count as one word.

    Args:
        encoder: Encoder configuration. `params` names the checkpoint, folder or hub id of a masked language model that
            the encoder is initialised from.
        decoder: Decoder configuration. `params`, too, can name a masked language model: all of the decoder but its
            output has to have the same shapes.
        label_names: Names of the classes, `label_names` of the trainer's data module by default. They are part of
            checkpoints, and of what `convert_checkpoint` makes of them.
        params: Checkpoint, folder or hub id of a token classifier that the model is initialised from.
        kwargs: The other fields of `TokenClassifierConfig`.
    """

    config_class = TokenClassifierConfig
    model: TokenClassifier

    def __init__(
        self,
        encoder: TextEncoderConfig,
        decoder: TokenClassificationDecoderConfig,
        label_names: list[str] | None = None,
        params: str | None = None,
        **kwargs: Any,
    ):
        # Without the name of the decoder's file: a checkpoint never needs it again.
        model = TokenClassifier(TokenClassifierConfig(encoder, replace(decoder, params=None), **kwargs))
        if params is None and decoder.params is not None:
            load_decoder(model, decoder.params)
        super().__init__(model, params, label_names=label_names)
        self.val_f1, self.test_f1 = EntityF1(), EntityF1()

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M) -> logits (B, M, classes)"""
        return self.model(x, pad_mask)

    def setup(self, stage: str) -> None:
        self.hparams["label_names"] = checked_names(
            self.hparams["label_names"] or getattr(getattr(self.trainer, "datamodule", None), "label_names", None),
            self.model.config.decoder.num_classes,
        )

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        labels, x, pad_mask = batch
        return self.model.loss(labels, x, pad_mask)

    def num_targets(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        return int((batch[0] != IGNORED).sum())

    def _logged_step(self, batch: tuple[Tensor, Tensor, Tensor], split: str) -> Tensor:
        if split == "train":
            return super()._logged_step(batch, split)
        labels, x, pad_mask = batch
        positions, labels = labelled_positions(labels, x)  # B P
        logits = self.model(x, pad_mask, output_positions=positions)  # B P classes
        loss = token_cross_entropy(logits, labels)
        correct = ((logits.argmax(dim=-1) == labels) & (labels != IGNORED)).sum()
        values = {f"{split}_loss": loss, f"{split}_acc": correct / (labels != IGNORED).sum().clamp(min=1)}
        self.log_dict(values, prog_bar=True, sync_dist=True, batch_size=self.num_targets(batch))
        names = self.hparams["label_names"]
        if names is not None and any(name.startswith(("B-", "I-")) for name in names):
            f1 = self.val_f1 if split == "val" else self.test_f1
            f1.update(logits.float().softmax(dim=-1), labels, positions, names)
            self.log(f"{split}_f1", f1, prog_bar=True)
        return loss


def load_decoder(model: TokenClassifier, source: str) -> None:
    """Initialises all of the decoder but its output from a masked language model. Errors as in `read_checkpoint`.

    Raises:
        ValueError: if names or shapes differ.
    """
    output = "output_adapter."
    state_dict = {k: v for k, v in read_checkpoint(source, part="1.").state_dict.items() if not k.startswith(output)}
    own = {k: v for k, v in model.decoder.state_dict().items() if k.startswith(output)}
    load_parameters(model.decoder, state_dict | own, source)


class EntityF1(Metric):
    """F1 of the entities of a data set, over all processes. 0 if no entity is right."""

    right: Tensor
    predicted: Tensor
    there: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "predicted", "there"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor, positions: Tensor, label_names: Sequence[str]) -> None:
        """Counts the entities of a batch. A word has the class that is most probable on average over its tokens.

        Args:
            probabilities: (B, P, classes).
            labels: Classes (B, P), -100 for none.
            positions: Positions (B, P) that they are for, ascending as far as there are labels.
            label_names: Names of the classes.
        """
        labelled = labels != IGNORED
        starts = labelled.clone()  # of words
        starts[:, 1:] &= (positions.diff(dim=1) != 1) | (labels.diff(dim=1) != 0)
        words, num_words = starts.flatten().cumsum(dim=0) - 1, starts.sum(dim=1).tolist()
        scores = probabilities.new_zeros(sum(num_words), probabilities.shape[-1])
        scores = scores.index_add(0, words[labelled.flatten()], probabilities[labelled])  # words, classes
        for examples in zip(*(torch.split(x, num_words) for x in (scores.argmax(dim=-1), labels[starts])), strict=True):
            predicted, there = ([label_names[i] for i in example.tolist()] for example in examples)
            counts = entity_counts(predicted, there)
            self.right, self.predicted, self.there = (
                state + n for state, n in zip((self.right, self.predicted, self.there), counts, strict=True)
            )

    def compute(self) -> Tensor:
        return 2 * self.right / (self.predicted + self.there).clamp(min=1)
