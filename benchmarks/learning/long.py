"""Bytes of text with a long context: Perceiver AR, with a loss of one block of latents or of all, and a decoder.

    python -m benchmarks.learning.long --seeds 2 --minutes 0.5 1 2
    python -m benchmarks.learning.long --steps 8192 32768

The texts are the help topics and modules that come with Python; of every ten the last is for the test, which scores
the last 512 bytes of windows of 8,192. A step has one window of this length; `decoder-1024` gets it cut into shorter
ones, `decoder-1024-last` the last of these alone. All else is as in benchmarks/learning/run.py, but for a warm-up of 10
steps, since a decoder makes few. Runs that the file has are not repeated, and all of them are printed as a table. The
second command prints what a step costs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.learning import corpora, run
from benchmarks.learning.lengths import step_seconds
from benchmarks.learning.report import spread
from benchmarks.learning.run import Recipe
from benchmarks.learning.tasks import NextTokens, stream

RESULTS = Path(__file__).parent / "results" / "long.jsonl"
MODELS = (
    "perceiver-ar",
    "perceiver-ar-token-shift",
    "perceiver-ar-token-shift-rotary",
    "perceiver-ar-blocks",
    "perceiver-ar-blocks-token-shift-rotary",
    "decoder",
    "decoder-token-shift-rotary",
    "decoder-1024",
    "decoder-1024-last",
    "decoder-1024-last-token-shift-rotary",
)
WARMUP_STEPS = 10


def python_text(texts: Sequence[bytes], seq_len: int = 8192, num_latents: int = 512) -> NextTokens:
    train = b"\n".join(text for i, text in enumerate(texts) if i % 10 != 9)
    test = b"\n".join(texts[9::10])
    task = stream(list(train), list(test), 256, seq_len, num_latents)
    return replace(task, batch_size=1, num_test=16)


def tokens_per_step(name: str, task: NextTokens) -> int:
    """How many tokens of a window are predicted in training."""
    if name.startswith("decoder-1024-last"):
        return 1024
    is_of_one_block = name.startswith("perceiver-ar") and "blocks" not in name
    return task.num_latents if is_of_one_block else task.seq_len


def training(
    task: NextTokens, key: dict[str, Any], minutes: Sequence[float], path: Path
) -> Generator[float, None, dict[str, Any]]:
    """Trains a model as `run.learning` does, and appends to a file what it has learnt after each of so many minutes."""
    models: list[nn.Module] = []
    recipe = Recipe(change=models.append, schedule=lambda step, progress: min((step + 1) / WARMUP_STEPS, 1.0))
    steps, due, test = 0, list(minutes), task.test()
    learning = run.learning(task, key["model"], key["seed"], math.inf, key["lr"], recipe, due=iter(()))
    while due:
        used, steps = next(learning), steps + 1
        if used >= 60 * due[0]:
            point = (steps, round(used, 3), round(run.tested(task, models[0].eval(), test), 4))
            parameters = sum(p.numel() for p in models[0].parameters())
            result = {"tokens_per_step": tokens_per_step(key["model"], task), "parameters": parameters}
            run.record(path, key | {"minutes": due.pop(0)}, task, result | {"curve": [point]})
        yield used
    return {}


def rows(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of the table: a row for each model. Steps and tokens per second are those of the longest training."""
    minutes = sorted({result["minutes"] for result in results} - {0.0})
    yield f"| model | parameters | {' | '.join(f'{m:g} min' for m in minutes)} | steps | predicted tokens per second |"
    yield "|---|---" + "|---" * len(minutes) + "|---|---|"
    for name in (*MODELS, "ngram"):
        runs = [result for result in results if result["model"] == name]
        if not runs:
            continue
        bits = [[run["curve"][-1][2] for run in runs if run["minutes"] in (m, 0.0)] for m in minutes]  # 0: no training
        last = [run["curve"][-1] for run in runs if run["minutes"] == max(run["minutes"] for run in runs)]
        steps, seconds = (sum(column) for column in list(zip(*last, strict=True))[:2])
        cells = [spread(of_seeds) if of_seeds else "" for of_seeds in bits]
        yield (
            f"| {name} | {runs[0]['parameters']:,} | {' | '.join(cells)} | {steps / len(last):.0f} "
            f"| {steps * runs[0]['tokens_per_step'] / seconds:,.0f} |"
        )


def step_rows(texts: Sequence[bytes], lengths: Sequence[int]) -> Iterator[str]:
    """Lines of the table of what a training step costs in windows of these lengths: a step after one to warm up."""
    names = ("perceiver-ar", "perceiver-ar-blocks", "decoder")
    yield f"| window | {' | '.join(names)} |"
    yield "|---|---|---|---|"
    for length in lengths:
        task = python_text(texts, seq_len=length)
        cells = [
            f"{seconds:.2f} s, {tokens_per_step(name, task) / seconds:,.0f}"
            for name, seconds in step_seconds(task, names, repeats=1).items()
        ]
        yield f"| {length:,} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=(*MODELS, "ngram"), default=MODELS)
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="CPU times to record")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, nargs="+", metavar="LENGTH", help="only measure steps with such windows")
    arguments = parser.parse_args(argv)
    if not all(value > 0 for value in (*arguments.minutes, arguments.seeds, arguments.lr)):
        parser.error("--minutes, --seeds and --lr must be positive")
    torch.set_num_threads(1)
    if arguments.steps:
        print("\n".join(step_rows(corpora.python_texts(), arguments.steps)))
        return
    task = python_text(corpora.python_texts())
    done = [run.run_key(result) for result in run.resume(arguments.results)]
    for seed in range(arguments.seeds):
        runs = []
        for name in [name for name in arguments.model if name in MODELS]:
            key = {"task": "python", "model": name, "seed": seed, "lr": arguments.lr}
            minutes = [value for value in sorted(arguments.minutes) if key | {"minutes": value} not in done]
            runs.append(training(task, key, minutes, arguments.results))
        run.in_turns(runs)
    key = {"task": "python", "model": "ngram", "seed": 0, "minutes": 0.0, "lr": 0.0}
    if "ngram" in arguments.model and key not in done:
        run.record(arguments.results, key, task, run.count(task, "ngram") | {"tokens_per_step": 0})
    print("\n".join(rows(run.read(arguments.results))))


if __name__ == "__main__":
    main()
