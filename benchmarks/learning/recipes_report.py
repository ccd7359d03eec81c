"""Tables and pictures of docs/evidence-recipes.md from what benchmarks/learning/switches.py and latents.py measured.

    python -m benchmarks.learning.recipes_report

The rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import latents, switches
from benchmarks.learning.report import IMAGES, ROOT, Run, at_step, drawing, shared_step, spread, with_part
from benchmarks.learning.run import read

PAGE = ROOT / "docs" / "evidence-recipes.md"
SCHEDULES = ("wsd", "cosine")  # they know the time: a curve's beginning is no shorter run


def by(runs: Sequence[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """The runs that have the same values, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return groups


def command(module: str, runs: Sequence[Run]) -> str:
    task, minutes, lr = (runs[0][key] for key in ("task", "minutes", "lr"))
    seeds = max(run["seed"] for run in runs) + 1
    flags = f"--task {task} --seeds {seeds} --minutes {minutes:g} --lr {lr:g}"
    machines = "; ".join(sorted({run["machine"] for run in runs}))
    return f"`python -m benchmarks.learning.{module} {flags}`: {machines}."


Scores = dict[str, dict[int, float]]  # by switch and seed


def compared(scores: Scores, name: str) -> list[str]:
    """The mean of a switch, and of its changes in percent from the default with the same seed."""
    mean, default = spread(list(scores[name].values())), scores["default"]
    if name == "default":
        return [mean, ""]
    changes = [100 * (score / default[seed] - 1) for seed, score in scores[name].items() if seed in default]
    deviation = f" ± {statistics.stdev(changes):.1f}" if len(changes) > 1 else ""
    return [mean, f"{statistics.mean(changes):+.1f} %{deviation}"]


def switches_table(runs: Sequence[Run]) -> str:
    """What each switch gives after equal time and after equal steps, beside the default."""
    step = shared_step(runs)
    last: Scores = {}
    equal: Scores = {}
    for run in runs:
        last.setdefault(run["switch"], {})[run["seed"]] = run["curve"][-1][2]
        if (score := at_step(run, step)) is not None:
            equal.setdefault(run["switch"], {})[run["seed"]] = score
    lines = [
        f"### {runs[0]['model']} on {runs[0]['task']}, {runs[0]['minutes']:g} minutes",
        "",
        f"| switch | seeds | bits after equal time | change | steps | bits after {step} steps | change |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = by(runs, "switch")
    for name, of_name in [(name, groups[name,]) for name in switches.SWITCHES if (name,) in groups]:
        steps = statistics.mean(run["curve"][-1][0] for run in of_name)
        cells = [name, str(len(of_name)), *compared(last, name), f"{steps:.0f}"]
        cells += ["", ""] if name in SCHEDULES else compared(equal, name)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", command("switches", runs), ""])


def latents_table(runs: Sequence[Run]) -> str:
    """Accuracy and time for each number of latents."""
    trained = by(runs, "trained with")
    lines = [
        f"### Latents, {runs[0]['task']}, {runs[0]['minutes']:g} minutes",
        "",
        "| latents | CPU time of 64 examples | trained with this number | trained nested | trained with all |",
        "|---|---|---|---|---|",
    ]
    for number in map(str, latents.NUMBERS):
        ms = min(run["ms"][number] for run in runs)
        models = [trained[name,] for name in (number, "nested", str(latents.LATENTS))]
        cells = [spread([run["accuracy"][number] for run in of_model]) for of_model in models]
        lines.append(f"| {number} | {ms:.1f} ms | {' | '.join(cells)} |")
    steps = {name: statistics.mean(run["steps"] for run in of_name) for (name,), of_name in trained.items()}
    made = ", ".join(f"{mean:.0f} ({name})" for name, mean in steps.items())
    lines += ["", f"![Accuracy over time, {runs[0]['task']}](images/{picture(runs)})", ""]
    return "\n".join(
        [*lines, f"Seeds: {len(trained['nested',])}. Steps of training: {made}.", "", command("latents", runs), ""]
    )


def picture(runs: Sequence[Run]) -> str:
    """The name of the file with a table's curves."""
    return f"latents-{runs[0]['task']}-{runs[0]['minutes']:g}-{runs[0]['lr']:g}.svg"


def latents_curves(runs: Sequence[Run], folder: Path) -> Path:
    """Draws accuracy over CPU time: one model with fewer and fewer latents, and a model trained for each number."""
    trained = by(runs, "trained with")
    ms = {number: min(run["ms"][number] for run in runs) for number in map(str, latents.NUMBERS)}
    curves = {
        "one model, trained nested": dict.fromkeys(ms, trained["nested",]),
        "a model trained for each number": {number: trained[number,] for number in ms},
        f"one model, trained with all {latents.LATENTS}": {number: trained[str(latents.LATENTS),] for number in ms},
    }
    with drawing(folder / picture(runs)) as axes:
        for name, models in curves.items():
            scores = [[run["accuracy"][number] for run in of_number] for number, of_number in models.items()]
            means = list(map(statistics.mean, scores))
            deviations = [statistics.stdev(of_number) if len(of_number) > 1 else 0.0 for of_number in scores]
            axes.errorbar(
                list(ms.values()), means, deviations, marker="o", markersize=3, capsize=3, linewidth=1, label=name
            )
        for number, time in ms.items():
            axes.annotate(
                number, (time, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize="small"
            )
        axes.set(xlabel="ms of CPU time for 64 examples; above, the number of latents", ylabel="accuracy in %")
        axes.legend(fontsize="small")
    return folder / picture(runs)


def page_with(page: str, switch_runs: Sequence[Run], latent_runs: Sequence[Run]) -> str:
    """The page with tables between its two comments."""
    tables = [switches_table(runs) for runs in by(switch_runs, "task", "minutes", "lr").values()]
    tables += [latents_table(runs) for runs in by(latent_runs, "task", "minutes", "lr").values()]
    return with_part(page, "tables", "\n".join(tables))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    arguments = parser.parse_args(argv)
    page, latent_runs = arguments.page.read_text(encoding="utf-8"), read(latents.RESULTS)
    arguments.page.write_text(page_with(page, read(switches.RESULTS), latent_runs), encoding="utf-8")
    for runs in by(latent_runs, "task", "minutes", "lr").values():
        latents_curves(runs, arguments.images)


if __name__ == "__main__":
    main()
