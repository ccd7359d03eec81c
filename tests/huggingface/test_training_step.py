"""Training steps of all tasks: the host never waits for the device, one graph compiles them, unequal batches add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from tests.huggingface.tasks import TASKS, Task
from tests.huggingface.test_every_model import trainer
from tests.model.helpers import assert_close, gradients

every_task = pytest.mark.parametrize("task", TASKS, ids=str)


def padded_batch(task: Task) -> dict[str, Tensor]:
    batch = task.batch()
    if task.has_tokens:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["attention_mask"][-1, -2:] = 0
    return batch


@every_task
def test_a_step_asks_for_no_value(task: Task) -> None:
    """On the meta device there are none: to read one is an error, as on CUDA it would be to wait."""
    model = task.model().train().to("meta")
    model(**{name: x.to("meta") for name, x in padded_batch(task).items()}).loss.backward()
    assert all(parameter.grad is None or parameter.grad.is_meta for parameter in model.parameters())


@every_task
@pytest.mark.slow
def test_a_step_compiles_to_one_graph(task: Task) -> None:
    model, batch = task.model().train(), padded_batch(task)
    expected = model(**batch).loss
    expected.backward()
    expected_gradients = gradients(model)
    torch.compiler.reset()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert_close(gradients(model), expected_gradients)


@pytest.mark.slow
def test_trainer_compiles(tmp_path: Path) -> None:
    (task,) = (task for task in TASKS if task.name == "masked language model")
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    torch.compiler.reset()
    runs = [trainer(task, tmp_path, optim="sgd", **arguments) for arguments in (compiled, {})]
    for run in runs:
        run.train()
    assert_close(runs[0].model.state_dict(), runs[1].model.state_dict(), atol=1e-5, rtol=1e-4)


def with_fewer_labels(task: Task) -> list[dict[str, Any]]:
    """Examples of which all but the first have few labels. Flow is always known."""
    examples = task.examples(4)
    for i, example in enumerate(examples):
        labels = example["labels"]
        if labels.is_floating_point():
            continue
        if labels.ndim == 0:
            example["labels"] = labels if i in (0, 1, 3) else torch.tensor(-100)
        elif task.name in ("causal language model", "symbolic audio model"):
            # Of 12 tokens 5 are prefix. The first label, which no token predicts, counts nowhere.
            unlabelled = torch.arange(len(labels)) < (6 if i == 0 else 9 + i % 2)
            example["labels"] = labels.masked_fill(unlabelled & (torch.arange(len(labels)) > 0), -100)
        elif i:
            example["labels"] = labels.masked_fill(torch.arange(len(labels)) > 3 + i % 2, -100)
    return examples


@every_task
def test_accumulated_batches_of_unequal_numbers_of_labels_are_one_big_batch(task: Task, tmp_path: Path) -> None:
    def trained(**arguments: Any) -> Trainer:
        run = trainer(task, tmp_path, optim="sgd", learning_rate=0.5, max_steps=1, logging_steps=1, **arguments)
        run.train_dataset = with_fewer_labels(task)  # type: ignore[assignment]
        run.train()
        return run

    one, accumulated = trained(), trained(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert_close(accumulated.model.state_dict(), one.model.state_dict(), atol=1e-6, rtol=1e-5)
    losses = [run.state.log_history[0]["loss"] for run in (one, accumulated)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    model, inputs = task.model().train(), with_fewer_labels(task)
    batch = {name: torch.stack([example[name] for example in inputs]) for name in inputs[0]}
    assert losses[0] == pytest.approx(model(**batch).loss.item(), rel=1e-4)
