"""The tests of `tests/gpu`, for the page of `benchmarks/gpu.py`: what failed and what was measured, as it comes.

    python benchmarks/gpu_tests.py [--device cuda] [--workers 4]

What pytest itself prints goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Page:
    """Prints a line for each failure and each recorded property, and the counts at the end, and every tenth of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.out = sys.stdout

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] += 1
        name = report.nodeid.removeprefix("tests/gpu/")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = (crash.message if crash else str(report.longrepr)).strip().splitlines()[0]
            print(f"* failed: `{name}`: {message[:300]}", file=self.out, flush=True)
        for key, value in report.user_properties:
            print(f"* `{name}`: {key} {value}", file=self.out, flush=True)
        if sum(self.counts.values()) % 50 == 0:
            self.print_counts("so far")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.counts["errors"] += 1
            print(f"* not collected: `{report.nodeid}`: see the log", file=self.out, flush=True)

    def pytest_sessionfinish(self) -> None:
        self.print_counts("in all")

    def print_counts(self, when: str) -> None:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.counts.items()))
        print(f"\n{when.capitalize()}: {counts or 'no tests'}.\n", file=self.out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, default=4, help="processes, where pytest-xdist is installed")
    arguments = parser.parse_args()
    options = ["tests/gpu", "-m", "gpu" if arguments.device == "cuda" else "not gpu", "-rs", "--durations=15"]
    # Warnings are errors in the suite. Here torch may be another version: what it warns of is in the log.
    options += ["-W", "default", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    if arguments.workers > 1 and importlib.util.find_spec("xdist"):
        options += ["-n", str(arguments.workers)]
    page = Page()
    with redirect_stdout(sys.stderr):
        return int(pytest.main(options, plugins=[page]))


if __name__ == "__main__":
    sys.exit(main())
