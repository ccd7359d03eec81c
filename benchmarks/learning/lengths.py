"""From what input length on a step of a Perceiver is cheaper than that of a Transformer with the same parameters.

    python -m benchmarks.learning.lengths

CPU time of a training step (forward, backward) with one thread, the least of some steps, models in turns. Sequences:
the last 64 positions are latents and are predicted; the decoder predicts all. Classification: 32 latents.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks.learning.models import LEARNERS
from benchmarks.learning.run import machine
from benchmarks.learning.tasks import Batch, Classification, NextTokens, Task


def tokens(n: int, length: int, generator: torch.Generator) -> Batch:
    x = torch.randint(1, 256, (n, length + 1), generator=generator)
    return x[:, :-1], x[:, 1:]


def sequences(length: int, batch_size: int) -> NextTokens:
    return NextTokens(
        256, length, 64, 64, "bits", lambda n, generator, _: tokens(n, length, generator), batch_size=batch_size
    )


def classification(length: int, batch_size: int) -> Classification:
    x, _ = tokens(batch_size, length, torch.Generator().manual_seed(0))
    return Classification(
        x, x[:, 0] % 10, batch_size, 10, (length,), is_grid=False, vocab_size=256, batch_size=batch_size
    )


def step_seconds(task: Task, names: Sequence[str], repeats: int) -> dict[str, float]:
    """The least CPU time of a step of each model, after one to warm up."""
    torch.manual_seed(0)
    x, labels = task.batch(torch.Generator().manual_seed(0))
    models = {name: LEARNERS[name](task) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(1 + repeats):
        for name, model in models.items():
            start = time.process_time()
            model.loss(x, labels).backward()
            times[name].append(time.process_time() - start)
    return {name: min(of_model[1:]) for name, of_model in times.items()}


def rows(lengths: Sequence[int], positions: int, repeats: int) -> Iterator[str]:
    """Lines of the table. A batch has as many examples as fit into `positions`, at least one."""
    yield "| positions x examples | perceiver-ar | decoder | ratio | perceiver-io | encoder | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for length in lengths:
        batch_size = max(positions // length, 1)
        cells = []
        for task, ours, plain in (
            (sequences(length, batch_size), "perceiver-ar", "decoder"),
            (classification(length, batch_size), "perceiver-io", "encoder"),
        ):
            seconds = step_seconds(task, (ours, plain), repeats)
            cells += [f"{seconds[ours] * 1e3:.0f} ms", f"{seconds[plain] * 1e3:.0f} ms"]
            cells.append(f"{seconds[plain] / seconds[ours]:.2f}")
        yield f"| {length} x {batch_size} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--positions", type=int, default=2048, help="positions in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for line in rows(arguments.lengths, arguments.positions, arguments.repeats):
        print(line, flush=True)
    print(f"\n{machine()}.")


if __name__ == "__main__":
    main()
