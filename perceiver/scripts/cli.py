"""The training scripts: Lightning's command line with our optimizers, schedules and trainer defaults.

    --data=WikiTextDataModule            any data module of the task, by class name or by import path
    --optimizer=AdamW --optimizer.lr=1e-3     an optimizer of torch.optim or pytorch_optimizer (Lamb, ...)
    --lr_scheduler.warmup_steps=100      of the task's schedule; another: --lr_scheduler=ConstantWithWarmupLR
    --config=run.yaml                    what --print_config prints and what every run saves beside its logs

Values come, the later the stronger, from signatures, the task's named variant, trainer.yaml, config files and flags.
"""

import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from importlib import import_module, resources
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelSummary, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, instantiate_class
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from perceiver.model.core.config import flat
from perceiver.model.core.parameter_groups import muon_groups
from perceiver.model.core.pickles import published_classes
from perceiver.scripts import former, report
from perceiver.scripts.callbacks import FinalValidation, ImageProcessor, LastCheckpoint, Stopped, TrainingLength
from perceiver.scripts.flags import pairs
from perceiver.scripts.lrs import ConstantWithWarmupLR, CosineWithWarmupLR
from perceiver.scripts.parsing import OneLineErrors, condensed
from perceiver.scripts.progress import Progress, Summary, quieten
from perceiver.scripts.sources import from_checkpoint, given_flags, last_checkpoint, nested
from perceiver.tasks import TASKS

# A class name is looked up below each of these in turn, and `--optimizer.lr` without a name means the first. Three of
# torch's classes stand for themselves: pytorch_optimizer has others of the same name, ambiguous below Optimizer alone.
OPTIMIZERS: tuple[type[Optimizer], ...] = (
    torch.optim.AdamW,
    *(getattr(torch.optim, name) for name in ("ASGD", "Muon", "RAdam") if hasattr(torch.optim, name)),
    Optimizer,
)

# Of pytorch_optimizer: those that train the matrices of layers, and all else as AdamW does. torch's takes nothing else.
MUON = ("Muon", "AdaMuon", "NorMuon")

# Not a default of the parser: the flags of another optimizer would start from AdamW's values (eps, weight_decay)
# instead of their own.
DEFAULT_OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}


def train(task_name: str, args: ArgsType = None) -> None:
    """Runs fit, validate or test of a task with the command line `args`, `sys.argv[1:]` if None."""
    quieten()
    task = TASKS[task_name]
    package = import_module(task.package)
    chosen = [value for name, value in given_pairs(args) if name in ("data", "data.class_path")]
    for name in chosen if chosen and set(chosen) <= set(task.data) else task.data:
        getattr(import_module(task.data_package), str(name))  # known by its name as soon as it is imported
    links = {f"data.{source}": [f"model.{target}" for target in targets] for source, targets in task.links.items()}
    linked = {target for targets in links.values() for target in targets}
    variant = flat({"model": asdict(getattr(package, task.variant)())})
    defaults = {flag: value for flag, value in variant.items() if flag not in linked}
    defaults["lr_scheduler"] = {"class_path": task.schedule}
    defaults["trainer.logger"] = {
        "class_path": "TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": task.logs},
    }
    if task.data_default:
        defaults["data"] = task.data_default
    CLI(getattr(package, f"Lit{task.model}"), defaults=defaults, links=links, task_name=task_name, args=args)


def given_pairs(args: ArgsType) -> list[tuple[str, str | None]]:
    """The flags of a command line and their values; of a configuration, that it is one."""
    args = sys.argv[1:] if args is None else args
    return pairs(args) if isinstance(args, list) else [("config", None)]


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's, with errors in one line."""


class CLI(LightningCLI):
    """Command line of one task: subcommands fit, validate and test.

    Args:
        model_class: The task's Lightning module; its signature gives the flags `--model.*`.
        defaults: Default of each flag that differs from the signatures, by its full name (`model.num_latents`).
        links: Flags of the model that the data module decides, as {data attribute: [model flags]}. They can't be given.
        task_name: The task, for messages.
        args: The command line, `sys.argv[1:]` if None.
        run: Run the subcommand. False parses flags without a subcommand and builds trainer, model and data only.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        *,
        defaults: dict[str, Any],
        links: dict[str, list[str]],
        task_name: str | None = None,
        args: ArgsType = None,
        run: bool = True,
    ) -> None:
        self.defaults = defaults
        self.links = links
        self.task_name = task_name
        self.given = given_flags(args, "model")
        line = sys.argv[1:] if args is None else args
        self.begin = line[0] if isinstance(line, list) and line else None
        chosen = [value for name, value in given_pairs(args) if name in ("optimizer", "optimizer.class_path", "config")]
        if not all(hasattr(torch.optim, str(name)) for name in chosen):
            import_module("pytorch_optimizer")  # makes its classes known by name; it takes seconds
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
                parser_class=Parser,
                # flags are contracts: an abbreviation would break when another flag is added
                parser_kwargs={
                    "allow_abbrev": False,
                    **({"prog": f"perceiver {task_name}"} if task_name else {}),
                    **(dict.fromkeys(self.subcommands(), kwargs) if run else kwargs),
                },
                args=args,
                run=run,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's depends on nothing
        """Lightning's without predict: what a task predicts is asked for through its Hugging Face model.

        Of a command line that begins with one, that one alone: it takes as long to make a parser as to use it.
        """
        commands = LightningCLI.subcommands()
        names = ("fit", "validate", "test")
        return {name: commands[name] for name in ((self.begin,) if self.begin in names else names)}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds optimizer, schedule and `last.ckpt`, the links from data to model, and the defaults."""
        parser.add_optimizer_args(OPTIMIZERS)
        parser.add_lr_scheduler_args((ConstantWithWarmupLR, CosineWithWarmupLR))
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_argument("--compile", type=bool, default=False, help="fit with steps compiled by torch.compile")
        for source, targets in self.links.items():
            for target in targets:
                parser.link_arguments(source, target, apply_on="instantiate")
        parser.set_defaults(self.defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, also what 0.11 called otherwise, and without Lightning's warning that `args` and `sys.argv` are both
        there: `perceiver mlm` has both.

        Where the model starts from a checkpoint, its geometry is that of the checkpoint.
        """
        if isinstance(args, dict | Namespace):
            self.config = parser.parse_object(args)
        else:
            try:
                arguments = former.todays(sys.argv[1:] if args is None else args)
            except ValueError as error:
                parser.error(str(error))
            self.config = parser.parse_args(arguments)
        try:
            values = self.values_of_checkpoints()
        except (OSError, ValueError) as error:
            self.fail(error)
        if values:
            subcommand = self.config.get("subcommand")
            self.config = parser.parse_object({subcommand: values} if subcommand else values, self.config)

    def _parse_ckpt_path(self) -> None:
        """Lightning's would let the checkpoint decide every flag of the model, also those that were given."""

    def values_of_checkpoints(self) -> dict[str, Any]:
        """Flags of the model that the checkpoints decide from which it starts. Resolves `--ckpt_path=last`."""
        config = self.config.get(self.config.get("subcommand") or "", self.config)
        if config.get("ckpt_path") == "last":
            config.ckpt_path = last_checkpoint(config.trainer)
        linked = [target.removeprefix("model.") for targets in self.links.values() for target in targets]
        model_flags = flat(config.model.as_dict())
        config_flags = [name.removeprefix("model.") for name in self.defaults if name.startswith("model.")]
        flags = [name for name in model_flags if name not in linked]
        sources = {f"model.{part}params": model_flags.get(f"{part}params") for part in ("decoder.", "encoder.", "")} | {
            "ckpt_path": config.get("ckpt_path")
        }
        values: dict[str, Any] = {}
        for flag, source in sources.items():
            if source and source not in ("best", "hpc") and not source.startswith("registry"):
                strict = flag == "ckpt_path" or model_flags.get("params_strict", True)
                values |= from_checkpoint(source, flag, flags, config_flags, self.given, strict)
        return {"model": nested(values)} if values else {}

    def before_fit(self) -> None:
        """Compiles the steps of the model, if `--compile` asks for it."""
        if self.config.fit.compile:
            self.model.compile_step()

    def before_instantiate_classes(self) -> None:
        """Fills in the default optimizer, so that the saved config has it; checkpoints are read without their code."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.optimizer is None:
            config.optimizer = dict_to_namespace(DEFAULT_OPTIMIZER)
        if config.get("weights_only", False) is None:
            config.weights_only = True

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (OSError, ValueError, MisconfigurationException) as error:
            self.fail(error)

    def fail(self, error: Exception | str) -> NoReturn:
        """Says why a run can't begin, in one line, and ends."""
        print(f"{self.parser.prog}: {condensed(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, str) else 1)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer; without a logger or checkpoints also without the callbacks that can't be without."""
        trainer = self._get(self.config_init, "trainer")
        unwanted: tuple[type[Callback], ...] = (LearningRateMonitor,) if trainer.logger is False else ()
        unwanted += (Checkpoint,) if trainer.enable_checkpointing is False else ()
        if trainer.callbacks:
            trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, unwanted)]
        else:
            trainer.callbacks = []
        trainer.callbacks += [FinalValidation(), ImageProcessor()]
        lr_scheduler = self._get(self.config, "lr_scheduler")
        if lr_scheduler and not lr_scheduler.init_args.get("training_steps"):
            trainer.callbacks.append(TrainingLength())
        if trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in trainer.callbacks):
            trainer.callbacks.append(Progress())
        if trainer.enable_model_summary is not False and not any(
            isinstance(c, ModelSummary) for c in trainer.callbacks
        ):
            trainer.callbacks.append(Summary())
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Tells the model how to make its optimizer at the start of the training.

        Lightning would make it now, from parameters that a sharded model (FSDP2) no longer has when it is trained.
        """
        optimizer, lr_scheduler = (self._get(self.config_init, key) for key in ("optimizer", "lr_scheduler"))
        self.model.configure_optimizers = partial(configure_optimizers, self.model, optimizer, lr_scheduler)

    @property
    def last_checkpoint(self) -> LastCheckpoint:
        callback: LastCheckpoint = self._get(self.config_init, "last_checkpoint")
        return callback

    def fit(self, **kwargs: Any) -> None:
        self.run_safely(self.trainer.fit, kwargs)

    def validate(self, **kwargs: Any) -> None:
        self.run_safely(self.trainer.validate, kwargs)

    def test(self, **kwargs: Any) -> None:
        self.run_safely(self.trainer.test, kwargs)

    def run_safely(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        """Runs so that signals end it in good order, and that what can't begin says why in one line."""
        last = self.last_checkpoint
        try:
            with last.signals:
                function(**kwargs)
        except Stopped as stop:
            launcher = self.trainer.strategy.launcher
            if not stop.agreed and launcher is not None and hasattr(launcher, "kill"):
                launcher.kill(signal.SIGKILL)  # the other processes would wait for this one
            if not self.trainer.is_global_zero:
                sys.exit(0 if stop.agreed else stop.code)  # Lightning kills the first process where another one fails
            print(report.stopped(self.parser.prog, stop, self.trainer, last.path(self.trainer)), file=sys.stderr)
            raise
        except (OSError, ValueError, MisconfigurationException) as error:
            if last.has_begun:
                raise
            self.fail(error)

    def after_fit(self) -> None:
        """Saves the end of the training, and says what came of it. The best state is another thing to want."""
        if not self.last_checkpoint.has_begun:  # resumed at its end, which was perhaps not validated
            self.validate(model=self.model, datamodule=self.datamodule)
        path = self.last_checkpoint.save(self.trainer)
        if self.task_name and path and self.trainer.is_global_zero:
            data = self._get(self.config, "data")
            tokenizer = data.as_dict().get("init_args", {}).get("tokenizer")
            print(report.finished(self.task_name, self.trainer, tokenizer, path))


def parameters_for(class_path: str, lightning_module: LightningModule) -> Iterable[Any]:
    """The parameters as an optimizer takes them."""
    module, _, name = class_path.rpartition(".")
    if module.startswith("pytorch_optimizer") and name in MUON:
        return muon_groups(lightning_module)
    return lightning_module.parameters()


def configure_optimizers(
    lightning_module: LightningModule, optimizer_init: dict[str, Any], lr_scheduler_init: dict[str, Any] | None
) -> dict[str, Any]:
    """Makes optimizer and schedule, which is stepped once per optimizer step."""
    optimizer = instantiate_class(parameters_for(optimizer_init["class_path"], lightning_module), optimizer_init)
    if lr_scheduler_init is None:
        return {"optimizer": optimizer}
    lr_scheduler = instantiate_class(optimizer, lr_scheduler_init)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
