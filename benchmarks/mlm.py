"""Masked language model, official geometry (201M parameters): ours and transformers' PerceiverForMaskedLM in turns.

Both have the same random weights. Prints, for each case, median seconds of both, the ratio theirs / ours turn by turn,
what share of the machine's matrix-product rate ours reaches, and the peak memory of each beyond its parameters.

    python benchmarks/mlm.py [--threads 2] [--repeats 7]
    python benchmarks/mlm.py --autocast    training steps in bfloat16 by autocast, beside float32: seconds and losses
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import alternate, benchmark_parser, machine, matmul_gflops, median_ratio, peak_memory_mb
from torch.utils.flop_counter import FlopCounterMode
from transformers import PerceiverConfig, PerceiverForMaskedLM

from perceiver.model.text import mlm
from perceiver.model.text.mlm.huggingface import OFFICIAL

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORWARDS = [(dtype, length) for dtype in DTYPES for length in (64, 2048)]
TRAINING_LENGTH = 2048


def build(name: str, **values: Any) -> torch.nn.Module:
    """`name`: ours or theirs. `values` change the official configuration."""
    torch.manual_seed(0)
    config = PerceiverConfig(**{"qk_channels": 256, "v_channels": 1280, **values})
    theirs = PerceiverForMaskedLM(config).eval()
    if name == "theirs":
        return theirs
    ours = mlm.MaskedLanguageModel(OFFICIAL.config(config)).eval()
    ours.load_state_dict(OFFICIAL.state_dict(theirs, ours))
    return ours


def forward(model: torch.nn.Module, length: int) -> Callable[[], Any]:
    x = torch.randint(6, 262, (1, length), generator=torch.Generator().manual_seed(0))

    return torch.no_grad()(lambda: model(x))


def masked_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes (1, n), and labels of 15 % of them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(6, 262, (1, TRAINING_LENGTH), generator=generator)
    return x, torch.where(torch.rand(x.shape, generator=generator) < 0.15, x, -100)


def training_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, *, keep_gradients: bool = False
) -> Callable[[], Any]:
    """Forward and backward, and the optimizer's step if there is one."""
    x, labels = masked_batch()

    def run() -> Any:
        model.train()
        if isinstance(model, mlm.MaskedLanguageModel):
            loss = model.loss(labels, x)
        else:
            loss = model(x, labels=labels).loss
        model.zero_grad(set_to_none=not keep_gradients)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    return run


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def train_under_autocast(num_steps: int = 8) -> None:
    """Two copies of a model learn one batch by heart, the one in float32, the other under autocast."""
    x, labels = masked_batch()

    def steps(model: mlm.MaskedLanguageModel, enabled: bool) -> Callable[[], float]:
        optimizer = adamw(model)

        def step() -> float:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = model.train().loss(labels, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    losses: dict[str, list[float]] = {"float32": [], "autocast": []}
    ours = build("ours")
    assert isinstance(ours, mlm.MaskedLanguageModel)
    runs = {"float32": steps(copy.deepcopy(ours), False), "autocast": steps(ours, True)}
    times = alternate({name: lambda n=name: losses[n].append(runs[n]()) for name in runs}, num_steps - 1)
    for name in runs:
        print(f"{name}: {statistics.median(times[name]):.2f} s, losses {', '.join(f'{x:.4f}' for x in losses[name])}")
    print(f"autocast is {median_ratio(times['float32'], times['autocast']):.2f} times as fast")


def memory(model_name: str, case: str) -> float:
    """Peak memory of one case, in a process of its own."""
    command = [sys.executable, __file__, "--memory", model_name, case, "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(model_name: str, case: str) -> None:
    model = build(model_name)
    if case == "train":
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # gradients are as large as the parameters, for both
        run = training_step(model, None, keep_gradients=True)
    else:
        dtype, length = case.split("-")
        run = forward(model.to(DTYPES[dtype]), int(length))
    print(peak_memory_mb(run))


def main() -> None:
    parser = benchmark_parser(__doc__, repeats=7)
    parser.add_argument("--autocast", action="store_true", help="training steps under autocast alone")
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "CASE"), help="print the peak memory of one case")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        measure_memory(*arguments.memory)
        return

    print(machine())
    if arguments.autocast:
        train_under_autocast()
        return
    fp32 = {name: build(name) for name in ("ours", "theirs")}
    bf16 = {name: copy.deepcopy(model).to(torch.bfloat16) for name, model in fp32.items()}
    models = {"fp32": fp32, "bf16": bf16}
    rates = {name: matmul_gflops(dtype) for name, dtype in DTYPES.items()}
    print("matrix product 2048^3: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()))
    print()
    print("| case | ours s | transformers s | transformers / ours | of matmul rate | peak MB ours | theirs |")
    print("|---|---|---|---|---|---|---|")

    def report(case: str, functions: dict[str, Callable[[], Any]], flops: float, rate: float, memory_case: str) -> None:
        times = alternate(functions, arguments.repeats)
        ours, theirs = statistics.median(times["ours"]), statistics.median(times["theirs"])
        peaks = [f"{memory(name, memory_case):.0f}" for name in ("ours", "theirs")] if memory_case else ["", ""]
        print(
            f"| {case} | {ours:.3f} | {theirs:.3f} | {median_ratio(times['theirs'], times['ours']):.2f} "
            f"| {flops / min(times['ours']) / 1e9 / rate:.0%} | {' | '.join(peaks)} |",
            flush=True,
        )

    for dtype, length in FORWARDS:
        functions = {name: forward(model, length) for name, model in models[dtype].items()}
        # the rate again before each case: it drifts
        report(
            f"forward, 1 x {length}, {dtype}",
            functions,
            forward_flops(length),
            max(matmul_gflops(DTYPES[dtype]), rates[dtype]),
            f"{dtype}-{length}",
        )
    halves = {name: forward(models[dtype]["ours"], 2048) for name, dtype in (("ours", "bf16"), ("theirs", "fp32"))}
    times = alternate(halves, arguments.repeats)
    print(
        f"\nours, forward 1 x 2048: bf16 is {median_ratio(times['theirs'], times['ours']):.2f} times as fast as fp32\n"
    )

    steps = {name: training_step(model, None) for name, model in fp32.items()}
    with FlopCounterMode(display=False) as counter:
        steps["ours"]()
    flops = float(counter.get_total_flops())
    report("forward + backward, 1 x 2048, fp32", steps, flops, rates["fp32"], "train")
    steps = {name: training_step(model, adamw(model)) for name, model in fp32.items()}
    report("the same + AdamW step", steps, flops, rates["fp32"], "")


def forward_flops(length: int) -> float:
    """Operations of our forward pass, on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        mlm.MaskedLanguageModel(mlm.perceiver_io_language_base())(torch.zeros(1, length, dtype=torch.long))
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
