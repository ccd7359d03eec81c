"""Tables and curves of docs/evidence.md from the runs that benchmarks/learning/run.py made.

    python -m benchmarks.learning.report

In the page they stand between comments, `<!-- summary -->` and `<!-- end of summary -->`, `<!-- tables -->` and
`<!-- end of tables -->`; the rest of the page is written by hand. Curves are pictures in docs/images.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.learning.counters import COUNTERS
from benchmarks.learning.models import LEARNERS
from benchmarks.learning.run import RESULTS, read
from benchmarks.learning.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGE, IMAGES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "images"
ORDER = [*TASKS, *LEARNERS, *COUNTERS]  # of tasks in the page, of models in a table
UNITS = {"accuracy": "accuracy in %", "bits": "bits per token, less is better"}
PUBLISHED = {
    "copy": "Perceiver AR, 131,072 positions: 100 % (arXiv 2202.07765)",
    "leaf": "a ResNet 98 % (arXiv 1809.04356)",
    "listops": "500 to 2,000 symbols, Transformer 36.4 % (arXiv 2011.04006), Perceiver 37.2 to 37.5 % (by others)",
    "mnist1d": "MLP 68 %, CNN 94 % (arXiv 2011.14439)",
}

Run = dict[str, Any]
Key = tuple[str, float, float]  # task, minutes, learning rate: a table


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.mean(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {statistics.stdev(values):.2f}"


def at_step(run: Run, step: int) -> float | None:
    return next((score for steps, _, score in run["curve"] if steps == step), None)


def shared_step(runs: Sequence[Run]) -> int:
    """The largest number of steps at which all runs were tested; 0 if there is none."""
    tested = [{steps for steps, _, _ in run["curve"]} for run in runs if run["curve"][-1][0]]
    return max(set.intersection(*tested), default=0) if tested else 0


def grouped(runs: Sequence[Run]) -> dict[Key, dict[str, list[Run]]]:
    """Runs by task, minutes and learning rate, and then by model.

    Models without steps have neither minutes nor a rate: they are in each table of their task.
    """
    tables: dict[Key, dict[str, list[Run]]] = {}
    for run in runs:
        if run["minutes"]:
            of_table = tables.setdefault((run["task"], run["minutes"], run["lr"]), {})
            of_table.setdefault(run["model"], []).append(run)
    for run in runs:
        for (task, _, _), of_table in tables.items():
            if task == run["task"] and not run["minutes"]:
                of_table[run["model"]] = [run]
    keys = sorted(tables, key=lambda key: (place(key[0]), *key))
    return {key: dict(sorted(tables[key].items(), key=lambda item: place(item[0]))) for key in keys}


def place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def summary(runs: Sequence[Run]) -> str:
    """What each model reaches in each task after equal time: a table for each kind of task, the best is bold."""
    kinds: list[dict[Key, dict[str, list[Run]]]] = []
    for key, models in grouped(runs).items():
        # Tasks are of one kind if a model can do both
        kind = next((kind for kind in kinds if any(not models.keys().isdisjoint(other) for other in kind.values())), {})
        if not kind:
            kinds.append(kind)
        kind[key] = models
    return "\n".join(map(_summary_of_kind, kinds))


def _summary_of_kind(kind: dict[Key, dict[str, list[Run]]]) -> str:
    names = sorted({name: None for models in kind.values() for name in models}, key=place)
    lines = [f"| task | minutes | seeds | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for (task, minutes, _), models in kind.items():
        scores = {name: [run["curve"][-1][2] for run in of_model] for name, of_model in models.items()}
        means = {name: round(statistics.mean(of_model), 2) for name, of_model in scores.items()}
        is_bits = next(iter(models.values()))[0]["metric"] == "bits"
        best = min(means.values()) if is_bits else max(means.values())
        cells = [
            "" if name not in means else f"**{spread(scores[name])}**" if means[name] == best else spread(scores[name])
            for name in names
        ]
        seeds = {len(of_model) for of_model in models.values() if of_model[0]["minutes"]}
        unit = ", bits" if is_bits else ""
        count = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
        lines.append(f"| {task}{unit} | {minutes:g} | {count} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def not_run(runs: Sequence[Run]) -> str:
    """A line on the tasks that have no runs, if there are any."""
    names = [f"`{task}`" for task in TASKS if task not in {run["task"] for run in runs}]
    return f"\nWithout runs so far: {', '.join(names)}.\n" if names else ""


def file_name(task: str, minutes: float, lr: float) -> str:
    return f"evidence-{task}-{minutes:g}-{lr:g}.svg"


def table(task: str, minutes: float, lr: float, models: dict[str, list[Run]]) -> str:
    """A task's two tables as one: the columns are equal time and equal steps."""
    runs = [run for of_model in models.values() for run in of_model]
    step = shared_step(runs)
    lines = [f"### {task}, {minutes:g} minutes, learning rate {lr:g}", ""]
    if task in PUBLISHED:
        lines += [f"Published, for models of other sizes and longer training: {PUBLISHED[task]}.", ""]
    lines += [
        f"| model | parameters | seeds | {UNITS[runs[0]['metric']]}, after equal time | steps | after {step} steps |",
        "|---|---|---|---|---|---|",
    ]
    for name, of_model in models.items():
        last = [run["curve"][-1] for run in of_model]
        steps = f"{statistics.mean(steps for steps, _, _ in last):.0f}" if last[0][0] else f"{last[0][1]:.0f} s in all"
        equal = [score for run in of_model if (score := at_step(run, step)) is not None and last[0][0]]
        parameters = of_model[0]["parameters"]
        lines.append(
            f"| {name} | {f'{parameters:,}' if parameters else ''} | {len(of_model)} "
            f"| {spread([score for _, _, score in last])} | {steps} | {spread(equal) if equal else ''} |"
        )
    lines += ["", f"![{task}](images/{file_name(task, minutes, lr)})", ""]
    machines = "; ".join(sorted({run["machine"] for run in runs}))
    seeds = max(map(len, models.values()))
    command = f"python -m benchmarks.learning.run {task} --seeds {seeds} --minutes {minutes:g} --lr {lr:g}"
    return "\n".join([*lines, f"`{command}`: {machines}.", ""])


def tables(runs: Sequence[Run]) -> str:
    return "\n".join(table(*key, models) for key, models in grouped(runs).items())


def curves(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draws the score over seconds for each task, a line for each seed."""
    paths = []
    for key, models in grouped(runs).items():
        paths.append(folder / file_name(*key))
        with drawing(paths[-1], width=8) as axes:
            for i, (name, of_model) in enumerate(models.items()):
                for j, run in enumerate(of_model):
                    _, seconds, scores = zip(*run["curve"], strict=True)
                    if len(scores) == 1:
                        axes.axhline(scores[0], color=f"C{i}", linestyle=":", label=name)
                    else:
                        axes.plot(seconds, scores, color=f"C{i}", linewidth=1, label=name if j == 0 else None)
            axes.set(xscale="log", xlabel="seconds of CPU time", ylabel=UNITS[next(iter(models.values()))[0]["metric"]])
            axes.figure.legend(fontsize="small", loc="outside right center")
    return paths


@contextmanager
def drawing(path: Path, width: float = 6) -> Iterator[Any]:
    """Axes of a picture that is saved when all is drawn: the same file from the same numbers. Width in inches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "evidence"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(width, 3), layout="constrained")
    yield axes
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def with_tables(page: str, runs: Sequence[Run]) -> str:
    """The page with the summary and the tables of these runs."""
    return with_part(with_part(page, "summary", summary(runs) + not_run(runs)), "tables", tables(runs))


def with_part(page: str, name: str, text: str) -> str:
    """The page with this text between the two comments of a name.

    Raises:
        ValueError: if the page lacks one of them.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page must have the lines {begin.strip()} and {end}")
    return page.split(begin, 1)[0] + begin + "\n" + text + "\n" + end + page.split(end, 1)[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    arguments = parser.parse_args(argv)
    runs = read(arguments.results)
    arguments.page.write_text(with_tables(arguments.page.read_text(encoding="utf-8"), runs), encoding="utf-8")
    drawn = curves(runs, arguments.images)
    for path in set(arguments.images.glob("evidence-*-*-*.svg")) - set(drawn):
        path.unlink()  # its runs are no longer in the file


if __name__ == "__main__":
    main()
