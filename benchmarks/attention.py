"""The attention paths on CPU: what `perceiver.model.core.attention.attention` chooses from, and what it chooses.

unfused   two matrix products and a float32 softmax; the score matrix is in memory
kernel    torch's scaled_dot_product_attention as it is (fused where head sizes are equal, unfused fallback elsewhere)
padded    the fused kernel with the smaller head size padded by zeros
chosen    attention()

python benchmarks/attention.py [--threads 2] [--repeats 15]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import alternate, benchmark_parser, machine
from torch import Tensor

from perceiver.model.core.attention import _unfused_attention, attention

# name: batch, heads, queries, keys, query/key head size, value head size
SHAPES = {
    "language encoder, cross": (1, 8, 256, 2048, 32, 160),
    "language encoder, self": (1, 8, 256, 256, 32, 160),
    "language decoder, cross": (1, 8, 2048, 256, 32, 96),
    "masked positions only": (1, 8, 307, 256, 32, 96),
    "equal head sizes, cross": (1, 8, 256, 2048, 64, 64),
    "equal head sizes, self": (1, 8, 512, 512, 64, 64),
    "image pixels, cross": (1, 1, 512, 50176, 261, 261),
    "unequal and long": (1, 8, 512, 8192, 32, 160),
}


def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale, width = q.shape[-1] ** -0.5, max(q.shape[-1], v.shape[-1])
    q, k, wide = (F.pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, wide, scale=scale)[..., : v.shape[-1]]


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "unfused": lambda q, k, v: _unfused_attention(q * q.shape[-1] ** -0.5, k, v, None, 0.0),
    "kernel": F.scaled_dot_product_attention,
    "padded": padded,
    "chosen": attention,
}


def forward(path: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> None:
    with torch.no_grad():
        path(*inputs)


def forward_backward(path: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> None:
    path(*inputs).sum().backward()


def main() -> None:
    arguments = benchmark_parser(__doc__, repeats=15).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(machine())
    print("\nmedian ms, forward / forward + backward\n")
    print(f"| shape (B, H, N, M, K, V) | dtype | {' | '.join(PATHS)} |")
    print("|---|---|" + "---|" * len(PATHS))
    for name, (b, h, n, m, k, v) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            # heads as projections leave them: (B, length, H, size), seen as (B, H, length, size)
            inputs = [
                torch.randn(b, length, h, size, dtype=dtype).transpose(1, 2).requires_grad_()
                for length, size in ((n, k), (m, k), (m, v))
            ]
            cells = []
            times = [
                alternate({p: partial(run, f, inputs) for p, f in PATHS.items()}, arguments.repeats)
                for run in (forward, forward_backward)
            ]
            for path in PATHS:
                cells.append(" / ".join(f"{1e3 * statistics.median(t[path]):.1f}" for t in times))
            print(f"| {name} {(b, h, n, m, k, v)} | {str(dtype)[6:]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
