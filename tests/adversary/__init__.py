"""Adversaries: random damage, kills and configurations, in rounds, for as long as one likes.

    python -m tests.adversary.data --minutes 20 [--seed 7] [--only damaged_files] [--rounds 3]

A round runs every check with random numbers of its own; where one fails, the seed of its round is printed, which
`--seed` and `--rounds 1` repeat. The exit status is 1 if one failed.
"""

import argparse
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Check = Callable[[random.Random, Path], None]  # raises if something does not hold; the folder is empty


def run_check(name: str, check: Check, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="adversary-") as folder:
        check(random.Random(f"{name} {seed}"), Path(folder))


def main(checks: Mapping[str, Check], arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", nargs="*", choices=checks, default=list(checks))
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args(arguments)
    end, seed, failures = time.monotonic() + 60 * options.minutes, options.seed, 0
    while time.monotonic() < end and (options.rounds is None or seed < options.seed + options.rounds):
        for name in options.only:
            try:
                run_check(name, checks[name], seed)
            except Exception:
                failures += 1
                print(f"FAILED: --only {name} --seed {seed} --rounds 1\n{traceback.format_exc()}", flush=True)
        seed += 1
    print(f"{seed - options.seed} rounds from seed {options.seed} of {', '.join(options.only)}: {failures} failures")
    return min(failures, 1)
