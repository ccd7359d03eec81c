"""What becomes better by one change of a model's block or of its training, in the same CPU time.

    python -m benchmarks.learning.switches --seeds 3 --minutes 0.5
    python -m benchmarks.learning.recipes_report

    rmsnorm        RMSNorm (arXiv 1910.07467) instead of LayerNorm
    qk-norm        queries and keys of each head are normalised (arXiv 2010.04245), with a learned scale per channel
    swiglu         gated MLPs (arXiv 2002.05202) with two thirds of the hidden channels
    grouped-keys   one head of keys and values for all heads of queries (arXiv 1911.02150) where the prefix is read
    fast-adamw     three times the learning rate
    muon           Muon (https://kellerjordan.github.io/posts/muon) for matrices of layers, AdamW for all else; its
                   updates are scaled to those of AdamW (arXiv 2502.16982)
    muon-0.02      the same with its author's learning rate and scale
    wsd            the learning rate is constant, and goes down to 0 in the last fifth of the time (arXiv 2404.06395)
    cosine         it goes down to 0 as a cosine from the warm-up on

Each is compared with the default of benchmarks/learning/run.py: the same model, seed and batches, trained in turns, so
that other work on the machine slows all alike. What is measured is the cross-entropy of the test, in bits. Changes are
made to built models: the library has no flags for them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.learning import run
from benchmarks.learning.classifiers import INIT_SCALE
from benchmarks.learning.run import Recipe
from benchmarks.learning.tasks import TASKS
from perceiver.model.core.attention import MultiHeadAttention
from perceiver.model.core.layers import MLP, AttentionLayer, PrefixCrossAttention
from perceiver.model.core.perceiver_io import init_parameters

RESULTS = Path(__file__).parent / "results" / "switches.jsonl"
MODELS = {
    "pydoc": "perceiver-ar",
    "chorales": "perceiver-ar",
    "recall": "perceiver-ar-token-shift",
    "mnist1d": "perceiver-io",
}


def swap(model: nn.Module, wanted: type[nn.Module], made: Callable[[Any], nn.Module]) -> None:
    """Replaces the parts of a model that are of a class by what is made of each."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if type(part) is wanted:
                setattr(parent, name, made(part))


def rmsnorm(model: nn.Module) -> None:
    swap(model, nn.LayerNorm, lambda norm: nn.RMSNorm(norm.normalized_shape, eps=norm.eps))


class HeadNorm(nn.Module):
    """RMSNorm of each head of queries or keys (B, N, H * K)."""

    def __init__(self, num_heads: int, num_channels: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(num_channels // num_heads, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.norm(rearrange(x, "b n (h k) -> b n h k", h=self.num_heads)), "b n h k -> b n (h k)")


def qk_norm(model: nn.Module) -> None:
    for part in list(model.modules()):
        if isinstance(part, MultiHeadAttention):
            for name in ("q_proj", "k_proj"):
                projection = getattr(part, name)
                setattr(part, name, nn.Sequential(projection, HeadNorm(part.num_heads, projection.out_features)))


class Gate(nn.Module):
    """Half of the channels, times SiLU of the other half."""

    def forward(self, x: Tensor) -> Tensor:
        values, gates = x.chunk(2, dim=-1)
        return values * F.silu(gates)


def gated(mlp: MLP) -> MLP:
    up = mlp[1]
    hidden, bias = round(up.out_features * 2 / 3), up.bias is not None
    mlp = MLP(up.in_features, 1, bias)
    mlp[1], mlp[2], mlp[3] = (
        nn.Linear(up.in_features, 2 * hidden, bias),
        Gate(),
        nn.Linear(hidden, up.in_features, bias),
    )
    init_parameters(mlp, INIT_SCALE)
    return mlp


def swiglu(model: nn.Module) -> None:
    swap(model, MLP, gated)


def grouped_keys(model: nn.Module) -> None:
    readers = [part.attention for part in model.modules() if isinstance(part, PrefixCrossAttention)]
    if not readers:
        raise ValueError("no part of this model reads a prefix")
    for reader in readers:
        for name in ("k_proj", "v_proj"):
            projection = getattr(reader, name)
            setattr(reader, name, nn.Linear(projection.in_features, projection.out_features // reader.num_heads, False))
            init_parameters(getattr(reader, name), INIT_SCALE)


def muon(model: nn.Module, lr: float, muon_lr: float | None = None) -> list[Optimizer]:
    """Muon for the matrices of attention and MLPs, AdamW for embeddings, queries, norms, biases and the output."""
    layers = [part for part in model.modules() if isinstance(part, AttentionLayer)]
    matrices = [p for layer in layers for p in layer.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = run.adamw([p for p in model.parameters() if id(p) not in chosen], lr)
    if muon_lr is None:  # updates of the size of AdamW's, so that the same learning rate does for both
        return [torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"), others]
    return [torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01), others]


def wsd(step: int, progress: float) -> float:
    return run.constant(step, progress) * min(1.0, (1.0 - progress) / 0.2)


def cosine(step: int, progress: float) -> float:
    return run.constant(step, progress) * (1.0 + math.cos(math.pi * progress)) / 2


SWITCHES = {
    "default": Recipe(),
    "rmsnorm": Recipe(change=rmsnorm),
    "qk-norm": Recipe(change=qk_norm),
    "swiglu": Recipe(change=swiglu),
    "grouped-keys": Recipe(change=grouped_keys),
    "fast-adamw": Recipe(optimizers=lambda model, lr: [run.adamw(model.parameters(), 3 * lr)]),
    "muon": Recipe(optimizers=muon),
    "muon-0.02": Recipe(optimizers=partial(muon, muon_lr=0.02)),
    "wsd": Recipe(schedule=wsd),
    "cosine": Recipe(schedule=cosine),
}


def can_do(switch: str, task: str) -> bool:
    return switch != "grouped-keys" or MODELS[task].startswith("perceiver-ar")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=MODELS, default=["pydoc", "mnist1d"])
    parser.add_argument("--switch", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    return run.parse_training(parser, argv, minutes=0.5)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(1)
    done = [
        {name: r[name] for name in ("task", "switch", "seed", "minutes", "lr")} for r in run.resume(arguments.results)
    ]
    for seed in range(arguments.seeds):
        for name in arguments.task:
            key = {"task": name, "seed": seed, "minutes": arguments.minutes, "lr": arguments.lr}
            switches = [s for s in arguments.switch if can_do(s, name) and key | {"switch": s} not in done]
            task = replace(TASKS[name](), metric="bits")
            results = run.in_turns(
                [
                    run.learning(task, MODELS[name], seed, 60 * arguments.minutes, arguments.lr, SWITCHES[switch])
                    for switch in switches
                ]
            )
            for switch, result in zip(switches, results, strict=True):
                line = key | {"switch": switch, "model": MODELS[name]} | result | {"machine": run.machine()}
                run.append(arguments.results, line)
                steps, used, bits = result["curve"][-1]
                print(f"{name} {switch} seed {seed}: {bits:.4f} bits, {steps} steps, {used:.0f} s", flush=True)


if __name__ == "__main__":
    main()
