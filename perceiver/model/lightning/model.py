"""Base of the Lightning modules: a backend model, its parameters, its hyper-parameters.

The module of a task says what a batch is and what its loss is. Checkpoints hold plain hyper-parameters, so that they
load with `weights_only=True`; those of perceiver-io 0.8 to 0.11, which hold pickled configurations, load as well.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from perceiver.model.core.checkpoint import (
    COMPUTED_BUFFERS,
    downloaded,
    load_parameters,
    read_checkpoint,
    without_params,
)
from perceiver.model.core.config import Config, differences
from perceiver.model.core.layers import AttentionLayer

if TYPE_CHECKING:
    from typing_extensions import Self


class WeightsOnlyIO(TorchCheckpointIO):
    """Reads checkpoints without running code that they bring along.

    Lightning's does that too, except for those from the web: their code it runs, and the next file of the same name,
    from another place, is the first one again.
    """

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> Any:
        if not str(path).startswith("http"):
            return super().load_checkpoint(path, map_location, weights_only=weights_only is not False)
        with downloaded(path) as file:
            return super().load_checkpoint(file, map_location, weights_only=weights_only is not False)


class LitModel(pl.LightningModule):
    """Trains a backend model. Subclasses define `step`; the CLI or a subclass defines `configure_optimizers`.

    Args:
        model: Backend model, which has a `config`.
        params: Checkpoint, folder or hub id (see `read_checkpoint`) that the model is initialised from. Without it,
            encoder and decoder are initialised from the `params` of their configs, where these are set.
        params_strict: Refuse `params` of a model whose parameters have the same shapes but mean something else: with
            another number of heads, say.
        hyper_parameters: Constructor arguments of the subclass, besides its config, that checkpoints shall hold. With
            `label_names`, those of the trainer's data module are the default, and their number is checked.
    """

    config_class: ClassVar[type[Config]]
    data_task: ClassVar[str | None] = None  # name of the `task` of data modules that serve several

    def __init__(
        self, model: nn.Module, params: str | None = None, params_strict: bool = True, **hyper_parameters: Any
    ):
        super().__init__()
        assert isinstance(model.config, Config)
        config = asdict(model.config)
        if params is not None:
            checkpoint = read_checkpoint(params)
            load_parameters(model, checkpoint.state_dict, params)
            if params_strict:
                check_function(model.config, checkpoint.hyper_parameters, params)
        else:
            for part in ("encoder", "decoder"):
                if (source := config.get(part, {}).get("params")) is not None:
                    load_part(model, source, part, params_strict)
        self.model = model
        self.dropout_seed: int | None = None
        self.num_accumulated: Tensor | None = None  # targets of the batches since the last step of the optimizer
        # Without the names of the files that the model starts from: a checkpoint never needs them again.
        # With a frame: where Lightning asks for its own, all callers' variables stay until garbage is collected.
        self.save_hyperparameters({**without_params(config), **hyper_parameters}, frame=inspect.currentframe())

    @property
    def backend_model(self) -> nn.Module:
        return self.model

    @classmethod
    def create(cls, config: Config, **kwargs: Any) -> Self:
        """Builds the module from a backend config and further constructor arguments, `params` for example."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(config)}, **kwargs)

    @classmethod
    def arguments(cls, hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a checkpoint's hyper-parameters that are arguments now, without what it was initialised from."""
        names = {field.name for field in fields(cls.config_class)} | inspect.signature(cls).parameters.keys()
        return {name: value for name, value in hyper_parameters.items() if name in names - {"params"}}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is no ordinary class method
        cls, checkpoint_path: str | Path, map_location: Any = None, *, weights_only: bool | None = True, **kwargs: Any
    ) -> Self:
        """Builds the module from a Lightning checkpoint.

        Args:
            checkpoint_path: Path or URL.
            map_location: Device of the parameters, CPU by default.
            weights_only: Lightning's argument, here always True.
            kwargs: Constructor arguments that replace those in the checkpoint.
        """
        if weights_only is False:
            raise ValueError("weights_only=False is not supported: no published checkpoint needs it")
        checkpoint = read_checkpoint(checkpoint_path)
        values = {**cls.arguments(checkpoint.hyper_parameters), **kwargs}
        config_names = {field.name for field in fields(cls.config_class)}
        try:
            config = cls.config_class.from_dict({name: values.pop(name) for name in config_names & values.keys()})
        except ValueError as error:
            title = cls.config_class.__name__.removesuffix("Config")
            raise ValueError(f"{checkpoint_path} is no {title}: {error}") from error
        lit_model = cls.create(config, **values)
        load_parameters(lit_model.model, checkpoint.state_dict, checkpoint_path)
        return lit_model if map_location is None else lit_model.to(map_location)

    def step(self, batch: Any) -> Tensor:
        """Loss of a batch."""
        raise NotImplementedError

    def compile_step(self, **options: Any) -> None:
        """Compiles `step`, of training and of validation. Its first call takes minutes.

        Args:
            options: Arguments of `torch.compile`.
        """
        self.step = torch.compile(self.step, **options)  # type: ignore[method-assign]  # of this instance alone

    @property
    def is_step_compiled(self) -> bool:
        return "step" in vars(self)

    def num_targets(self, batch: Any) -> int | Tensor | None:
        """What the loss of a batch is a mean over: its weight among batches. None: its examples."""
        return None

    def configure_model(self) -> None:
        """Under `ModelParallelStrategy`, shards the model (FSDP2): each attention layer, and what remains."""
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or isinstance(self.model, FSDPModule):
            return
        mesh = self.device_mesh
        assert mesh is not None
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                f"the model has no tensor parallelism: set tensor_parallel_size=1 and data_parallel_size={mesh.size()} "
                f"in ModelParallelStrategy, not {mesh['tensor_parallel'].size()} and {mesh['data_parallel'].size()}"
            )
        for part in (*[module for module in self.model.modules() if isinstance(module, AttentionLayer)], self.model):
            sharded = fully_shard(part, mesh=mesh["data_parallel"])
            if mesh.device_type == "cpu":  # torch 2.8 would add gradients up: its gloo does not average (issue 162338)
                sharded.set_force_sum_reduction_for_comms(True)
        # Logits are a view; torch warns of changing them in place, which nothing does.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")

    def setup(self, stage: str) -> None:
        """Checks that batches are for this kind of model, if the data module says what for: they may look alike.

        The trainer reads `ckpt_path` next: see `WeightsOnlyIO`.
        """
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = WeightsOnlyIO()
        # Lightning warns that the module's hook is taken, not the data module's. Ours know of no transfers.
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer` in `LightningModule`")
        task = getattr(self.data_module, "task", None)
        if self.data_task is not None and task is not None and task.name != self.data_task:
            raise ValueError(f"the data module has task={task.name}, {type(self).__name__} needs {self.data_task}")
        if "label_names" in self.hparams:
            names = self.hparams["label_names"] or getattr(self.data_module, "label_names", None)
            num_classes = self.hparams["decoder"]["num_classes"]
            if names is not None and len(names) != num_classes:
                raise ValueError(f"{len(names)} names, {', '.join(map(str, names))}, for num_classes={num_classes}")
            self.hparams["label_names"] = None if names is None else [str(name) for name in names]

    @property
    def data_module(self) -> Any:
        """The trainer's data module, None if it got loaders."""
        return getattr(self.trainer, "datamodule", None)

    def on_fit_start(self) -> None:
        if self.dropout_seed is None:
            self.dropout_seed = self.trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout is a function of seed, epoch, batch and process, so that a resumed run draws what it would have drawn.
        key = (self.dropout_seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "little"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dropout_seed"] = self.dropout_seed
        own = next(cls for cls in type(self).__mro__ if cls.__module__.startswith("perceiver."))
        checkpoint["lit_class"] = own.__name__  # models of two tasks may have the same parameters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.dropout_seed = checkpoint.get("dropout_seed", self.dropout_seed)
        parameters = checkpoint.get("state_dict", {})  # those of a sharded model are elsewhere
        for name in [name for name in parameters if name.endswith(COMPUTED_BUFFERS)]:
            del parameters[name]  # position codes, in checkpoints of 0.8 to 0.11

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._logged_step(batch, "train")
        if self.trainer.accumulate_grad_batches == 1 or (num_targets := self.num_targets(batch)) is None:
            return loss
        num_targets = torch.as_tensor(num_targets, device=loss.device)
        self.num_accumulated = num_targets + (0 if self.num_accumulated is None else self.num_accumulated)
        return loss * num_targets

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Makes accumulated gradients those of one large batch: a mean over the targets of all batches and processes.

        So far they are a sum over targets, divided by the number of batches and of processes: Lightning's means.
        """
        if self.num_accumulated is None:
            return
        num_targets = self.trainer.strategy.reduce(self.num_accumulated, reduce_op="sum").clamp(min=1)
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / num_targets
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad *= scale
        self.num_accumulated = None

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._logged_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._logged_step(batch, "test")

    def _logged_step(self, batch: Any, split: str) -> Tensor:
        metrics = self.metrics(batch, split)
        values = {f"{split}_{name}": value for name, value in metrics.items()}
        # The loss of a training step is that of its batch; all else is a mean, over targets, of an epoch or a data set.
        of_step = {name: value for name, value in values.items() if name in ("train_loss", "train_bits_per_byte")}
        if of_step:
            self.log_dict(of_step, prog_bar=True)
        if means := {name: value for name, value in values.items() if name not in of_step}:
            self.log_dict(
                means,
                prog_bar=True,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                batch_size=cast("int | None", self.num_targets(batch)),  # a number on the device does, too
            )
        return metrics["loss"]

    def metrics(self, batch: Any, split: str) -> dict[str, Any]:
        """What is logged of a batch of "train", "val" or "test": `loss`, and whatever else."""
        return {"loss": self.step(batch)}

    def log_text(self, tag: str, text: str) -> None:
        """Writes text to the TensorBoard loggers, or prints it if there is none. Only the first process does."""
        if not self.trainer.is_global_zero:
            return
        writers = [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]
        for writer in writers:
            writer.experiment.add_text(tag, text, self.global_step)
        if not writers:
            self.print(f"{tag}\n{text}")


def padding_if_any(pad_mask: Tensor | None) -> Tensor | None:
    """What `on_before_batch_transfer` makes of a batch's padding: without there are faster kernels in every layer.

    Like the number of labels, it is asked for while the batch is on the host: a device would be waited for.
    """
    return pad_mask if pad_mask is not None and pad_mask.any() else None


def load_part(model: nn.Module, source: str, part: str, strict: bool) -> None:
    """Initialises encoder or decoder from those of another model; of a decoder all but the output, which may differ."""
    number, own = {"encoder": ("0", ()), "decoder": ("1", ("output_adapter.",))}[part]
    module, checkpoint = model.get_submodule(number), read_checkpoint(source, part=f"{number}.")
    state_dict = {name: value for name, value in checkpoint.state_dict.items() if not name.startswith(own)}
    kept = {name: value for name, value in module.state_dict().items() if name.startswith(own)}
    load_parameters(module, state_dict | kept, source)
    if strict:
        check_function(getattr(model.config, part), checkpoint.hyper_parameters[part], source)


def check_function(config: Config, values: Mapping[str, Any], source: str) -> None:
    """Raises ValueError if parameters of a model with the configuration `values` mean something else under `config`."""
    if found := differences(config, type(config).of_hyper_parameters(values)):
        raise ValueError(
            f"{source} is of another model, so that its parameters would compute something else: here and there are "
            f"{', '.join(found)}. params_strict=False loads them nevertheless"
        )
