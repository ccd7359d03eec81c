"""What the commands that run a causal model have in common: `evaluate`, `generate`, `continue`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from perceiver.scripts.meter import Meter
from perceiver.scripts.parsing import OneLineErrors
from perceiver.tasks import TASKS

if TYPE_CHECKING:
    import torch

    from perceiver.model.core.checkpoint import Checkpoint


def run(parser: OneLineErrors, function: Callable[[Namespace], None], args: Sequence[str]) -> None:
    """Runs a command; what is missing or doesn't fit together is said in one line."""
    try:
        function(parser.parse_args(list(args)))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def add_model_arguments(parser: OneLineErrors) -> None:
    """Adds which model runs, and where."""
    parser.add_argument("--config", action="config", help="File with these arguments, as --print_config prints them.")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="Hugging Face folder, hub id, or Lightning checkpoint."
    )
    parser.add_argument(
        "--device", metavar="NAME", help="Where the model runs: cpu, cuda, ... Default: cuda if there is one, else cpu."
    )


def add_sampling_arguments(parser: OneLineErrors) -> None:
    """Adds how tokens are drawn."""
    parser.add_argument("--max_new_tokens", type=int, default=512, help="How many tokens are generated.")
    parser.add_argument("--num_latents", type=int | None, help="Last tokens of the prompt that start as latents.")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the most probable token.")
    parser.add_argument("--top_k", type=int | None, help="Only the k most probable tokens are drawn.")
    parser.add_argument("--top_p", type=float | None, help="Only the most probable, up to this probability, are drawn.")
    parser.add_argument("--seed", type=int, default=0, help="Another seed gives another continuation.")


def add_scoring_arguments(parser: OneLineErrors) -> None:
    """Adds how tokens are scored, and where the results go."""
    parser.add_argument(
        "--stride",
        type=int | None,
        help="Tokens that a window scores. Default: max_latents. Fewer take longer and have more context.",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="Windows that the model sees at once.")
    parser.add_argument("--output", metavar="FILE", help="JSON file to write the results to.")


def check_output(arguments: Namespace) -> None:
    """Raises FileNotFoundError now, not after the scoring, if the results can't be written."""
    if arguments.output is not None and not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(f"there is no folder for --output={arguments.output}")


@contextmanager
def scoring(arguments: Namespace, device: str, num_tokens: int) -> Iterator[dict[str, Any]]:
    """Says what is scored. Inside are the arguments of `evaluate_tokens`, which show how far it is."""
    print(f"{arguments.model} on {device}, {num_tokens:,} tokens to score", file=sys.stderr, flush=True)
    meter = Meter("tokens", num_tokens, file=sys.stderr)

    def progress(number: int) -> None:
        if meter.is_time() or number == num_tokens:
            meter.show(number)

    try:
        yield {"stride": arguments.stride, "batch_size": arguments.batch_size, "progress": progress}
    finally:
        meter.close()


def show_results(arguments: Namespace, model: Any, values: dict[str, Any]) -> None:
    """Prints results, and writes them with what they are of."""
    for name, value in values.items():
        print(f"{name:<22}{value:>14,.6g}" if isinstance(value, float) else f"{name:<22}{value:>14,}")
    if arguments.output is not None:
        settings = {
            "model": arguments.model,
            "data": arguments.data,
            "stride": arguments.stride or model.max_latents,
            "max_seq_len": model.max_seq_len,
        }
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        Path(arguments.output).write_text(json.dumps({**settings, **finite}, indent=2) + "\n")


def sampling(arguments: Namespace) -> dict[str, Any]:
    """Arguments of `generate`.

    Raises:
        ValueError: if one is out of range.
    """
    for name, least in (("max_new_tokens", 1), ("num_latents", 1), ("temperature", 0), ("top_k", 1)):
        value = arguments.get(name)
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if arguments.top_p is not None and not 0 < arguments.top_p <= 1:
        raise ValueError(f"top_p={arguments.top_p} must be in (0, 1]")
    result = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.num_latents is not None:
        result["num_latents"] = arguments.num_latents
    if arguments.temperature == 0:
        return {**result, "do_sample": False}
    drawn = {"temperature": arguments.temperature, "top_k": arguments.top_k or 0, "top_p": arguments.top_p or 1.0}
    return {**result, "do_sample": True, **drawn}


def read_causal(task_name: str, source: str) -> Checkpoint:
    """Reads a model of a task. Errors as in `read_checkpoint`, ValueError also if it is another model."""
    from perceiver.model.core.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(source)
    if "max_latents" not in checkpoint.hyper_parameters:
        raise ValueError(f"{source} is no {TASKS[task_name].title}: its configuration has no max_latents")
    return checkpoint


def load_backend(task_name: str, source: str) -> Any:
    """The backend model of a Hugging Face folder, a hub id or a Lightning checkpoint. Errors as in `read_causal`."""
    from perceiver.model.core.checkpoint import load_parameters

    checkpoint, task = read_causal(task_name, source), TASKS[task_name]
    backend = import_module(f"{task.package}.backend")
    config = getattr(backend, f"{task.model}Config").of_hyper_parameters(checkpoint.hyper_parameters)
    model = getattr(backend, task.model)(config)
    load_parameters(model, checkpoint.state_dict, source)
    return model.eval()


def load_hugging_face(task_name: str, source: str) -> Any:
    """As `load_backend`, the Hugging Face model, which generates."""
    read_causal(task_name, source)
    task = TASKS[task_name]
    return getattr(import_module(task.package), f"Perceiver{task.model}").from_checkpoint(source)


def to_device(model: torch.nn.Module, name: str | None) -> str:
    """Moves a model, and returns where it is.

    Raises:
        ValueError: if there is no such device.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} can't be used: {error}") from error
    return device
