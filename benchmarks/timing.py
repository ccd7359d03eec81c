"""Timing and memory for the benchmarks: alternating runs, medians, ratios run by run.

Machines drift. Only ratios of runs that took turns in one process are worth quoting; times say their order of size.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def benchmark_parser(
    doc: str | None, *, threads: int = 2, repeats: int = 5, clock: bool = False
) -> argparse.ArgumentParser:
    """The arguments that benchmarks have in common. `clock`: whether that of the times can be chosen."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, default=threads)
    result.add_argument("--repeats", type=int, default=repeats, help="turns, of whose times it is the median")
    if clock:
        text = "cpu: the process's own time, of all threads together (so with --threads 1), on a machine that is busy"
        result.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=text)
    return result


def _wall_of_device() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


# "cpu" counts the seconds in which a processor worked for this process, each thread's: with a single thread it says
# something of a machine that is busy with other programs, though caches and memory are still shared. "cuda" is wall
# time, read when the GPU has done all that it was given.
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
    "cuda": _wall_of_device,
}


def seconds(function: Callable[[], object], clock: str = "wall") -> float:
    now = CLOCKS[clock]
    start = now()
    function()
    return now() - start


def alternate(
    functions: dict[str, Callable[[], object]], repeats: int, clock: str = "wall", *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Runs all functions once to warm up, unless they have run, then in turns. Returns the seconds of each run."""
    for function in functions.values() if warm_up else ():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, clock))
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over runs of how many times longer `slow` took than the `fast` run of the same turn."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def matmul_gflops(dtype: torch.dtype, size: int = 2048, repeats: int = 10) -> float:
    """The rate of a square matrix product, the best of some runs: what this machine gives to linear layers."""
    a, b = torch.randn(2, size, size).to(dtype)
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(repeats)) / 1e9


def peak_memory_mb(function: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory while `function` runs, beyond what was in use before: resident (Linux), or torch's on a GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mb("VmRSS")
    function()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine() -> str:
    """Processor, threads and library versions, for the head of a result."""
    import transformers

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return (
        f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )
