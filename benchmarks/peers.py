"""Perceiver and Perceiver AR beside perceiver-pytorch and perceiver-ar-pytorch: the same models, converted.

For each length: seconds of a forward pass, of a training step (forward, backward, Adam) and of greedy decoding
(Perceiver AR: with our cache, and as the original does, a forward pass per token), and peak memory of a training step,
beyond parameters and what came before. Each part runs in a process of its own; within it the two take turns.

    python benchmarks/peers.py [perceiver-ar] [perceiver] [--lengths 1024 2048 4096] [--threads 2] [--repeats 3]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from perceiver_ar_pytorch import PerceiverAR
from perceiver_pytorch import Perceiver
from timing import alternate, benchmark_parser, machine, median_ratio, peak_memory_mb
from torch import Tensor, nn

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.foreign import LucidrainsPerceiver, LucidrainsPerceiverARForCausalLM
from perceiver.model.foreign.layouts.lucidrains_ar import lucidrains_perceiver_ar
from perceiver.model.foreign.layouts.lucidrains_perceiver import perceiver

NEW_TOKENS = 16
Calls = dict[str, Callable[[], object]]


def trained(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A training step, whose gradients and states of the optimizer are there already."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def perceiver_ar_calls(length: int) -> tuple[Calls, Calls, Calls]:
    """Forward, training step and decoding of a byte model: 8 layers, a quarter of the tokens are latents."""
    torch.manual_seed(0)
    prefix_len = length * 3 // 4
    arguments = {"heads": 8, "dim_head": 64, "cross_attn_seq_len": prefix_len}
    theirs = PerceiverAR(num_tokens=262, dim=512, depth=8, max_seq_len=length, **arguments)
    converted = lucidrains_perceiver_ar(theirs.state_dict(), arguments)
    ours = LucidrainsPerceiverARForCausalLM(LucidrainsPerceiverARForCausalLM.config_class(converted.config))
    load_parameters(ours.backend_model, converted.state_dict, "perceiver-ar-pytorch")
    x = torch.randint(262, (1, length))
    labels = x[:, prefix_len:].clone()
    prompt = x[:, : length - NEW_TOKENS]

    def forward(model: nn.Module, *args: Any) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return model.eval()(x, *args)

        return call

    def their_loss() -> Tensor:
        return token_cross_entropy(theirs.train()(x), labels)

    def our_loss() -> Tensor:
        return token_cross_entropy(ours.backend_model.train()(x, prefix_len), labels)

    @torch.no_grad()
    def decode() -> Tensor:
        """Greedy, without the wrapper's sampling: its forward pass over all tokens for each new one."""
        theirs.eval()
        tokens = prompt
        for _ in range(NEW_TOKENS):
            tokens = torch.cat([tokens, theirs(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens

    num_latents = prompt.shape[1] - prefix_len

    def generate() -> object:
        return ours.eval().generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, num_latents=num_latents)

    return (
        {"theirs": forward(theirs), "ours": forward(ours.backend_model, prefix_len)},
        {"theirs": trained(theirs, their_loss), "ours": trained(ours.backend_model, our_loss)},
        {"theirs": decode, "ours": generate},
    )


def perceiver_calls(length: int) -> tuple[Calls, Calls, Calls]:
    """Forward and training step of an image classifier: 256 latents, 6 blocks, each after a cross-attention."""
    torch.manual_seed(0)
    height = 2 ** (length.bit_length() // 2)
    arguments = {"num_freq_bands": 16, "max_freq": 32.0, "num_latents": 256, "depth": 6}
    theirs = Perceiver(**arguments)
    converted = perceiver(theirs.state_dict(), arguments)
    ours = LucidrainsPerceiver(converted.config)
    load_parameters(ours, converted.state_dict, "perceiver-pytorch")
    x, labels = torch.randn(2, height, length // height, 3), torch.tensor([3, 7])

    def forward(model: nn.Module) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return model.eval()(x)

        return call

    def loss(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: nn.functional.cross_entropy(model.train()(x), labels)

    return (
        {"theirs": forward(theirs), "ours": forward(ours)},
        {"theirs": trained(theirs, loss(theirs)), "ours": trained(ours, loss(ours))},
        {},
    )


MODELS = {"perceiver-ar": perceiver_ar_calls, "perceiver": perceiver_calls}


def measure(name: str, length: int, repeats: int) -> None:
    """Prints the rows of a model at a length."""
    forward, step, decode = MODELS[name](length)
    for what, calls in (("forward", forward), ("training step", step), (f"decoding {NEW_TOKENS} tokens", decode)):
        if calls:
            times = alternate(calls, repeats)
            ours, theirs = (statistics.median(times[key]) for key in ("ours", "theirs"))
            ratio = median_ratio(times["theirs"], times["ours"])
            print(f"| {name} | {length} | {what} | {ours:.3f} s | {theirs:.3f} s | {ratio:.2f} |", flush=True)


def memory(name: str, length: int, whose: str) -> None:
    """Prints the peak memory of a training step in MB."""
    step = MODELS[name](length)[1][whose]
    step()
    print(peak_memory_mb(step))


def main() -> None:
    parser = benchmark_parser(__doc__, repeats=3)
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--part", choices=["times", "ours", "theirs"], help="what a process of its own does")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part is not None:
        (name,), (length,) = arguments.models, arguments.lengths
        if arguments.part == "times":
            measure(name, length, arguments.repeats)
        else:
            memory(name, length, arguments.part)
        return
    print(machine())
    print("| model | tokens or pixels | | ours | theirs | theirs / ours |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments.models or MODELS:
        for length in arguments.lengths:
            command = [sys.executable, __file__, name, f"--lengths={length}", f"--threads={arguments.threads}"]
            subprocess.run([*command, "--part=times", f"--repeats={arguments.repeats}"], check=True)
            ours, theirs = (
                float(subprocess.run([*command, f"--part={whose}"], check=True, capture_output=True, text=True).stdout)
                for whose in ("ours", "theirs")
            )
            print(f"| {name} | {length} | memory of a step | {ours:.0f} MB | {theirs:.0f} MB | {theirs / ours:.2f} |")


if __name__ == "__main__":
    main()
