"""Decoder, losses and accuracies of classifiers (Perceiver IO, arXiv 2107.14795, sections 4.1 and 4.5).

Losses and accuracies go by the kind of problem. The names are those of transformers:

single_label_classification   one class per output: labels (B,), or probabilities (B, classes); cross-entropy
multi_label_classification    any number of classes: labels (B, classes) of 0 and 1, binary cross-entropy
regression                    a number per class: labels (B, classes), or (B,) for one class; mean squared error

With O > 1 output queries, labels are (B, O) and (B, O, classes).
"""

from __future__ import annotations

from typing import Literal, get_args

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from perceiver.model.core.adapter import ClassificationOutputAdapter, TrainableQueryProvider
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.core.loss import token_cross_entropy

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


def classification_output(
    config: ClassificationDecoderConfig,
) -> tuple[ClassificationOutputAdapter, TrainableQueryProvider]:
    """Output adapter and output queries of a classifier, for `assemble`."""
    num_query_channels = config.num_output_query_channels
    return (
        ClassificationOutputAdapter(num_classes=config.num_classes, num_output_query_channels=num_query_channels),
        TrainableQueryProvider(config.num_output_queries, num_query_channels),
    )


def problem_type_of(labels: Tensor, num_classes: int) -> ProblemType:
    """What labels are for, where nothing else says so: transformers' rule."""
    if num_classes == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: Tensor, labels: Tensor, problem_type: ProblemType | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean loss, in float32.

    Args:
        logits: (B, classes), or (B, O, classes).
        labels: See above. Classes of -100 count for nothing; a batch without any other has a loss of 0.
        problem_type: One of the names above. None: `problem_type_of` the labels.
        label_smoothing: Share of the probability that goes to all classes alike, where each output has one class
            (arXiv 1512.00567, section 7).
    """
    logits, labels, problem_type = _matched(logits, labels, problem_type)
    if problem_type == "single_label_classification":
        if labels.is_floating_point():
            logits, labels = (rearrange(x.float(), "... c -> (...) c") for x in (logits, labels))
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        logits, labels = rearrange(logits, "b ... c -> b (...) c"), rearrange(labels, "b ... -> b (...)")
        return token_cross_entropy(logits, labels, label_smoothing)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return F.mse_loss(logits.float(), labels.float())


def classification_accuracy(logits: Tensor, labels: Tensor, problem_type: ProblemType | None = None) -> Tensor | None:
    """Share of outputs whose best class is the label, or of decisions (probability > 0.5) that are right; a scalar.

    None for regression. Arguments and errors are those of `classification_loss`.
    """
    logits, labels, problem_type = _matched(logits, labels, problem_type)
    if problem_type == "regression":
        return None
    if problem_type == "multi_label_classification":
        return ((logits > 0) == (labels > 0.5)).float().mean()
    if labels.is_floating_point():
        return (logits.argmax(dim=-1) == labels.argmax(dim=-1)).float().mean()
    labelled = labels != -100
    return ((logits.argmax(dim=-1) == labels) & labelled).sum() / labelled.sum().clamp(min=1)


def _matched(logits: Tensor, labels: Tensor, problem_type: ProblemType | None) -> tuple[Tensor, Tensor, ProblemType]:
    problem_type = problem_type or problem_type_of(labels, logits.shape[-1])
    if problem_type == "regression" and logits.shape[-1] == 1 and labels.ndim < logits.ndim:
        logits = logits.squeeze(dim=-1)
    if problem_type not in get_args(ProblemType):
        raise ValueError(f"problem_type={problem_type!r} is unknown, it must be one of {get_args(ProblemType)}")
    one_class = problem_type == "single_label_classification" and not labels.is_floating_point()
    expected = logits.shape[:-1] if one_class else logits.shape
    if labels.shape != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {tuple(expected)} for {problem_type}")
    return logits, labels, problem_type
