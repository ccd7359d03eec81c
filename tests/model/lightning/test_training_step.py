"""A training step of every Lightning module asks the device for no value."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.lightning.model import LitModel, padding_if_any
from perceiver.model.text.common.backend import max_num_labels
from tests.huggingface.tasks import TASKS, Task

# What the batches of data modules call the arguments of the Hugging Face models.
NAMES = {
    "image classifier": {"pixel_values": "image", "labels": "label"},
    "optical flow": {"inputs": "x", "labels": "flow"},
    "multimodal autoencoder": {"labels": "label"},
}


def lightning_model(task: Task) -> LitModel:
    model = task.model()
    row = model.config.task
    lit_class = getattr(import_module(row.package), f"Lit{row.model}")
    lit_model: LitModel = lit_class.create(model.backend_model.config)
    return lit_model.train()


def lightning_batch(task: Task) -> Any:
    batch = task.batch()
    if names := NAMES.get(task.name):
        return {names.get(name, name): x for name, x in batch.items()}
    pad_mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    pad_mask[-1, :2] = True
    return batch["labels"], batch["input_ids"], pad_mask


def loss_of(lit_model: LitModel, batch: Any) -> Tensor:
    result = lit_model.step(batch)
    return result[0] if isinstance(result, tuple) else result  # beside the accuracy of a classifier


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_step_asks_for_no_value(task: Task) -> None:
    """On the meta device there are none: to read one is an error, as on CUDA it would be to wait."""
    lit_model, batch = lightning_model(task).to("meta"), lightning_batch(task)
    batch = lit_model.on_before_batch_transfer(batch, 0)
    batch = lit_model.transfer_batch_to_device(batch, torch.device("meta"), 0)
    loss = loss_of(lit_model, batch)
    loss.backward()
    assert loss.is_meta and torch.as_tensor(lit_model.num_targets(batch)).ndim == 0


@pytest.mark.parametrize("task", [task for task in TASKS if task.has_tokens], ids=str)
def test_what_is_asked_before_the_transfer_changes_no_loss(task: Task) -> None:
    lit_model, batch = lightning_model(task).eval(), lightning_batch(task)
    told = lit_model.on_before_batch_transfer(batch, 0)
    torch.testing.assert_close(loss_of(lit_model, told), loss_of(lit_model, batch))
    no_padding = lit_model.on_before_batch_transfer((*batch[:2], torch.zeros_like(batch[2])), 0)
    assert told[2] is not None and no_padding[2] is None
    assert list(told[3:]) == ([max_num_labels(batch[0])] if len(told) > 3 else [])


def test_padding_if_any() -> None:
    assert padding_if_any(None) is None and padding_if_any(torch.zeros(2, 3) > 0) is None
    mask = torch.eye(3) > 0
    assert padding_if_any(mask) is mask
