"""Training of the token classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.text.common.backend import TextEncoderConfig, labelled_positions
from perceiver.model.text.common.lightning import LitPerPositionModel
from perceiver.model.text.token_classifier.alignment import IGNORED, entity_counts
from perceiver.model.text.token_classifier.backend import (
    TokenClassificationDecoderConfig,
    TokenClassifier,
    TokenClassifierConfig,
)


class LitTokenClassifier(LitPerPositionModel):
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
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
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
        params_strict: bool = True,
        **kwargs: Any,
    ):
        model = TokenClassifier(TokenClassifierConfig(encoder, decoder, **kwargs))
        super().__init__(model, params, params_strict, label_names=label_names)
        self.val_f1, self.test_f1 = EntityF1(), EntityF1()

    def metrics(self, batch: Any, split: str) -> dict[str, Any]:
        if split == "train":
            return super().metrics(batch, split)
        labels, x, pad_mask, *num_positions = batch
        positions, labels = labelled_positions(labels, x, *num_positions)  # B P
        logits = self.model(x, pad_mask, output_positions=positions)  # B P classes
        correct = ((logits.argmax(dim=-1) == labels) & (labels != IGNORED)).sum()
        values: dict[str, Any] = {
            "loss": token_cross_entropy(logits, labels),
            "acc": correct / (labels != IGNORED).sum().clamp(min=1),
        }
        names = self.hparams["label_names"]
        if names is not None and any(name.startswith(("B-", "I-")) for name in names):
            values["f1"] = self.val_f1 if split == "val" else self.test_f1
            values["f1"].update(logits.float().softmax(dim=-1), labels, positions, names)
        return values


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
