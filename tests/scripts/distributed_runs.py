"""What `test_distributed.py` starts in two processes: `main(rank)`, in a folder for the results.

Trains tiny models alone (the first process), with DDP and with FSDP2, and saves what came out of each run to
`MODEL-STRATEGY-RUN-RANK.pt`. The processes meet in a file, so no port can be taken.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from perceiver.model.lightning.model import LitModel
from perceiver.model.text import clm, mlm
from tests.model.helpers import mlm_config, randomise_vectors

WORLD_SIZE = 2
TOTAL_BATCH_SIZE = 8
DROPOUT: dict[str, dict[str, Any]] = {
    "mlm": {"encoder": {"dropout": 0.3}, "decoder": {"dropout": 0.2}},
    "clm": {"cross_attention_dropout": 0.5, "post_attention_dropout": 0.2, "residual_dropout": 0.1},
}
# layers that run more than once, and parameters that are not trained
SHARED = {"encoder": {"num_self_attention_blocks": 3}, "decoder": {"freeze": True}}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def mlm_batches(num_examples: int, unequal: bool = False) -> TensorDataset:
    """Every example has 4 labels, so that the mean over a batch is the mean of the means over its halves.

    With `unequal` numbers, of 1 to 15, it is not.
    """
    x = torch.randint(0, 37, (num_examples, 17))
    labelled = torch.rand(x.shape).argsort(dim=1) < (torch.randint(1, 16, (num_examples, 1)) if unequal else 4)
    pad_mask = torch.zeros_like(labelled)
    pad_mask[::3, -2:] = True
    return TensorDataset(torch.where(labelled, x, -100), x, pad_mask)


class LitMLM(mlm.LitMaskedLanguageModel):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-3, foreach=True)


def clm_config(**kwargs: Any) -> clm.CausalLanguageModelConfig:
    config = {"vocab_size": 37, "max_seq_len": 16, "max_latents": 5, "num_channels": 24, "num_heads": 2}
    config |= {"num_self_attention_layers": 3, "cross_attention_dropout": 0.0, "output_norm": True, "init_scale": 0.2}
    return clm.CausalLanguageModelConfig(**(config | kwargs))


def clm_batches(num_examples: int) -> TensorDataset:
    x = torch.randint(0, 37, (num_examples, 17))
    pad_mask = torch.zeros_like(x, dtype=torch.bool)
    pad_mask[::3, :2] = True
    return TensorDataset(x[:, 1:], x[:, :-1], pad_mask[:, :-1])


class LitCLM(clm.LitCausalLanguageModel):
    configure_optimizers = LitMLM.configure_optimizers


# name -> Lightning module, its config, its data
MODELS: dict[str, tuple[type[LitModel], Callable[..., Any], Callable[..., TensorDataset]]] = {
    "mlm": (LitMLM, mlm_config, mlm_batches),
    "clm": (LitCLM, clm_config, clm_batches),
}

STRATEGIES: dict[str, Callable[[], Any]] = {
    "one": lambda: "auto",
    "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
    "fsdp": lambda: ModelParallelStrategy(WORLD_SIZE, 1, save_distributed_checkpoint=False),
    "sharded": lambda: ModelParallelStrategy(WORLD_SIZE, 1),
}


class Record(pl.Callback):
    """Loss, random number and gradient norm (after clipping) of each training step of this process."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"losses": [], "draws": [], "norms": []}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.values["losses"].append(outputs["loss"].item())
        self.values["draws"].append(torch.rand(()).item())

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = optimizer.param_groups[0]["params"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            self.values["norms"].append(whole(get_total_norm(gradients)).item())


def train(
    folder: Path,
    model: str,
    strategy: str,
    run: str,
    *,
    config: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    batch_size: int = TOTAL_BATCH_SIZE,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> None:
    """Trains and saves what came out, and a checkpoint of what is to be resumed. `batch_size` is of all processes.

    `config` and `data` are what is particular to the model and its batches.
    """
    lit_class, config_function, batches = MODELS[model]
    num_processes = 1 if strategy == "one" else WORLD_SIZE
    rank = torch.distributed.get_rank() if num_processes > 1 else 0
    torch.manual_seed(0)
    lit_model = lit_class.create(config_function(**(config or {})))
    randomise_vectors(lit_model)

    def loader(num_examples: int) -> DataLoader[Any]:
        examples = batches(num_examples, **(data or {}))
        sampler: Any = DistributedSampler(examples, num_replicas=num_processes, rank=rank, shuffle=False)
        return DataLoader(examples, batch_size=batch_size // num_processes, sampler=sampler)

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=num_processes,
        strategy=STRATEGIES[strategy](),
        callbacks=[record := Record()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **kwargs,
    )
    trainer.fit(lit_model, loader(24), loader(16), ckpt_path=ckpt_path)
    parameters = {name: whole(parameter) for name, parameter in lit_model.state_dict().items()}
    result = record.values | {"parameters": parameters, "val_loss": trainer.callback_metrics["val_loss"].item()}
    torch.save(result, folder / f"{model}-{strategy}-{run}-{rank}.pt")
    if run in ("begun", "resumed"):
        trainer.save_checkpoint(folder / f"{model}-{strategy}-{run}.ckpt", weights_only=False)


def runs(folder: Path, model: str, strategy: str) -> None:
    """All runs of a model with a strategy."""

    def start(run: str, *, max_epochs: int = 1, **kwargs: Any) -> None:
        train(folder, model, strategy, run, max_epochs=max_epochs, **kwargs)

    if strategy != "sharded":
        start("plain")
        start("dropout", config=DROPOUT[model], max_epochs=2)
    if strategy != "sharded" and model == "mlm":
        unequal = {"unequal": True}
        if strategy == "one":
            start("unequal", data=unequal)
        start("accumulated", data=unequal, batch_size=TOTAL_BATCH_SIZE // 2, accumulate_grad_batches=2)
        start("shared", config=SHARED, gradient_clip_val=0.3)
        if strategy != "one":
            start("bf16-mixed", precision="bf16-mixed")
            start("bf16-true", precision="bf16-true")
    # stopped after an epoch and continued, with activation checkpointing: the same as in one go and without
    checkpointing = {**DROPOUT[model], "activation_checkpointing": True, "activation_offloading": True}
    start("begun", config=checkpointing)
    start("resumed", config=checkpointing, max_epochs=2, ckpt_path=folder / f"{model}-{strategy}-begun.ckpt")


def main(rank: int) -> None:
    folder = Path.cwd()
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning need not start any process
    if rank == 0:
        for model in MODELS:
            runs(folder, model, "one")
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    for model in MODELS:
        for strategy in ("ddp", "fsdp", "sharded") if model == "mlm" else ("ddp", "fsdp"):
            runs(folder, model, strategy)
    try:
        pl.Trainer(accelerator="cpu", devices=WORLD_SIZE, strategy=ModelParallelStrategy(), logger=False).fit(
            LitMLM.create(mlm_config()), DataLoader(mlm_batches(4))
        )
    except ValueError as error:
        (folder / f"error-{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()
