"""Perceiver AR, 30.6M byte model: decoding, training and long prefixes, beside plain attention (benchmarks/eager.py).

decode  Greedy decoding after prompts of two lengths: tokens/s of our `generate`, of our backend's loop and of a decoder
        that concatenates and rotates its cache anew; share of the bound that reading all parameters for each token
        sets.
static  Greedy decoding with a static cache, compiled, with weights of float32, bfloat16 and int8 (torchao), beside
        `generate` as it is by default: tokens/s, share of the bound of float32 parameters, compile time.
train   Forward and backward of 2 x 4,096 tokens, and peak memory beyond parameters and gradients.
prefix  Forward and backward of 1,024 latents with prefixes up to 131,072 tokens: seconds and peak memory.

    python benchmarks/perceiver_ar.py [decode] [static] [train] [prefix] [--threads 2] [--repeats 5]
                                      [--weights float32 bfloat16 int8] [--batch_size 1]
                                      [--prompt_lengths 512 3072] [--clock wall|cpu]
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import eager
import torch
from timing import alternate, benchmark_parser, machine, median_ratio, peak_memory_mb, seconds
from torch import Tensor

from perceiver.model.core import compilation
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.sampling import sample
from perceiver.model.text import clm

PROMPTS = (512, 3072)
NEW_TOKENS = 64
PREFIXES = (16384, 32768, 65536, 131072)


def tokens(batch_size: int, length: int) -> Tensor:
    return torch.randint(6, 262, (batch_size, length), generator=torch.Generator().manual_seed(0))


def read_bandwidth(clock: str = "wall") -> float:
    """Bytes per second of summing an array that fits into no cache, the best of some runs."""
    array = torch.ones(64 * 2**20)
    return array.nbytes / min(seconds(array.sum, clock) for _ in range(10))


def report_steps(
    prompt: Tensor,
    decoders: dict[str, Callable[[Tensor, int], Tensor]],
    base: str,
    *,
    num_bytes: int,
    repeats: int,
    clock: str = "wall",
) -> None:
    """Prints what a further token costs: the time of many less that of the first one, which the prompt is part of.

    Args:
        prompt: (B, n)
        decoders: Functions of a prompt and a number of new tokens.
        base: The decoder that the others are compared with.
        num_bytes: Bytes of all parameters: reading them is the bound.
        repeats: Turns.
        clock: See `timing.CLOCKS`.
    """
    first, all_ = (
        alternate({name: partial(decoder, prompt, number) for name, decoder in decoders.items()}, repeats, clock)
        for number in (1, NEW_TOKENS + 1)
    )
    step = {n: [(a - f) / NEW_TOKENS for a, f in zip(all_[n], first[n], strict=True)] for n in decoders}
    bound = num_bytes / read_bandwidth(clock)
    for name, times in step.items():
        median = statistics.median(times)
        print(
            f"| {prompt.shape[1]} | {name} | {median * 1e3:.2f} | {len(prompt) / median:.0f} | {bound / median:.0%} "
            f"| {median_ratio(step[base], times):.2f} |",
            flush=True,
        )


def decode(repeats: int) -> None:
    torch.manual_seed(0)
    config = clm.perceiver_ar_byte_base()
    hub = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).eval()
    model = hub.backend_model
    num_bytes = sum(parameter.nbytes for parameter in model.parameters())

    def loop(prompt: Tensor, num_tokens: int) -> Tensor:
        return sample(model, prompt, num_tokens, temperature=0.0)

    def generate(prompt: Tensor, num_tokens: int) -> Tensor:
        return hub.generate(prompt, max_new_tokens=num_tokens, do_sample=False)

    @torch.no_grad()
    def plain(prompt: Tensor, num_tokens: int) -> Tensor:
        cache: eager.Cache = [[] for _ in range(1 + len(model.self_attention))]
        x, prefix_len = prompt, prompt.shape[1] - 1
        for _ in range(num_tokens):
            x = eager.forward(model, x, prefix_len, cache)[:, -1:].argmax(dim=-1)
            prompt, prefix_len = torch.cat([prompt, x], dim=1), 0
        return prompt

    decoders = {"generate": generate, "loop": loop, "plain": plain}
    print("| prompt | decoder | ms per token | tokens/s | of bandwidth bound | times plain |")
    print("|---|---|---|---|---|---|")
    for length in PROMPTS:
        prompt = tokens(1, length)
        results = {name: decoder(prompt, NEW_TOKENS) for name, decoder in decoders.items()}
        assert all(torch.equal(result, results["loop"]) for result in results.values())
        report_steps(prompt, decoders, "plain", num_bytes=num_bytes, repeats=repeats)


def static(repeats: int, weights: Sequence[str], batch_size: int, prompt_lengths: Sequence[int], clock: str) -> None:
    torch.manual_seed(0)
    eager_model = clm.PerceiverCausalLanguageModel(
        clm.PerceiverCausalLanguageModelConfig(clm.perceiver_ar_byte_base())
    ).eval()
    num_bytes = sum(parameter.nbytes for parameter in eager_model.parameters())
    models = {}
    for name in weights:
        models[name] = copy.deepcopy(eager_model)
        if name == "bfloat16":
            models[name].bfloat16()
        elif name == "int8":
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(models[name], Int8WeightOnlyConfig())

    def decoder(name: str, prompt: Tensor, num_tokens: int) -> Tensor:
        sizes = {"max_new_tokens": num_tokens, "do_sample": False}
        if name == "generate":
            return eager_model.generate(prompt, **sizes)
        return models[name].generate(prompt, **sizes, cache_implementation="static")

    decoders = {name: partial(decoder, name) for name in ("generate", *weights)}
    print(f"{clock} time\n")
    print("| prompt | decoder | ms per step | tokens/s | of bandwidth bound of float32 | times generate |")
    print("|---|---|---|---|---|---|")
    for length in prompt_lengths:
        prompt = tokens(batch_size, length)
        results = {name: run(prompt, NEW_TOKENS) for name, run in decoders.items()}  # compiles
        assert all(torch.equal(results[name], results["generate"]) for name in {"generate", "float32"} & set(results))
        report_steps(prompt, decoders, "generate", num_bytes=num_bytes, repeats=repeats, clock=clock)
    print(f"\n{compilation.statistics.num_graphs} graphs compiled in {compilation.statistics.seconds:.0f} s")


def training_step(name: str, dropout: float) -> Callable[[], None]:
    torch.manual_seed(0)
    model = clm.CausalLanguageModel(replace(clm.perceiver_ar_byte_base(), cross_attention_dropout=dropout)).train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = tokens(2, model.max_seq_len + 1)
    x, labels = x[:, :-1], x[:, 1:]
    prefix_len = model.max_seq_len - model.max_latents

    def ours() -> None:
        model.loss(labels, x).backward()

    def plain() -> None:
        token_cross_entropy(eager.forward(model, x, prefix_len), labels[:, prefix_len:]).backward()

    return ours if name == "ours" else plain


def train(repeats: int) -> None:
    print("| prefix dropout | ours s | plain s | plain / ours | peak MB ours | plain |")
    print("|---|---|---|---|---|---|")
    for dropout in (0.0, 0.5):
        times = alternate({name: training_step(name, dropout) for name in ("ours", "plain")}, repeats)
        peaks = [measured("train", name, dropout)[1] for name in times]
        print(
            f"| {dropout} | {statistics.median(times['ours']):.2f} | {statistics.median(times['plain']):.2f} "
            f"| {median_ratio(times['plain'], times['ours']):.2f} | {peaks[0]:.0f} | {peaks[1]:.0f} |",
            flush=True,
        )


def long_prefix_step(prefix_len: int, dropout: float) -> Callable[[], None]:
    torch.manual_seed(0)
    config = replace(
        clm.perceiver_ar_byte_base(),
        max_seq_len=prefix_len + 1024,
        max_latents=1024,
        abs_pos_emb=False,
        cross_attention_dropout=dropout,
    )
    model = clm.CausalLanguageModel(config).train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = tokens(1, config.max_seq_len + 1)
    return lambda: model.loss(x[:, 1:], x[:, :-1]).backward()


def prefix(repeats: int) -> None:
    print("| prefix | prefix dropout | s | ms per 1,024 prefix tokens more | peak MB beyond parameters and gradients |")
    print("|---|---|---|---|---|")
    for dropout in (0.0, 0.5):
        shorter: tuple[int, float] | None = None
        for length in PREFIXES:
            time, peak = measured("prefix", str(length), dropout)
            more = "" if shorter is None else f"{(time - shorter[1]) / (length - shorter[0]) * 1024 * 1e3:.0f}"
            print(f"| {length} | {dropout} | {time:.2f} | {more} | {peak:.0f} |", flush=True)
            shorter = length, time


def measured(case: str, argument: str, dropout: float) -> tuple[float, float]:
    """Seconds, the best of three, and peak memory in MB of a step, in a process of its own."""
    command = [sys.executable, __file__, "--measure", case, argument, str(dropout)]
    command += ["--threads", str(torch.get_num_threads())]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[-2]), float(output[-1])


def measure(case: str, argument: str, dropout: float) -> None:
    step = training_step(argument, dropout) if case == "train" else long_prefix_step(int(argument), dropout)
    peak = peak_memory_mb(step)
    print(min(seconds(step) for _ in range(3)), peak)


def main() -> None:
    parts: dict[str, Callable[[], None]] = {
        "decode": lambda: decode(arguments.repeats),
        "static": lambda: static(
            arguments.repeats, arguments.weights, arguments.batch_size, arguments.prompt_lengths, arguments.clock
        ),
        "train": lambda: train(arguments.repeats),
        "prefix": lambda: prefix(arguments.repeats),
    }
    parser = benchmark_parser(__doc__, clock=True)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[], help="default: all")
    parser.add_argument("--weights", nargs="+", default=["float32", "bfloat16", "int8"], help="of static")
    parser.add_argument("--batch_size", type=int, default=1, help="of static")
    parser.add_argument("--prompt_lengths", type=int, nargs="+", default=PROMPTS, help="of static")
    parser.add_argument(
        "--measure", nargs=3, metavar=("CASE", "ARGUMENT", "DROPOUT"), help="one case of train or prefix"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        case, argument, dropout = arguments.measure
        measure(case, argument, float(dropout))
        return
    print(machine())
    for part in arguments.parts or parts:
        print(f"\n{part}\n")
        parts[part]()


if __name__ == "__main__":
    main()
