"""Losses of all problem types beside those of transformers, accuracies, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from perceiver.model.core.classification import classification_accuracy, classification_loss, problem_type_of

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def labels_of(problem_type: str, *shape: int, classes: int) -> Tensor:
    if problem_type == SINGLE:
        return torch.randint(0, classes, shape)
    values = torch.randn(*shape, classes)
    return values if problem_type == REGRESSION else (values > 0).float()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("problem_type, classes", [(SINGLE, 5), (MULTI, 5), (REGRESSION, 1), (REGRESSION, 3)])
def test_losses_are_those_of_transformers(problem_type: Any, classes: int, given: bool) -> None:
    logits, labels = torch.randn(7, classes, requires_grad=True), labels_of(problem_type, 7, classes=classes)
    config = PreTrainedConfig(num_labels=classes, problem_type=problem_type if given or classes == 3 else None)
    expected = ForSequenceClassificationLoss(labels, logits, config)
    assert config.problem_type == problem_type
    if classes != 3:
        assert problem_type_of(labels, classes) == problem_type
    loss = classification_loss(logits, labels, problem_type if given or classes == 3 else None)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_regression_of_one_number_takes_labels_without_a_dimension() -> None:
    logits, labels = torch.randn(7, 1), torch.randn(7)
    expected = ((logits[:, 0] - labels) ** 2).mean()
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    torch.testing.assert_close(classification_loss(logits, labels[:, None]), expected)


@pytest.mark.parametrize("problem_type, classes", [(SINGLE, 5), (MULTI, 5), (REGRESSION, 1), (REGRESSION, 3)])
def test_several_queries_are_several_examples(problem_type: Any, classes: int) -> None:
    logits, labels = torch.randn(7, 3, classes), labels_of(problem_type, 7, 3, classes=classes)
    for function in (classification_loss, classification_accuracy):
        flat = function(logits.flatten(0, 1), labels.flatten(0, 1), problem_type)
        torch.testing.assert_close(function(logits, labels, problem_type), flat)


def test_ignored_labels_count_for_nothing() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([2, -100, 0, -100, 1])
    kept = labels != -100
    torch.testing.assert_close(classification_loss(logits, labels), classification_loss(logits[kept], labels[kept]))
    expected = (logits[kept].argmax(-1) == labels[kept]).float().mean()
    torch.testing.assert_close(classification_accuracy(logits, labels), expected)
    assert classification_loss(logits, torch.full((5,), -100)) == 0
    assert classification_accuracy(logits, torch.full((5,), -100)) == 0


def test_accuracies() -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, 0.5]])
    assert classification_accuracy(logits, torch.tensor([2, 0])) == pytest.approx(0.5)
    assert classification_accuracy(logits, torch.tensor([[1.0, 0, 1], [1, 1, 1]])) == pytest.approx(5 / 6)
    assert classification_accuracy(logits, torch.randn(2, 3), REGRESSION) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_that_of_torch(smoothing: float) -> None:
    logits, labels = torch.randn(7, 5, requires_grad=True), torch.tensor([0, 4, -100, 2, 2, -100, 1])
    loss = classification_loss(logits, labels, SINGLE, smoothing)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    assert classification_loss(logits, torch.full((7,), -100), SINGLE, smoothing) == 0


def test_label_smoothing_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    log_probs = logits.log_softmax(-1)[0]
    expected = -(0.7 * log_probs[2] + 0.3 * log_probs.mean())
    torch.testing.assert_close(classification_loss(logits, torch.tensor([2]), label_smoothing=0.3), expected)


@pytest.mark.parametrize("problem_type", [MULTI, REGRESSION])
def test_other_losses_are_not_smoothed(problem_type: Any) -> None:
    logits, labels = torch.randn(7, 5), labels_of(problem_type, 7, classes=5)
    smoothed = classification_loss(logits, labels, problem_type, label_smoothing=0.3)
    torch.testing.assert_close(smoothed, classification_loss(logits, labels, problem_type))


# --- probabilities instead of classes, of mixed images ---


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_probabilities_is_the_soft_cross_entropy(shape: tuple[int, ...], smoothing: float) -> None:
    logits, labels = torch.randn(*shape, 5), torch.rand(*shape, 5).softmax(dim=-1)
    target = (1 - smoothing) * labels + smoothing / 5
    expected = -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(classification_loss(logits, labels, SINGLE, smoothing), expected)
    flat = F.cross_entropy(logits.flatten(0, -2), labels.flatten(0, -2), label_smoothing=smoothing)
    torch.testing.assert_close(classification_loss(logits, labels, SINGLE, smoothing), flat)


def test_certain_probabilities_are_classes() -> None:
    logits, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    for function in (classification_loss, classification_accuracy):
        found = function(logits.bfloat16(), F.one_hot(labels, 5).float(), SINGLE)
        torch.testing.assert_close(found, function(logits.bfloat16(), labels, SINGLE))


def test_accuracy_of_probabilities_is_that_of_the_likeliest_class() -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, 0.5]])
    probabilities = torch.tensor([[0.3, 0.1, 0.6], [0.6, 0.4, 0.0]])
    assert classification_accuracy(logits, probabilities, SINGLE) == pytest.approx(0.5)


def test_half_precision_logits_give_a_loss_in_float32() -> None:
    logits, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    loss = classification_loss(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, classification_loss(logits.bfloat16().float(), labels))


@pytest.mark.parametrize(
    "logits, labels, problem_type, message",
    [
        ((4, 3), torch.tensor([0, 1, 2, 3]), None, r"labels span \[0, 3\], allowed is \[0, 2\]"),
        ((4, 3), torch.tensor([0, 1, -1, 2]), SINGLE, r"labels span \[-1, 2\]"),
        ((4, 3), torch.zeros(4, 1).long(), None, r"labels have shape \(4, 1\), expected \(4,\) for single_label"),
        ((4, 2, 3), torch.zeros(4).long(), None, r"labels have shape \(4,\), expected \(4, 2\) for single_label"),
        ((4, 3), torch.zeros(4, 2), None, r"labels have shape \(4, 2\), expected \(4, 3\) for multi_label"),
        ((4, 3), torch.zeros(4), REGRESSION, r"labels have shape \(4,\), expected \(4, 3\) for regression"),
        ((4, 3), torch.zeros(4), SINGLE, r"labels have shape \(4,\), expected \(4, 3\) for single_label"),
        ((4, 1), torch.zeros(5), None, r"labels have shape \(5,\), expected \(4,\) for regression"),
        ((4, 3), torch.zeros(4).long(), "ranking", r"problem_type='ranking' is unknown, .*'regression'"),
    ],
)
def test_what_does_not_fit(logits: tuple[int, ...], labels: Tensor, problem_type: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_loss(torch.randn(*logits), labels, problem_type)
