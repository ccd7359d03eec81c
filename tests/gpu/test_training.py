"""Training on a device: mixed precision, Lightning, transformers' Trainer, DDP and FSDP2 with one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments

from perceiver.model.core.layers import AttentionLayer
from perceiver.model.text import clm

VOCAB_SIZE, SEQ_LEN, NUM_LATENTS = 23, 26, 7


def config(**kwargs: Any) -> clm.CausalLanguageModelConfig:
    values: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "max_seq_len": SEQ_LEN, "max_latents": NUM_LATENTS}
    values |= {"num_channels": 48, "num_heads": 3, "num_self_attention_layers": 2, "init_scale": 0.1}
    return clm.CausalLanguageModelConfig(**(values | {"cross_attention_dropout": 0.0} | kwargs))


def counting(batch_size: int) -> Tensor:
    """Sequences that count up modulo the vocabulary, from anywhere: what comes next is easy to learn."""
    start = torch.randint(VOCAB_SIZE, (batch_size, 1))
    return (start + torch.arange(SEQ_LEN + 1)) % VOCAB_SIZE


def train(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], device: str, num_steps: int) -> list[float]:
    """SGD in float32, so that rounding errors stay as small as they are."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(num_steps):
        x = torch.randint(VOCAB_SIZE, (5, SEQ_LEN + 1), generator=generator).to(device)
        value = loss(x[:, 1:], x[:, :-1])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.detach().item())
    return losses


def test_training_is_that_of_the_cpu(device: str) -> None:
    torch.manual_seed(0)
    model = clm.CausalLanguageModel(config())
    other = copy.deepcopy(model).to(device)
    expected, result = train(model, model.loss, "cpu", 5), train(other, other.loss, device, 5)
    torch.testing.assert_close(torch.tensor(result), torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_learns_in_bfloat16(slow_device: str, dropout: float) -> None:
    """With prefix dropout, attention dropout and padding, too."""
    torch.manual_seed(0)
    model = clm.CausalLanguageModel(config(cross_attention_dropout=dropout, post_attention_dropout=dropout / 3))
    model.to(slow_device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pad_mask = (torch.arange(SEQ_LEN) < 3 * torch.arange(16)[:, None] % 8).to(slow_device)
    losses = []
    for _ in range(60):
        x = counting(16).to(slow_device)
        with torch.autocast(slow_device, torch.bfloat16):
            loss = model.loss(x[:, 1:], x[:, :-1], pad_mask)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    assert values[0] > 2.5 and sum(values[-5:]) / 5 < 0.5


class LitCLM(clm.LitCausalLanguageModel):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.values.append(outputs["loss"].detach())


@pytest.mark.filterwarnings("ignore")
def test_lightning_in_bfloat16(slow_device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = counting(16 * 50)
    data = TensorDataset(x[:, 1:], x[:, :-1], torch.zeros(len(x), SEQ_LEN, dtype=torch.bool))
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="gpu" if slow_device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[losses],
    )
    lit_model = LitCLM.create(config())
    trainer.fit(lit_model, DataLoader(data, batch_size=16))
    assert losses.values[0].device.type == slow_device and len(losses.values) == 50
    assert losses.values[0] > 2.5 and torch.stack(losses.values[-5:]).mean() < 0.5


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_in_bfloat16(slow_device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = counting(16 * 50)[:, 1:]
    model = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config()))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        bf16=True,
        use_cpu=slow_device == "cpu",
        logging_steps=5,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    examples = [{"input_ids": row, "labels": row} for row in x]
    trainer = Trainer(model, arguments, train_dataset=examples)  # type: ignore[arg-type]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert next(model.parameters()).device.type == slow_device
    assert len(losses) == 10 and losses[0] > 1.5 and losses[-1] < 0.5


@pytest.fixture
def process_group(device: str, tmp_path: Path) -> Iterator[None]:
    """A process alone. Sharding and communication take the same path as with others."""
    backend, store = "nccl" if device == "cuda" else "gloo", f"file://{tmp_path / 'store'}"
    if device == "cuda":
        torch.cuda.set_device(0)
    torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Loss(nn.Module):
    """A loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: clm.CausalLanguageModel):
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, x: Tensor) -> Tensor:
        return self.model.loss(labels, x)


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("activation_checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_distributed_training_is_that_of_one_process(
    device: str, strategy: str, activation_checkpointing: bool
) -> None:
    torch.manual_seed(0)
    model = clm.CausalLanguageModel(config(activation_checkpointing=activation_checkpointing)).to(device).train()
    other = copy.deepcopy(model)
    expected = train(model, model.loss, device, 4)
    loss: nn.Module = Loss(other)
    if strategy == "ddp":
        loss = DistributedDataParallel(loss)
    else:
        mesh = init_device_mesh(device, (1,))
        for layer in [module for module in loss.modules() if isinstance(module, AttentionLayer)]:
            fully_shard(layer, mesh=mesh)
        fully_shard(loss, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in loss.parameters())
    result = train(loss, loss, device, 4)
    torch.testing.assert_close(torch.tensor(result), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(whole, q, atol=1e-4, rtol=1e-4)
