"""Training on documents of unequal length: packed, and padded, in turns. Real tokens per second, forward and backward.

    python benchmarks/packing.py

Lengths are log-normal, as those of texts are. Padded batches are those of the data modules, `max_seq_len` wide, and for
comparison as wide as their longest document needs. All batches hold the same documents, so the sum of the losses is the
same, too, which is checked.
"""

import functools
import itertools
import operator
import statistics
from collections.abc import Callable, Iterable

import numpy as np
import torch
from timing import alternate, benchmark_parser, machine, median_ratio
from torch import Tensor

from perceiver.data.packing import pack_rows
from perceiver.model.text.clm import CausalLanguageModel, CausalLanguageModelConfig

MAX_SEQ_LEN, MAX_LATENTS, BATCH_SIZE = 1024, 256, 8


def documents(num_documents: int, median: float, spread: float) -> list[Tensor]:
    """Token ids (n + 1,) each: n inputs, from 1 to `MAX_SEQ_LEN`, and after each the next token."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(np.log(median), spread, num_documents).astype(np.int64).clip(1, MAX_SEQ_LEN)
    return [torch.from_numpy(random.integers(0, 262, length + 1)) for length in lengths]


def padded(batch: list[Tensor], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, inputs and padding, (B, width) each."""
    labels, x = torch.full((len(batch), width), -100), torch.zeros(len(batch), width, dtype=torch.int64)
    pad_mask = torch.ones(len(batch), width, dtype=torch.bool)
    for row, ids in enumerate(batch):
        place = slice(width - len(ids) + 1, width)
        labels[row, place], x[row, place], pad_mask[row, place] = ids[1:], ids[:-1], False
    return labels, x, pad_mask


def packed(batch: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Labels and inputs (1, T), and lengths."""
    labels, x = torch.cat([ids[1:] for ids in batch])[None], torch.cat([ids[:-1] for ids in batch])[None]
    return labels, x, [len(ids) - 1 for ids in batch]


def num_targets(labels: Tensor) -> int:
    return int((labels != -100).sum())


def main() -> None:
    parser = benchmark_parser(__doc__, threads=1, clock=True)
    parser.add_argument("--documents", type=int, default=96)
    parser.add_argument("--median", type=float, default=200, help="of the lengths")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the lengths' logarithm")
    parser.add_argument("--channels", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = CausalLanguageModel(
        CausalLanguageModelConfig(
            max_seq_len=MAX_SEQ_LEN,
            max_latents=MAX_LATENTS,
            num_channels=arguments.channels,
            num_heads=4,
            num_self_attention_layers=2,
            cross_attention_dropout=0.0,
        )
    )
    texts = documents(arguments.documents, arguments.median, arguments.spread)
    lengths = np.array([len(ids) - 1 for ids in texts])
    batches = [texts[i : i + BATCH_SIZE] for i in range(0, len(texts), BATCH_SIZE)]
    members, offsets = pack_rows(lengths, MAX_SEQ_LEN)
    rows = [[texts[i] for i in members[a:b]] for a, b in itertools.pairwise(offsets)]
    row_batches = [
        functools.reduce(operator.iadd, rows[i : i + BATCH_SIZE], []) for i in range(0, len(rows), BATCH_SIZE)
    ]

    def trained(losses: Iterable[tuple[Tensor, int]]) -> float:
        """Forward and backward passes -> sum of the losses of all targets, those of each step a mean over so many."""
        total = 0.0
        for loss, count in losses:
            loss.backward()
            total += loss.item() * count
        model.zero_grad()
        return total

    def in_rows_of(width: Callable[[list[Tensor]], int]) -> float:
        made = (padded(batch, width(batch)) for batch in batches)
        return trained((model.loss(y, x, m), num_targets(y[:, -MAX_LATENTS:])) for y, x, m in made)

    def in_packed_rows() -> float:
        latents = lengths.clip(max=MAX_LATENTS)
        targets = [int(latents[members[a:b]].sum()) for a, b in itertools.pairwise(offsets)]
        counts = [sum(targets[i : i + BATCH_SIZE]) for i in range(0, len(rows), BATCH_SIZE)]
        made = zip(map(packed, row_batches), counts, strict=True)
        return trained((model.loss_packed(*batch), count) for batch, count in made)

    functions = {
        "padded to max_seq_len": lambda: in_rows_of(lambda _: MAX_SEQ_LEN),
        "padded to the longest": lambda: in_rows_of(lambda batch: max(MAX_LATENTS, *(len(ids) - 1 for ids in batch))),
        "packed": in_packed_rows,
    }
    sums = [function() for function in functions.values()]
    assert max(sums) - min(sums) < 1e-4 * max(sums), sums
    times = alternate(functions, arguments.repeats, arguments.clock)
    print(f"{machine()}\n")
    print(
        f"{len(texts)} documents of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} on average, ",
        end="",
    )
    print(f"in {len(rows)} rows of {MAX_SEQ_LEN}, {lengths.sum() / len(rows) / MAX_SEQ_LEN:.0%} full\n")
    print("| batches | tokens per second | times padded to max_seq_len |\n|---|---|---|")
    for name, runs in times.items():
        rate = lengths.sum() / statistics.median(runs)
        print(f"| {name} | {rate:,.0f} | {median_ratio(times['padded to max_seq_len'], runs):.2f} |")


if __name__ == "__main__":
    main()
