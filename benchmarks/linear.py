"""Linear layers in float32 on CPU: `perceiver.model.core.linear.Linear` and `nn.Linear` in turns.

As in a model, there are many layers one after the other: weights come from memory, not from the cache.

    python benchmarks/linear.py [--threads 2] [--repeats 15] [--train] [--clock cpu]
"""

from __future__ import annotations

import statistics
from functools import partial

import torch
from timing import alternate, benchmark_parser, machine, median_ratio
from torch import Tensor, nn

from perceiver.model.core.linear import Linear

# tokens, input channels, output channels
SHAPES = [
    *[(1, 128, 128), (1, 256, 256), (1, 512, 512), (1, 512, 2048), (1, 2048, 512), (1, 1280, 1280)],
    *[(4, 512, 2048), (64, 512, 512), (256, 1280, 256), (256, 1280, 1280), (2048, 768, 1280), (2048, 64, 64)],
]
WEIGHTS_MB = 100


CLASSES: dict[str, type[nn.Linear]] = {"ours": Linear, "theirs": nn.Linear}


def run(layers: list[nn.Linear], x: Tensor) -> None:
    for layer in layers:
        y = layer(x)
        if y.requires_grad:
            y.sum().backward()


def main() -> None:
    parser = benchmark_parser(__doc__, repeats=15, clock=True)
    parser.add_argument("--train", action="store_true", help="forward and backward pass")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(arguments.train)
    print(machine())
    print("\n| tokens x input x output channels | ours us | nn.Linear us | nn.Linear / ours |\n|---|---|---|---|")
    for tokens, inputs, outputs in SHAPES:
        x = torch.randn(1, tokens, inputs, requires_grad=arguments.train)
        num_layers = WEIGHTS_MB * 10**6 // (4 * inputs * outputs)
        stacks = {name: [c(inputs, outputs) for _ in range(num_layers)] for name, c in CLASSES.items()}
        times = alternate(
            {name: partial(run, layers, x) for name, layers in stacks.items()}, arguments.repeats, arguments.clock
        )
        ours, theirs = (1e6 * statistics.median(times[name]) / num_layers for name in CLASSES)
        ratio = median_ratio(times["theirs"], times["ours"])
        print(f"| {tokens} x {inputs} x {outputs} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
