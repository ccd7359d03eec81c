"""How the parts of `benchmarks/gpu.py` time and print: `Bench` is the device, and a table with a row as it comes."""

from __future__ import annotations

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from timing import alternate, median_ratio, peak_memory_mb, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Function = Callable[[], Any]


@dataclass
class Bench:
    """The device, and how cases are timed and printed there."""

    device: str
    tiny: bool
    has_failed: bool = False

    @property
    def clock(self) -> str:
        return "cuda" if self.device == "cuda" else "wall"

    def of(self, full: Any, tiny: Any) -> Any:
        """A size of a case."""
        return tiny if self.tiny else full

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16)

    def tokens(self, batch_size: int, length: int) -> Tensor:
        return torch.randint(6, 262, (batch_size, length), device=self.device)

    def seconds(self, function: Function) -> float:
        return seconds(function, self.clock)

    def matmul_rate(self, dtype: torch.dtype = torch.bfloat16) -> float:
        """Operations per second of a matrix product of random numbers, the median of some runs."""
        size = self.of(8192 if dtype != torch.float32 else 4096, 128)
        a, b = torch.randn(2, size, size, device=self.device).to(dtype)
        times = alternate({"": lambda: a @ b}, 10, self.clock)[""]
        return 2 * size**3 / statistics.median(times)

    def copy_rate(self) -> float:
        """Bytes read and written per second by a copy that fits into no cache."""
        source = torch.randn(self.of(2**30, 2**20), device=self.device)
        target = torch.empty_like(source)
        times = alternate({"": lambda: target.copy_(source)}, 10, self.clock)[""]
        return 2 * source.nbytes / statistics.median(times)

    def rows(
        self,
        case: str,
        functions: Mapping[str, Function],
        *,
        items: int = 0,
        count_flops: bool = False,
        budget: float = 2.0,
    ) -> None:
        """Times functions in turns and prints a row for each. All ratios are to the first.

        Args:
            case: What they do.
            functions: By name. What fails in its warm-up gets a row that says so.
            items: Number of tokens or examples that a call processes.
            count_flops: Whether to print the share of the matrix product's rate. Operations are those of the first.
            budget: Seconds for all of it, compiling apart.
        """
        ready, failures = {}, {}
        for name, function in functions.items():
            try:
                self._warm_up(function)
                ready[name] = function
            except Exception as error:  # whatever it is: it is this row's result, and the others go on
                failures[name] = self.failure(error)
            if self.device == "cuda":
                torch.cuda.empty_cache()  # of what has failed, too
        flops = num_flops(next(iter(ready.values()))) if count_flops and ready else 0.0
        once = sum(self.seconds(function) for function in ready.values())
        turns = min(max(int(budget / max(once, 1e-6)), 3), 50) if not self.tiny else 2
        times = alternate(ready, turns, self.clock)
        rate = self.matmul_rate() if flops else 1.0
        base = times.get(next(iter(functions)))
        for name in functions:
            if name in failures:
                print(f"| {case} | {name} | failed: {failures[name]} | | | | | |", flush=True)
                continue
            median = statistics.median(times[name])
            cells = (
                f"{median * 1e3:.2f}",
                f"{items / median:,.0f}" if items else "",
                f"{median_ratio(times[name], base):.2f}" if base else "",
                f"{flops / median / rate:.0%}" if flops else "",
                "",
                f"{peak_memory_mb(ready[name], self.device):,.0f}",
            )
            print(f"| {case} | {name} | {' | '.join(cells)} |", flush=True)

    def failure(self, error: Exception) -> str:
        """What a row says of an error. Its traceback goes to the log, and the part fails in the end.

        That memory is not enough is a result: plain attention is measured up to there.
        """
        traceback.print_exception(error)
        self.has_failed |= not isinstance(error, torch.OutOfMemoryError)
        return first_line(error)

    def _warm_up(self, function: Function) -> None:
        """Kernels are chosen, compiled and loaded, memory is allocated, the clock of an idle GPU rises."""
        start = time.perf_counter()
        for i in range(1 if self.tiny else 20):
            self.seconds(function)
            if i >= 2 and time.perf_counter() - start > 0.5:
                break


def num_flops(function: Function) -> float:
    """Operations of matrix products and attention as torch counts them: of the whole rectangle where it is causal."""
    try:
        with FlopCounterMode(display=False) as counter:
            function()
    except Exception as error:  # its hooks don't know all that a model may do; times are worth more than this
        print(f"operations are not known: {first_line(error)}", file=sys.stderr)
        return 0.0
    return float(counter.get_total_flops())


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].replace("|", "/")


def header() -> None:
    print("| case | who | ms | items/s | times the first's | of matmul | of copy | peak MB |")
    print("|---|---|---|---|---|---|---|---|")


def training_step(model: nn.Module, loss: Function, autocast: AbstractContextManager[Any]) -> Function:
    """Forward in mixed precision, backward and AdamW's step."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        with autocast:
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
