"""What a run says at its end: where its checkpoints are, how good, and what to do next."""

from __future__ import annotations

import signal
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from perceiver.scripts.callbacks import Stopped
from perceiver.tasks import TASKS


def stopped(program: str, stop: Stopped, trainer: Trainer, path: Path | None) -> str:
    """That a signal stopped a run, and how it goes on.

    Args:
        program: `perceiver` and the task.
        stop: How it was stopped.
        trainer: Its trainer.
        path: Where `last.ckpt` is, of this time or an earlier one.
    """
    by = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signal.Signals(stop.signum)]
    if stop.checkpoint is None and (path is None or not path.exists()):
        return f"{program}: stopped by {by}; there is no checkpoint"
    checkpoint = stop.checkpoint or path
    assert checkpoint is not None
    config = checkpoint.parent.parent / "config.yaml"
    flags = [f"--config={config}"] if config.is_file() else []
    how_far = f" after step {trainer.global_step}" if stop.checkpoint else f", an earlier state is in {checkpoint}"
    return f"{program}: stopped by {by}{how_far}. It goes on with\n\n" + command(
        f"{program} fit", *flags, f"--ckpt_path={checkpoint}"
    )


def finished(task_name: str, trainer: Trainer, tokenizer: str | None, last: Path) -> str:
    """Where the checkpoints of a training are, how good, and how to convert and use the best.

    Args:
        task_name: Name of the task.
        trainer: Its trainer.
        tokenizer: Name of the tokenizer, if there is one.
        last: Its last checkpoint.
    """
    callback, last = trainer.checkpoint_callback, short(last)
    lines, best = [], last
    if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
        best = short(Path(callback.best_model_path))
        lines += [f"best  {best}", f"      {score(str(callback.monitor), callback.best_model_score, trainer)}"]
    value = trainer.callback_metrics.get("val_loss")
    of_last = "" if value is None else f", {score('val_loss', value, trainer)}"
    lines += [f"last  {last}", f"      step {trainer.global_step}{of_last}", "", "To convert it and to use it:", ""]
    folder = f"my-{task_name}"
    needs = ["--tokenizer", tokenizer] if TASKS[task_name].processor == "tokenizer" and tokenizer else []
    lines.append(command("perceiver convert checkpoint", "--task", task_name, str(best), folder, *needs))
    return "\n".join([*lines, use(task_name, folder)])


def short(path: Path) -> Path:
    """A path as seen from here."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def score(name: str, value: Tensor, trainer: Trainer) -> str:
    """A metric; a loss in bits per byte, too, where these are logged."""
    loss, bits = (trainer.callback_metrics.get(f"val_{metric}") for metric in ("loss", "bits_per_byte"))
    also = ""
    if name == "val_loss" and bits is not None and loss is not None and loss > 0:
        also = f", {float(value * bits / loss):.3f} bits per byte"  # they are proportional
    return f"{name} {float(value):.4g}{also}"


def use(task_name: str, folder: str) -> str:
    """A command that uses a converted model."""
    task = TASKS[task_name]
    if example := next((c.example for c in task.commands.values() if c.example), None):
        return command(f"perceiver {task_name}", *example.format(folder=folder).split("  "))
    package, _, name = task.package.rpartition(".")
    imports = f"from transformers import {'pipeline' if task.pipeline else 'AutoModel'}"
    model = f'pipeline("{task.pipeline}", "{folder}")' if task.pipeline else f'AutoModel.from_pretrained("{folder}")'
    return "\n".join(
        [
            "  python -i -c '",
            imports,
            f"from {package} import {name}" if package else f"import {name}",
            f"model = {model}",
            "'",
        ]
    )


def command(program: str, *arguments: str) -> str:
    """A command line that can be copied, in lines of at most 80 columns where that is possible."""
    lines = [f"  {program}"]
    for argument in arguments:
        if len(lines[-1]) + len(argument) > 76:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {argument}"
    return "\n".join(lines)
