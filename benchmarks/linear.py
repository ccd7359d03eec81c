"""Linear layers in float32 inference on CPU: `perceiver.model.core.linear.Linear` and `nn.Linear` in turns.

python benchmarks/linear.py [--threads 2] [--repeats 60]
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from timing import alternate, machine, median_ratio
from torch import nn

from perceiver.model.core.linear import Linear

# tokens, input channels, output channels
SHAPES = [(1, 1280, 1280), (64, 512, 512), (256, 1280, 256), (256, 1280, 1280), (2048, 768, 1280), (2048, 64, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    print(machine())
    print("\n| tokens x input x output channels | ours us | nn.Linear us | nn.Linear / ours |\n|---|---|---|---|")
    for tokens, inputs, outputs in SHAPES:
        x = torch.randn(1, tokens, inputs)
        layers = {"ours": Linear(inputs, outputs), "theirs": nn.Linear(inputs, outputs)}
        times = alternate({name: partial(layer, x) for name, layer in layers.items()}, arguments.repeats)
        ours, theirs = (1e6 * statistics.median(times[name]) for name in layers)
        ratio = median_ratio(times["theirs"], times["ours"])
        print(f"| {tokens} x {inputs} x {outputs} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
