"""Whether a Perceiver AR still recalls when all it has of a sequence is its cache, and how large that is.

    python -m benchmarks.learning.caches recall-512 --minutes 1

It is trained as `benchmarks.learning.run` does it. Then it reads the sequences of the test with a cache, token by token
where they are scored, as generation does. The size is the number of elements: keys, values and tokens of one sequence.
Beside it stands that of a decoder's keys and values, which are of all positions in all layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.learning.models import Decoder, PerceiverARLearner
from benchmarks.learning.run import Recipe, in_turns, learning, parse_training, score
from benchmarks.learning.tasks import TASKS, NextTokens
from perceiver.model.core.attention import MultiHeadAttention


@torch.no_grad()
def cached_logits(learner: PerceiverARLearner, x: Tensor) -> tuple[Tensor, int]:
    """Logits (B, scored, vocabulary), and the elements that the cache has of a sequence in the end."""
    cache, first = learner.model.new_cache(), x.shape[1] - learner.num_scored
    logits = [learner.model(x[:, : first + 1], first, None, cache)]
    logits += [learner.model(x[:, i : i + 1], 0, None, cache) for i in range(first + 1, x.shape[1])]
    size = 0
    for layer in cache:
        assert layer.keys is not None and layer.values is not None
        num_positions = min(layer.num_seen, layer.window)  # there is room for more
        size += num_positions * sum(buffer.shape[1] * buffer.shape[3] for buffer in (layer.keys, layer.values))
    return torch.cat(logits, dim=1), size


def decoder_size(decoder: Decoder, seq_len: int) -> int:
    """Elements of the keys and values of a sequence."""
    attention = [module for module in decoder.modules() if isinstance(module, MultiHeadAttention)]
    return seq_len * sum(module.k_proj.out_features + module.v_proj.out_features for module in attention)


def row(task: NextTokens, name: str, seed: int, seconds: float, lr: float) -> str:
    """Trains a model, and tells what it recalls from what."""
    models: list[nn.Module] = []
    (result,) = in_turns([learning(task, name, seed, seconds, lr, Recipe(change=models.append))])
    learner: Any = models[0].eval()
    x, labels = task.test()
    parts = [cached_logits(learner, part) for part in x.split(64)]
    found, size = score(task, torch.cat([logits for logits, _ in parts]), labels), parts[0][1]
    whole = decoder_size(Decoder(task), task.seq_len)
    steps, _, blocks = result["curve"][-1]
    return (
        f"{name} seed {seed}: {found:.2f} {task.metric} with its cache, {blocks:.2f} without, after {steps} steps; "
        f"{size:,} elements, {size / whole:.3f} of the {whole:,} of a decoder"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[name for name in TASKS if name.startswith(("copy", "recall", "passkey"))])
    parser.add_argument(
        "--model",
        choices=["perceiver-ar", "perceiver-ar-token-shift", "perceiver-ar-token-shift-rotary"],
        default="perceiver-ar-token-shift-rotary",
    )
    arguments = parse_training(parser, argv, seeds=1, minutes=2.0)
    torch.set_num_threads(1)
    task = TASKS[arguments.task]()
    assert isinstance(task, NextTokens)
    for seed in range(arguments.seeds):
        print(row(task, arguments.model, seed, 60 * arguments.minutes, arguments.lr), flush=True)


if __name__ == "__main__":
    main()
