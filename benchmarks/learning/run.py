"""Trains models of a task from several seeds, all for the same time, and appends what they learnt to a file.

    python -m benchmarks.learning.run recall
    python -m benchmarks.learning.run recall --model perceiver-ar decoder --seeds 3 --minutes 5

Time is the CPU time of this process with one thread; what the test takes doesn't count. Models of a seed are trained in
turns, next the one that has used the least time: what else the machine does slows all of them alike. The learning rate
is constant after its warm-up: a curve may be read at any time or step as the result of a shorter run, and the table of
equal steps does so (`python -m benchmarks.learning.report`). A run that the file has already is not repeated, and what
was not finished begins again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks.learning.counters import COUNTERS
from benchmarks.learning.models import LEARNERS, models_of
from benchmarks.learning.tasks import TASKS, NextTokens, Task

RESULTS = Path(__file__).parent / "results" / "runs.jsonl"
WARMUP_STEPS = 50


def score(task: Task, logits: Tensor, labels: Tensor) -> float:
    """Accuracy in percent, or bits per label."""
    if isinstance(task, NextTokens):
        logits, labels = logits.flatten(0, 1), labels[:, -task.num_scored :].flatten()
        logits, labels = logits[labels != -100], labels[labels != -100]
    if task.metric == "bits":
        return nn.functional.cross_entropy(logits, labels).item() / math.log(2)
    return 100 * (logits.argmax(dim=-1) == labels).double().mean().item()


@torch.no_grad()
def tested(task: Task, model: Any, test: tuple[Tensor, Tensor]) -> float:
    x, labels = test
    return score(task, torch.cat([model.logits(part) for part in x.split(64)]), labels)


def milestones() -> Iterator[int]:
    """The steps at which all models are tested: 10, 18, 32, 56, 100, ..."""
    k = 4
    while True:
        yield round(10 ** (k / 4))
        k += 1


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> AdamW:
    return AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.01)


def constant(step: int, progress: float) -> float:
    return min(step / WARMUP_STEPS, 1.0)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The tables of models have this one; benchmarks/learning/switches.py compares others.

    Attributes:
        change: Changes a model before its training.
        optimizers: (model, learning rate) -> optimizers that have its parameters among them.
        schedule: (number of the step from 0 on, share of the time that is used) -> share of the learning rate.
    """

    change: Callable[[nn.Module], None] = lambda model: None
    optimizers: Callable[[nn.Module, float], Sequence[Optimizer]] = lambda model, lr: [adamw(model.parameters(), lr)]
    schedule: Callable[[int, float], float] = constant


DEFAULT = Recipe()


def learning(
    task: Task,
    name: str,
    seed: int,
    seconds: float,
    lr: float,
    recipe: Recipe = DEFAULT,
    due: Iterator[int] | None = None,
) -> Generator[float, None, dict[str, Any]]:
    """Trains a model for some seconds of CPU time, and pauses after each step.

    `due` are the steps after which it is tested, as it is in the end: by default those of `milestones`.

    Yields:
        The seconds used so far.

    Returns:
        Number of parameters, and the curve: (steps, seconds, score) at each milestone and at the end.
    """
    torch.manual_seed(seed)
    model, test = LEARNERS[name](task), task.test()
    recipe.change(model)
    optimizers = recipe.optimizers(model, lr)
    rates = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    curve: list[tuple[int, float, float]] = []
    steps, used, due = 0, 0.0, milestones() if due is None else due
    next_test = next(due, None)
    while used < seconds:
        start = time.process_time()
        model.train()
        model.zero_grad()
        model.loss(*task.batch(generator)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, rate in rates:
            group["lr"] = rate * recipe.schedule(steps, used / seconds)
        for optimizer in optimizers:
            optimizer.step()
        steps, used = steps + 1, used + time.process_time() - start
        if steps == next_test or used >= seconds:
            curve.append((steps, round(used, 3), round(tested(task, model.eval(), test), 4)))
            next_test = next(due, None) if steps == next_test else next_test
        yield used
    return {"parameters": sum(p.numel() for p in model.parameters()), "curve": curve}


def learn(task: Task, name: str, seed: int, seconds: float, lr: float) -> dict[str, Any]:
    """The result of `learning`, without a pause."""
    return in_turns([learning(task, name, seed, seconds, lr)])[0]


def in_turns(runs: Sequence[Generator[float, None, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Their results. Next is the run that has used the least time. Each has random numbers of its own."""
    results: dict[int, dict[str, Any]] = {}
    used = dict.fromkeys(range(len(runs)), 0.0)
    states = dict.fromkeys(used, torch.get_rng_state())
    while used:
        i = min(used, key=lambda i: used[i])
        torch.set_rng_state(states[i])
        try:
            used[i] = next(runs[i])
        except StopIteration as end:
            results[i] = end.value
            del used[i]
        states[i] = torch.get_rng_state()
    return [results[i] for i in range(len(runs))]


def count(task: Task, name: str) -> dict[str, Any]:
    """Fits a model that has no steps."""
    model = COUNTERS[name](task)
    start = time.process_time()
    model.fit()
    used = time.process_time() - start
    return {"parameters": model.num_parameters, "curve": [(0, round(used, 3), tested(task, model, task.test()))]}


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{cpu}, one thread, torch {torch.__version__}"


def read(path: Path) -> list[dict[str, Any]]:
    """The runs of a file, which may not exist. A last line that was cut off is no run."""
    return [json.loads(line) for line in whole_lines(path)]


def whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def resume(path: Path) -> list[dict[str, Any]]:
    """The runs of a file that is to take up more: it is made if it doesn't exist, and loses a line that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in whole_lines(path)), encoding="utf-8")
    return read(path)


def append(path: Path, run: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", nargs="+", choices=[*LEARNERS, *COUNTERS], help="default: all that can do the task")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parse_training(parser, argv, minutes=5.0)


def parse_training(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, minutes: float, seeds: int = 3
) -> argparse.Namespace:
    """Arguments of a parser, and those that say how long models are trained, with these defaults."""
    parser.add_argument("--seeds", type=int, default=seeds, help="how many seeds, from 0 on")
    parser.add_argument("--minutes", type=float, default=minutes, help="CPU time of each training")
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args(argv)
    for name in ("seeds", "minutes", "lr"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name}={getattr(arguments, name)} must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(1)
    try:
        task = TASKS[arguments.task]()
    except ModuleNotFoundError as error:  # of a task whose data are another package's
        raise SystemExit(f"{arguments.task}: {error}") from error
    names = arguments.model or models_of(task)
    if wrong := set(names) - set(models_of(task)):
        raise SystemExit(f"{', '.join(sorted(wrong))} can't do {arguments.task}: {', '.join(models_of(task))} can")
    done = [run_key(run) for run in resume(arguments.results)]
    for seed in range(arguments.seeds):
        same = {"task": arguments.task, "seed": seed, "minutes": arguments.minutes, "lr": arguments.lr}
        keys = [same | {"model": name} for name in names if name in LEARNERS and same | {"model": name} not in done]
        seconds = 60 * arguments.minutes
        runs = [learning(task, key["model"], seed, seconds, arguments.lr) for key in keys]
        for key, result in zip(keys, in_turns(runs), strict=True):
            record(arguments.results, key, task, result)
    for name in [name for name in names if name in COUNTERS]:
        key = {"task": arguments.task, "model": name, "seed": 0, "minutes": 0.0, "lr": 0.0}  # nothing is random there
        if key not in done:
            record(arguments.results, key, task, count(task, name))


def run_key(run: dict[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("task", "model", "seed", "minutes", "lr")}


def record(path: Path, key: dict[str, Any], task: Task, result: dict[str, Any]) -> None:
    append(path, key | {"metric": task.metric} | result | {"machine": machine()})
    steps, used, last = result["curve"][-1]
    print(f"{key['task']} {key['model']} seed {key['seed']}: {last:.2f} {task.metric}, {steps} steps, {used:.0f} s")


if __name__ == "__main__":
    main()
