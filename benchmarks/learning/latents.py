"""Fewer latents at inference than there are: of one model trained for it, of models trained for each number.

    python -m benchmarks.learning.latents --task digits mnist1d --seeds 3 --minutes 0.5
    python -m benchmarks.learning.recipes_report

Perceiver IO of 32 latents, of which the first 32, 16, 8 or 4 are used. `nested` was trained with one of these numbers
in each step, drawn at random; the others with one number only. All models of a seed have the same batches and the same
CPU time, and are trained in turns.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.learning import run
from benchmarks.learning.classifiers import LATENTS, PerceiverIOLearner
from benchmarks.learning.run import Recipe
from benchmarks.learning.tasks import TASKS, Task

RESULTS = Path(__file__).parent / "results" / "latents.jsonl"
NUMBERS = [LATENTS, LATENTS // 2, LATENTS // 4, LATENTS // 8]


def use(model: PerceiverIOLearner, number: int) -> None:
    model.model.encoder.latent_provider.num_queries = number


def nested(model: PerceiverIOLearner, seed: int) -> None:
    """Makes each loss that of a random number of latents."""
    loss, rng = model.loss, random.Random(seed)

    def loss_of_some(*batch: Tensor) -> Tensor:
        use(model, rng.choice(NUMBERS))
        return loss(*batch)

    model.loss = loss_of_some


def trained(task_name: str, seed: int, seconds: float, lr: float) -> dict[str, tuple[PerceiverIOLearner, int]]:
    """Models and their numbers of steps, by what they were trained with."""
    models: dict[str, Any] = {}

    def keeping(name: str, change: Callable[[Any], None]) -> Recipe:
        def keep(model: nn.Module) -> None:
            models[name] = model
            change(model)

        return Recipe(change=keep)

    recipes = {str(number): keeping(str(number), lambda model, number=number: use(model, number)) for number in NUMBERS}
    recipes["nested"] = keeping("nested", lambda model: nested(model, seed))
    task = TASKS[task_name]()
    results = run.in_turns(
        [run.learning(task, "perceiver-io", seed, seconds, lr, recipe) for recipe in recipes.values()]
    )
    return {name: (models[name].eval(), result["curve"][-1][0]) for name, result in zip(recipes, results, strict=True)}


def tested(task: Task, model: PerceiverIOLearner, number: int) -> tuple[float, float]:
    """Accuracy in percent with so many latents, and milliseconds of CPU time for 64 examples."""
    use(model, number)
    x, _ = test = task.test()
    accuracy = run.tested(task, model, test)
    return accuracy, milliseconds(lambda: model.logits(x[:64]))


@torch.no_grad()
def milliseconds(function: Callable[[], Any], repeats: int = 15) -> float:
    """CPU time of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=["digits", "mnist1d"], default=["digits", "mnist1d"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = run.parse_training(parser, argv, minutes=0.5)
    torch.set_num_threads(1)
    done = [(r["task"], r["seed"], r["minutes"], r["lr"]) for r in run.resume(arguments.results)]
    for seed in range(arguments.seeds):
        for name in arguments.task:
            if (name, seed, arguments.minutes, arguments.lr) in done:
                continue
            key = {"task": name, "seed": seed, "minutes": arguments.minutes, "lr": arguments.lr}
            models = trained(name, seed, 60 * arguments.minutes, arguments.lr)
            for trained_with, (model, steps) in models.items():
                tests = {number: tested(TASKS[name](), model, number) for number in NUMBERS}
                scores = {
                    "accuracy": {str(number): round(accuracy, 4) for number, (accuracy, _) in tests.items()},
                    "ms": {str(number): round(ms, 3) for number, (_, ms) in tests.items()},
                }
                line = key | {"trained with": trained_with, "steps": steps} | scores | {"machine": run.machine()}
                run.append(arguments.results, line)
                print(
                    f"{name} trained with {trained_with}, seed {seed}, {steps} steps: {scores['accuracy']}", flush=True
                )


if __name__ == "__main__":
    main()
