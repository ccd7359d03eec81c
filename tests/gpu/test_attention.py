"""`attention()` on a device against scores multiplied out in float64: values, gradients, dropout, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.core.attention import attention
from perceiver.model.core.mask import AttentionMask

# Relative to the norm of the result. float32 is that of matrix products without TF32, torch's default.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
# 32 and 160 are the official language model's, 261 the image classifier's, 322 that of optical flow
HEAD_SIZES = [(32, 32), (32, 160), (64, 64), (96, 32), (128, 128), (261, 261), (322, 322)]
SIZES = {"cpu": (2, 3, 5, 11), "cuda": (2, 3, 133, 389)}  # B, H, N, M
LARGE = {"cpu": SIZES["cpu"], "cuda": (2, 3, 701, 1531)}  # on CUDA, a mask of this size is one of blocks


def padding(batch_size: int, num_keys: int, device: str) -> Tensor:
    """On the left, none in the first example."""
    lengths = torch.arange(batch_size, device=device)[:, None] * (num_keys // 3)
    return torch.arange(num_keys, device=device) < lengths


MASKS: dict[str, Callable[[int, int, str], AttentionMask | None]] = {
    "none": lambda b, m, device: None,
    "padding": lambda b, m, device: AttentionMask.of_padding(padding(b, m, device)),
    "causal": lambda b, m, device: AttentionMask(causal=True),
    "causal, padding": lambda b, m, device: AttentionMask.of_padding(padding(b, m, device), causal=True),
    "window": lambda b, m, device: AttentionMask(causal=True, window=m // 2),
    "window, padding": lambda b, m, device: AttentionMask.of_padding(padding(b, m, device), causal=True, window=m // 3),
}
# Masks of blocks are compiled for each head size and dtype: all head sizes in one dtype, and all dtypes for one
CASES = [
    (*sizes, dtype, name)
    for sizes in HEAD_SIZES
    for dtype in TOLERANCES
    for name in MASKS
    if name in ("none", "padding", "causal") or dtype == torch.bfloat16 or sizes == (64, 64)
]


def inputs(device: str, dtype: torch.dtype, k_size: int, v_size: int, sizes: tuple[int, int, int, int]) -> list[Tensor]:
    """Queries, keys and values as projections leave them: heads lie inside of positions."""
    b, h, n, m = sizes
    shapes = ((b, n, h, k_size), (b, m, h, k_size), (b, m, h, v_size))
    return [torch.randn(shape, device=device).to(dtype).transpose(1, 2).requires_grad_() for shape in shapes]


def reference(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """In the dtype of its arguments, by the rule itself: (B, H, N, M) scores, 0 for queries without keys."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    allowed = torch.ones(q.shape[0], 1, num_queries, num_keys, dtype=torch.bool, device=q.device)
    if mask is not None:
        if mask.allowed is not None:
            allowed = allowed & mask.allowed
        position = torch.arange(num_keys - num_queries, num_keys, device=q.device)[:, None]
        key = torch.arange(num_keys, device=q.device)
        if mask.causal:
            allowed = allowed & (key <= position)
        if mask.window is not None:
            allowed = allowed & (key > position - mask.window)
    scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(~allowed, -torch.inf)
    return torch.nan_to_num(scores.softmax(dim=-1)) @ v


def relative(result: Tensor, expected: Tensor) -> float:
    return ((result.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("k_size, v_size, dtype, mask", CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_equals_the_definition(device: str, k_size: int, v_size: int, dtype: torch.dtype, mask: str) -> None:
    sizes = (LARGE if mask in ("causal, padding", "window", "window, padding") else SIZES)[device]
    args = inputs(device, dtype, k_size, v_size, sizes)
    doubles = [x.detach().double().requires_grad_() for x in args]
    made = MASKS[mask](sizes[0], sizes[3], device)
    expected = reference(*doubles, made)
    weights = torch.randn_like(expected)
    result = attention(*args, mask=made)
    assert result.dtype == dtype and result.shape == expected.shape
    assert relative(result, expected) < TOLERANCES[dtype]
    result.backward(weights.to(dtype))
    expected.backward(weights.to(dtype).double())
    for name, x, double in zip("qkv", args, doubles, strict=True):
        assert x.grad is not None and double.grad is not None
        assert relative(x.grad, double.grad) < 3 * TOLERANCES[dtype], f"gradient of {name}"


def test_a_query_without_keys_gives_zero(device: str) -> None:
    b, h, n, m = LARGE[device]
    pad_mask = torch.zeros(b, m, dtype=torch.bool, device=device)
    pad_mask[1] = True
    for causal in (False, True):
        args = inputs(device, torch.bfloat16 if device == "cuda" else torch.float32, 32, 32, (b, h, n, m))
        result = attention(*args, mask=AttentionMask.of_padding(pad_mask, causal=causal))
        result.sum().backward()
        assert (result[1] == 0).all() and result[0].abs().min() > 0
        assert all(x.grad is not None and x.grad.isfinite().all() for x in args)


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_drops_as_often_as_it_says(device: str, causal: bool) -> None:
    """Equal scores and values of 1: a query's result is the sum of n probabilities 1 / n that were kept, scaled."""
    b, h, n, m = (2, 3, 64, 256) if device == "cpu" else (2, 4, 512, 2048)
    p = 0.25
    q, k = torch.zeros(b, h, n, 16, device=device), torch.randn(b, h, m, 16, device=device)
    v = torch.ones(b, h, m, 16, device=device).requires_grad_()
    result = attention(q, k, v, causal=causal, dropout=p)
    again = attention(q, k, v, causal=causal, dropout=p)
    assert not torch.equal(result, again)
    seen = torch.arange(m - n + 1, m + 1, device=device, dtype=torch.float32) if causal else torch.full((n,), float(m))
    deviations = (result[..., 0] - 1) * (seen.to(device) * (1 - p) / p).sqrt()  # of variance 1
    number = deviations.numel()
    assert abs(deviations.mean().item()) < 6 / number**0.5
    assert abs(deviations.square().mean().item() - 1) < 6 * (2 / number) ** 0.5
    result.sum().backward()
    assert v.grad is not None
    torch.testing.assert_close(v.grad[..., 0].sum(), result[..., 0].sum(), rtol=1e-3, atol=1e-3)


MEMORY_CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "all": ((64, 64), {}),
    "causal": ((64, 64), {"causal": True}),
    "K < V": ((32, 160), {}),
    "261": ((261, 261), {}),
    "322": ((322, 322), {}),
    "padding": ((64, 64), {"mask": "padding"}),
    "causal, padding": ((64, 64), {"mask": "causal, padding"}),
    "causal, padding, K < V": ((32, 160), {"mask": "causal, padding"}),
    "window": ((64, 64), {"mask": "window"}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEMORY_CASES)
def test_no_score_matrix_is_in_memory(name: str, record_property: Callable[[str, object], None]) -> None:
    """Forward and backward take less than a quarter of a score matrix, besides what grows with the inputs only."""
    b, h, n, m = 2, 8, 1024, 65536
    (k_size, v_size), kwargs = MEMORY_CASES[name]
    if "mask" in kwargs:
        kwargs = {"mask": MASKS[kwargs["mask"]](b, m, "cuda")}
    args = inputs("cuda", torch.bfloat16, k_size, v_size, (b, h, n, m))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(*args, **kwargs).sum().backward()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    scores, copies = 2 * b * h * n * m, 4 * sum(x.nbytes for x in args)  # gradients, and heads padded by zeros
    record_property("peak MB", f"{extra / 2**20:,.0f}, scores {scores / 2**20:,.0f}, inputs {copies / 2**22:,.0f}")
    assert extra < copies + scores / 4
