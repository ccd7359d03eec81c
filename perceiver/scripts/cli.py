"""The training scripts: Lightning's command line with our optimizers, schedules and trainer defaults.

    --data=WikiTextDataModule            any data module of the task, by class name or by import path
    --optimizer=AdamW --optimizer.lr=1e-3     an optimizer of torch.optim or pytorch_optimizer (Lamb, ...)
    --lr_scheduler.warmup_steps=100      of the task's schedule; another: --lr_scheduler=ConstantWithWarmupLR
    --config=run.yaml                    what --print_config prints and what every run saves beside its logs

Values come, the later the stronger, from signatures, the task's named variant, trainer.yaml, config files and flags.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytorch_optimizer  # noqa: F401  # makes its classes known by name
import torch
from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, instantiate_class
from torch.optim import Optimizer

from perceiver.model.core.checkpoint import published_classes, read_checkpoint
from perceiver.model.lightning.model import LitModel
from perceiver.scripts import former
from perceiver.scripts.lrs import ConstantWithWarmupLR, CosineWithWarmupLR
from perceiver.tasks import TASKS

# A class name is looked up below each of these in turn, and `--optimizer.lr` without a name means the first. Three of
# torch's classes stand for themselves: pytorch_optimizer has others of the same name, ambiguous below Optimizer alone.
OPTIMIZERS: tuple[type[Optimizer], ...] = (
    torch.optim.AdamW,
    *(getattr(torch.optim, name) for name in ("ASGD", "Muon", "RAdam") if hasattr(torch.optim, name)),
    Optimizer,
)

# Not a default of the parser: the flags of another optimizer would start from AdamW's values (eps, weight_decay)
# instead of their own.
DEFAULT_OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}


def train(name: str, args: ArgsType = None) -> None:
    """Runs the training script of a task with the command line `args`, `sys.argv[1:]` if None."""
    task = TASKS[name]
    package = import_module(task.package)
    for name in task.data:  # known by their names as soon as they are imported
        getattr(import_module(task.data_package), name)
    links = {f"data.{source}": [f"model.{target}" for target in targets] for source, targets in task.links.items()}
    linked = {target for targets in links.values() for target in targets}
    variant = asdict(getattr(package, task.variant)())
    defaults = {flag: value for flag, value in flags(variant, "model") if flag not in linked}
    defaults["lr_scheduler"] = {"class_path": task.schedule}
    defaults["trainer.logger"] = {
        "class_path": "TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": task.logs},
    }
    if task.data_default:
        defaults["data"] = task.data_default
    CLI(getattr(package, f"Lit{task.model}"), defaults=defaults, links=links, args=args)


def flags(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The values of a configuration as flags, `model.encoder.dropout` for example."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flags(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


class CLI(LightningCLI):
    """Command line of one task: subcommands fit, validate and test.

    Args:
        model_class: The task's Lightning module; its signature gives the flags `--model.*`.
        defaults: Default of each flag that differs from the signatures, by its full name (`model.num_latents`).
        links: Flags of the model that the data module decides, as {data attribute: [model flags]}. They can't be given.
        args: The command line, `sys.argv[1:]` if None.
        run: Run the subcommand. False parses flags without a subcommand and builds trainer, model and data only.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        *,
        defaults: dict[str, Any],
        links: dict[str, list[str]],
        args: ArgsType = None,
        run: bool = True,
    ) -> None:
        self.defaults = defaults
        self.links = links
        trainer_yaml = resources.as_file(resources.files("perceiver.scripts") / "trainer.yaml")
        with trainer_yaml as trainer_defaults, published_classes():
            kwargs = {"default_config_files": [str(trainer_defaults)]}
            super().__init__(
                model_class,
                LightningDataModule,
                subclass_mode_data=True,
                seed_everything_default=0,
                # version_<N> is new for each run; where there is none (no logger), the last run's config is what counts
                save_config_kwargs={"overwrite": True},
                auto_configure_optimizers=False,
                # flags are contracts: an abbreviation would break when another flag is added
                parser_kwargs={"allow_abbrev": False, **(dict.fromkeys(self.subcommands(), kwargs) if run else kwargs)},
                args=args,
                run=run,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's without predict: what a task predicts is asked for through its Hugging Face model."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds optimizer and schedule, the links from data to model, and the defaults."""
        parser.add_optimizer_args(OPTIMIZERS)
        parser.add_lr_scheduler_args((ConstantWithWarmupLR, CosineWithWarmupLR))
        for source, targets in self.links.items():
            for target in targets:
                parser.link_arguments(source, target, apply_on="instantiate")
        parser.set_defaults(self.defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, also what 0.11 called otherwise, and without Lightning's warning that `args` and `sys.argv` are both
        there: `perceiver mlm` has both."""
        if isinstance(args, dict | Namespace):
            self.config = parser.parse_object(args)
            return
        try:
            arguments = former.todays(sys.argv[1:] if args is None else args)
        except ValueError as error:
            parser.error(str(error))
        self.config = parser.parse_args(arguments)

    def _parse_ckpt_path(self) -> None:
        """As Lightning does, takes the model's arguments from `--ckpt_path`: from checkpoints of 0.8 to 0.11, too, and
        not the names of files that the model once started from."""
        subcommand = self.config.get("subcommand")
        path = subcommand and self.config[subcommand].get("ckpt_path")
        model_class = self.model_class
        if path and Path(path).is_file() and isinstance(model_class, type) and issubclass(model_class, LitModel):
            try:
                values = model_class.arguments(read_checkpoint(path).hyper_parameters)
            except ValueError as error:
                self.parser.error(f"--ckpt_path: {error}")
            self.config = self.parser.parse_object({subcommand: {"model": values}}, self.config)

    def before_instantiate_classes(self) -> None:
        """Fills in the default optimizer, so that the saved config has it."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.optimizer is None:
            config.optimizer = dict_to_namespace(DEFAULT_OPTIMIZER)

    def after_instantiate_classes(self) -> None:
        """Tells the model how to make its optimizer at the start of the training.

        Lightning would make it now, from parameters that a sharded model (FSDP2) no longer has when it is trained.
        """
        optimizer, lr_scheduler = (self._get(self.config_init, key) for key in ("optimizer", "lr_scheduler"))
        self.model.configure_optimizers = partial(configure_optimizers, self.model, optimizer, lr_scheduler)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer; without a logger also without the default callback that can't be without one."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.logger is False and trainer.callbacks:
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, LearningRateMonitor)]
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Saves the end of the training, and what images went through: a conversion of checkpoints asks for it.

        The best state, saved after a validation, is another thing to want.
        """
        callback = self.trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and callback.save_top_k != 0 and callback.dirpath is not None:
            self.trainer.save_checkpoint(Path(callback.dirpath) / "last.ckpt", weights_only=False)
        image_processor = getattr(self.datamodule, "image_processor", None)
        if image_processor is not None and self.trainer.log_dir is not None and self.trainer.is_global_zero:
            image_processor.save_pretrained(self.trainer.log_dir)


def configure_optimizers(
    lightning_module: LightningModule, optimizer_init: dict[str, Any], lr_scheduler_init: dict[str, Any] | None
) -> dict[str, Any]:
    """Makes optimizer and schedule, which is stepped once per optimizer step; a cosine gets the training's length."""
    optimizer = instantiate_class(lightning_module.parameters(), optimizer_init)
    if lr_scheduler_init is None:
        return {"optimizer": optimizer}
    lr_scheduler = instantiate_class(optimizer, lr_scheduler_init)
    if isinstance(lr_scheduler, CosineWithWarmupLR) and lr_scheduler.training_steps == 0:
        steps = lightning_module.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "a training without an end gives CosineWithWarmupLR no length: set trainer.max_steps, "
                "trainer.max_epochs or lr_scheduler.training_steps, or use lr_scheduler=ConstantWithWarmupLR"
            )
        if steps > lr_scheduler.warmup_steps:  # otherwise the training ends before the cosine begins
            lr_scheduler.training_steps = int(steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
