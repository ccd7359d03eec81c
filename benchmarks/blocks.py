"""Training on several blocks of latents of one long sequence (core/blocks.py) beside separate windows.

windows  For each block, a forward and a backward pass of the tokens up to its end: the training step as it is with
         one block, on other windows of the text. Gradients add up.
blocks   One pass of the whole sequence.

Both predict the same tokens from the same prefixes, and their losses are asserted to be equal. Without prefix dropout,
so that they are. What is measured is the predicted tokens per second, and the peak memory beyond parameters.

    python benchmarks/blocks.py [--length 32768] [--latents 512] [--blocks 4] [--channels 512] [--layers 8]
                                [--threads 2] [--repeats 2] [--clock wall|cpu]
"""

from __future__ import annotations

import statistics

import torch
from timing import alternate, benchmark_parser, machine, median_ratio, peak_memory_mb

from perceiver.model.text.clm import CausalLanguageModel, CausalLanguageModelConfig


def main() -> None:
    parser = benchmark_parser(__doc__, repeats=2, clock=True)
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--latents", type=int, default=512, help="of a block")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8, help="of self-attention")
    arguments = parser.parse_args()
    length, size, num_blocks = arguments.length, arguments.latents, arguments.blocks
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = CausalLanguageModel(
        CausalLanguageModelConfig(
            max_seq_len=length,
            max_latents=size,
            num_channels=arguments.channels,
            num_self_attention_layers=arguments.layers,
            cross_attention_dropout=0.0,
        )
    )
    tokens = torch.randint(6, 262, (1, length + 1))
    labels, x = tokens[:, 1:], tokens[:, :-1]
    losses = {}

    def windows() -> None:
        total = 0.0
        for end in range(length - (num_blocks - 1) * size, length + 1, size):
            loss = model.loss(labels[:, :end], x[:, :end]) / num_blocks
            loss.backward()
            total += loss.item()
        losses["windows"] = total

    def blocks() -> None:
        loss = model.loss(labels, x, num_blocks=num_blocks)
        loss.backward()
        losses["blocks"] = loss.item()

    functions = {"windows": windows, "blocks": blocks}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    peaks = {name: peak_memory_mb(function) for name, function in functions.items()}
    assert abs(losses["windows"] - losses["blocks"]) < 1e-5 * losses["windows"], losses
    times = alternate(functions, arguments.repeats, arguments.clock, warm_up=False)
    print(f"{machine()}\n")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{num_parameters:,} parameters, {num_blocks} blocks of {size} latents at the end of {length} tokens, ", end=""
    )
    print(f"loss per token {losses['windows']:.6f} and {losses['blocks']:.6f}\n")
    print("| | s | predicted tokens per second | times windows | peak MB beyond parameters and gradients |")
    print("|---|---|---|---|---|")
    for name, runs in times.items():
        seconds = statistics.median(runs)
        ratio = median_ratio(times["windows"], runs)
        print(f"| {name} | {seconds:.1f} | {num_blocks * size / seconds:.0f} | {ratio:.2f} | {peaks[name]:.0f} |")


if __name__ == "__main__":
    main()
