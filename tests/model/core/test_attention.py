"""Attention: every path on CPU equals a loop over heads and queries; masks, dtypes, dropout and memory.

A path is chosen by the size of the score matrix: `small` multiplies it out where that is faster, `large` takes the
fused kernel, with K or V padded where they differ, or chunks of queries where there is dropout. The tests set the limit
so that tiny inputs take both.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perceiver.model.core import attention as module
from perceiver.model.core.attention import MultiHeadAttention, attention
from perceiver.model.core.cache import KeyValueCache
from perceiver.model.core.mask import AttentionMask, causal_mask
from perceiver.model.core.position import RotaryPositionEmbedding
from tests.model.helpers import Case, golden_cases

B, H, N, M = 2, 3, 5, 7


class OperatorNames(TorchDispatchMode):
    """Remembers the names of all operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


HEAD_SIZES = [(11, 13), (13, 11), (11, 11)]  # K, V

every_path = pytest.mark.parametrize("limit", [0, 2**23], ids=["large", "small"])
every_head_size = pytest.mark.parametrize("k_size, v_size", HEAD_SIZES, ids=["K<V", "K>V", "K=V"])


def loop_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One query of one head of one example at a time."""
    b_size, h_size, n_size, m_size = *q.shape[:3], k.shape[2]
    allowed = torch.ones(b_size, h_size, n_size, m_size, dtype=torch.bool)
    if mask is not None:
        allowed = mask.expand_as(allowed)
    rows = []
    for b in range(b_size):
        for h in range(h_size):
            for n in range(n_size):
                keys = allowed[b, h, n].nonzero()[:, 0]
                scores = (
                    torch.stack([q[b, h, n] @ k[b, h, m] / math.sqrt(q.shape[-1]) for m in keys]) if len(keys) else None
                )
                rows.append(v.new_zeros(v.shape[-1]) if scores is None else scores.softmax(0) @ v[b, h, keys])
    return torch.stack(rows).reshape(b_size, h_size, n_size, -1)


def inputs(k_size: int, v_size: int, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(B, H, length, size, **kwargs) for length, size in ((N, k_size), (M, k_size), (M, v_size)))  # type: ignore[return-value]


def masks() -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    keys = torch.rand(B, 1, 1, M, generator=generator) < 0.6
    keys[..., 0] = True
    every = torch.rand(B, H, N, M, generator=generator) < 0.5
    every[..., 2] = True
    empty_rows = every.clone()
    empty_rows[0, 1, 3] = False
    empty_example = keys.clone()
    empty_example[1] = False
    return {"none": None, "keys": keys, "every": every, "empty rows": empty_rows, "empty example": empty_example}


@pytest.mark.parametrize("mask", masks())
@every_head_size
@every_path
def test_equals_a_loop_in_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, mask: str
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    ours = [x.requires_grad_() for x in inputs(k_size, v_size)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    result, expected = attention(*ours, mask=masks()[mask]), loop_attention(*theirs, masks()[mask])
    assert result.shape == (B, H, N, v_size)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad is not None and x.grad.isfinite().all()
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_head_size
@every_path
def test_a_query_without_keys_gives_zero_and_no_nan(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = (x.to(dtype).requires_grad_() for x in inputs(k_size, v_size))
    result = attention(q, k, v, mask=masks()["empty example"])
    result.float().square().sum().backward()
    assert (result[1] == 0).all() and (result[0] != 0).any()
    for x in (q, k, v):
        assert x.grad is not None and x.grad.isfinite().all()
        assert (x.grad[1] == 0).all()


@every_head_size
@every_path
def test_masked_keys_have_no_influence(monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = (x.requires_grad_() for x in inputs(k_size, v_size))
    mask = torch.ones(B, 1, 1, M, dtype=torch.bool)
    mask[0, ..., 4] = False
    attention(q, k, v, mask=mask).square().sum().backward()
    assert k.grad is not None and v.grad is not None
    assert (k.grad[0, :, 4] == 0).all() and (v.grad[0, :, 4] == 0).all()
    assert (k.grad[1, :, 4] != 0).any() and (v.grad[0, :, 3] != 0).any()


@every_head_size
@every_path
def test_bfloat16_is_close_to_float32(monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = (x.bfloat16() for x in inputs(k_size, v_size))
    result = attention(q, k, v, mask=masks()["empty rows"])
    assert result.dtype == torch.bfloat16
    expected = loop_attention(q.float(), k.float(), v.float(), masks()["empty rows"])
    torch.testing.assert_close(result.float(), expected, atol=2e-2, rtol=2e-2)


@every_head_size
@every_path
def test_float64_is_exact(monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int) -> None:
    """Nothing in between is float32."""
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = inputs(k_size, v_size, dtype=torch.float64)
    result = attention(q, k, v, mask=masks()["every"])
    torch.testing.assert_close(result, loop_attention(q, k, v, masks()["every"]), atol=1e-12, rtol=0)


def test_softmax_is_computed_in_float32() -> None:
    # 4,096 equal scores: in bfloat16 a running sum of ones stops at 256
    q, k, v = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4096, 2), torch.ones(1, 1, 4096, 3)
    result = attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(result.float(), torch.ones(1, 1, 1, 3), atol=1e-2, rtol=0)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("masked", [False, True])
@every_head_size
def test_long_inputs_have_no_score_matrix(
    monkeypatch: pytest.MonkeyPatch, k_size: int, v_size: int, masked: bool
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    heads, queries, length = 4, 128, 17_000  # one example's score matrix has 8.7 million elements
    q = torch.randn(1, heads, queries, k_size, requires_grad=True)
    k, v = torch.randn(1, heads, length, k_size), torch.randn(1, heads, length, v_size)
    mask = torch.ones(1, 1, 1, length, dtype=torch.bool) if masked else None
    with LargestTensor() as largest:
        attention(q, k, v, mask=mask).sum().backward()
    assert 0 < largest.numel < heads * queries * length / 2


def test_long_inputs_with_dropout_have_no_score_matrix() -> None:
    q, k, v = torch.randn(1, 4, 600, 3, requires_grad=True), torch.randn(1, 4, 7_000, 3), torch.randn(1, 4, 7_000, 3)
    with LargestTensor() as largest:
        attention(q, k, v, dropout=0.1).sum().backward()
    assert 0 < largest.numel <= module._SMALL_SCORES < 4 * 600 * 7_000


@pytest.mark.parametrize("num_threads", [B * H, B * H + 1])
@every_head_size
@every_path
def test_training_with_fewer_heads_than_threads(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, num_threads: int
) -> None:
    """The fused kernel would leave threads idle in its backward pass, and only there."""
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    q, k, v = (x.requires_grad_() for x in inputs(k_size, v_size))
    with OperatorNames() as trained:
        result = attention(q, k, v)
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    by_size = k_size != v_size and limit > 0
    assert (fused in trained.names) == (num_threads == B * H and not by_size)
    with torch.no_grad(), OperatorNames() as used:
        torch.testing.assert_close(attention(q, k, v), result)
    assert (fused in used.names) == (not by_size)
    weights = torch.randn_like(result)
    expected = loop_attention(q, k, v, None)
    found, theirs = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (result, expected))
    torch.testing.assert_close((result, *found), (expected, *theirs), atol=1e-5, rtol=1e-5)


def test_training_with_fewer_heads_than_threads_has_no_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "_SMALL_SCORES", 2**12)
    q, k, v = torch.randn(1, 1, 70, 3, requires_grad=True), torch.randn(1, 1, 700, 3), torch.randn(1, 1, 700, 3)
    with LargestTensor() as largest:
        attention(q, k, v).sum().backward()
    assert largest.numel == 5 * 700


@pytest.mark.parametrize("mask", masks())
@every_head_size
def test_dropout_of_long_inputs_has_the_right_gradients(
    monkeypatch: pytest.MonkeyPatch, k_size: int, v_size: int, mask: str
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", 2 * H * M)  # chunks of 2 queries
    q, k, v = (x.requires_grad_() for x in inputs(k_size, v_size, dtype=torch.float64))
    result = attention(q, k, v, mask=masks()[mask], dropout=0.5)
    assert result.shape == (B, H, N, v_size)
    result.square().sum().backward()
    # For given probabilities the result is linear in v: the backward pass must have drawn the same ones again.
    assert v.grad is not None
    torch.testing.assert_close((v * v.grad).sum(), 2 * result.square().sum())


def test_the_recorder_sees_a_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", 2**40)
    q, k, v = inputs(11, 13)
    with LargestTensor() as largest:
        attention(q, k.repeat(1, 1, 20, 1), v.repeat(1, 1, 20, 1))
    assert largest.numel >= H * N * M * 20


# --- causal attention, right-aligned ---

every_length = pytest.mark.parametrize("n_size, m_size", [(7, 7), (5, 7), (2, 19), (1, 7), (1, 1)])


def right_aligned(n_size: int, m_size: int) -> Tensor:
    return torch.tensor([[m <= m_size - n_size + n for m in range(m_size)] for n in range(n_size)])


def causal_inputs(k_size: int, v_size: int, n_size: int, m_size: int, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((n_size, k_size), (m_size, k_size), (m_size, v_size))
    return tuple(torch.randn(B, H, *shape, **kwargs) for shape in shapes)  # type: ignore[return-value]


def pad_masks(m_size: int) -> dict[str, Tensor | None]:
    """Keys that may be attended to. A query whose own key is padding may be left without any."""
    left = torch.arange(m_size) >= torch.tensor([0, 2])[:, None]
    right = left.flip(1)
    middle = (torch.arange(m_size) % 3 != 1).expand(B, -1)
    masks = {"left": left, "right": right, "middle": middle, "all": torch.zeros_like(left)}
    return {"none": None} | {name: mask[:, None, None] for name, mask in masks.items()}


@pytest.mark.parametrize("pads", ["none", "left", "right", "middle", "all"])
@every_length
@every_head_size
@every_path
def test_causal_equals_a_loop_in_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, n_size: int, m_size: int, pads: str
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    mask = pad_masks(m_size)[pads]
    ours = [x.requires_grad_() for x in causal_inputs(k_size, v_size, n_size, m_size)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    result = attention(*ours, mask=mask, causal=True)
    allowed = right_aligned(n_size, m_size)
    expected = loop_attention(*theirs, allowed if mask is None else allowed & mask)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    if pads == "all":
        assert (result == 0).all() and not expected.requires_grad
        return
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad is not None and x.grad.isfinite().all()
        expected_gradient = torch.zeros_like(y) if y.grad is None else y.grad
        torch.testing.assert_close(x.grad, expected_gradient, atol=1e-5, rtol=1e-5)


@every_head_size
@every_path
def test_gradient_of_a_later_key_is_exactly_zero(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = (x.requires_grad_() for x in causal_inputs(k_size, v_size, N, M))
    result = attention(q, k, v, causal=True)
    for n in range(N):
        gradients = torch.autograd.grad(result[:, :, n].square().sum(), (k, v), retain_graph=True)
        for gradient in gradients:
            per_key = gradient.abs().sum(dim=(0, 1, 3))
            assert (per_key[: M - N + n + 1] > 0).all() and (per_key[M - N + n + 1 :] == 0).all()


@pytest.mark.parametrize("n_size, m_size", [(7, 7), (5, 7), (1, 7)])
@every_head_size
@every_path
@pytest.mark.parametrize("masked", [False, True])
def test_causal_in_bfloat16_is_close_to_float32(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, n_size: int, m_size: int, masked: bool
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, v = (x.bfloat16() for x in causal_inputs(k_size, v_size, n_size, m_size))
    mask = pad_masks(m_size)["left"] if masked else None
    result = attention(q, k, v, mask=mask, causal=True)
    assert result.dtype == torch.bfloat16
    allowed = right_aligned(n_size, m_size)
    expected = loop_attention(q.float(), k.float(), v.float(), allowed if mask is None else allowed & mask)
    torch.testing.assert_close(result.float(), expected, atol=2e-2, rtol=2e-2)


@every_length
@every_head_size
@pytest.mark.parametrize("limit", [0, 2 * H * 7, 2**23], ids=["chunks of 1", "chunks of 2", "small"])
@pytest.mark.parametrize("masked", [False, True])
def test_causal_dropout_drops_probabilities_of_allowed_keys(
    monkeypatch: pytest.MonkeyPatch, limit: int, k_size: int, v_size: int, n_size: int, m_size: int, masked: bool
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    q, k, _ = causal_inputs(k_size, v_size, n_size, m_size)
    one_hot = torch.eye(m_size).expand(B, H, -1, -1)  # values that show the probabilities
    mask = pad_masks(m_size)["middle"] if masked else None
    probs = attention(q, k, one_hot, mask=mask, causal=True)
    dropped = attention(q, k, one_hot, mask=mask, causal=True, dropout=0.5)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * probs[kept])
    assert m_size == 1 or (~kept & (probs > 0)).any()
    allowed = right_aligned(n_size, m_size) if mask is None else right_aligned(n_size, m_size) & mask
    assert torch.equal(probs > 0, allowed.expand_as(probs))


def test_causal_dropout_of_long_inputs_has_the_right_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", 2 * H * M)  # chunks of 2 queries
    q, k, v = (x.requires_grad_() for x in inputs(11, 13, dtype=torch.float64))
    result = attention(q, k, v, causal=True, dropout=0.5)
    result.square().sum().backward()
    # For given probabilities the result is linear in v: the backward pass must have drawn the same ones again.
    assert v.grad is not None
    torch.testing.assert_close((v * v.grad).sum(), 2 * result.square().sum())


def test_causal_attention_to_a_long_prefix_has_neither_scores_nor_mask() -> None:
    q = torch.randn(1, 4, 1024, 2, requires_grad=True)
    k, v = torch.randn(1, 4, 4096, 2), torch.randn(1, 4, 4096, 2)
    with LargestTensor() as largest:
        attention(q, k, v, causal=True).sum().backward()
    assert 0 < largest.numel <= 4 * 4096 * 2 < 1024 * 4096


@pytest.mark.parametrize("window", [None, 1, 3, 19, 100])
@every_length
def test_causal_mask(n_size: int, m_size: int, window: int | None) -> None:
    expected = [[m <= i and (window is None or i - m < window) for m in range(m_size)] for i in range(m_size)]
    assert causal_mask(n_size, m_size, window).tolist() == expected[m_size - n_size :]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("v_channels", [6, 10])
def test_cached_attention_in_pieces_sees_windows(v_channels: int, padded: bool) -> None:
    """However tokens come in, query i attends to the keys of (i - window, i] that are no padding."""
    length, window = 31, 7
    sizes = {"num_heads": 2, "num_q_input_channels": 6, "num_kv_input_channels": 6, "num_v_channels": v_channels}
    mha, x = MultiHeadAttention(**sizes, causal=True).eval(), torch.randn(B, length, 6)
    rotary = RotaryPositionEmbedding.from_angles(torch.randn(B, length, 1))
    pads = torch.arange(length) < torch.tensor([0, 4])[:, None]
    q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (mha.q_proj, mha.k_proj, mha.v_proj))
    allowed = causal_mask(length, length, window) & (~pads[:, None, None] if padded else True)
    expected = loop_attention(rotary.rotate(q), rotary.rotate(k), v, allowed.expand(B, 1, -1, -1))
    expected = mha.o_proj(expected.transpose(1, 2).flatten(2))
    for bounds in ([0, 31], list(range(32)), [0, 3, 4, 12, 13, 31], [0, 30, 31]):
        cache, results = KeyValueCache(window), []
        for start, stop in pairwise(bounds):
            now = RotaryPositionEmbedding(rotary.cos[:, :, :stop], rotary.sin[:, :, :stop])
            piece = x[:, start:stop]
            results.append(mha(piece, piece, pads[:, :stop] if padded else None, now, cache))
        torch.testing.assert_close(torch.cat(results, dim=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", masks())
@every_head_size
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_single_query_as_products_and_as_sums(mask: str, k_size: int, v_size: int, dtype: torch.dtype) -> None:
    """The first is what runs eagerly, and no fused kernel; the second what is compiled."""
    q, k, v = inputs(k_size, v_size, dtype=dtype)
    q, allowed = q[:, :, 2:3], masks()[mask]
    allowed = None if allowed is None else allowed[:, :, -1:]
    expected = loop_attention(*(x.double() for x in (q, k, v)), allowed)
    tolerance = {"atol": 1e-12, "rtol": 0.0} if dtype == torch.float64 else {"atol": 0.03, "rtol": 0.0}
    with OperatorNames() as operators:
        result = attention(q, k, v, mask=allowed, causal=True)
    assert not any("scaled_dot_product" in name for name in operators.names)
    sums = module._single_query_attention(q * k_size**-0.5, k, v, allowed)
    for x in (result, sums):
        assert x.dtype == dtype
        torch.testing.assert_close(x.double(), expected, **tolerance)


def test_a_mask_is_made_once() -> None:
    """All layers share it."""
    mask = AttentionMask.of_padding(torch.arange(M)[None] < 2, causal=True, window=4)
    dense = mask.dense(N, M, torch.device("cpu"))
    assert dense is mask.dense(N, M, torch.device("cpu")) and dense is not None
    assert torch.equal(dense[0, 0], causal_mask(N, M, 4) & (torch.arange(M) >= 2))
    assert not mask.is_only_causal(N, M)


@pytest.mark.parametrize("window, only_causal", [(None, True), (7, True), (6, False)])
def test_a_window_that_holds_all_keys_is_no_mask(window: int | None, only_causal: bool) -> None:
    mask = AttentionMask(causal=True, window=window)
    assert mask.is_only_causal(N, M) == only_causal
    assert mask.dense(1, M, torch.device("cpu")) is None and not mask.is_only_causal(1, M)


@pytest.mark.parametrize("v_size", [11, 13])
@pytest.mark.parametrize("n_size, m_size", [(5, 7), (7, 7)])
def test_causal_attention_compiles_and_exports(n_size: int, m_size: int, v_size: int) -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, causal=True)

    q, k, v = causal_inputs(11, v_size, n_size, m_size)
    expected = loop_attention(q, k, v, right_aligned(n_size, m_size))
    torch.compiler.reset()
    compiled = torch.compile(Attention(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v), expected, atol=1e-5, rtol=1e-5)
    program = torch.export.export(Attention(), (q, k, v))
    torch.testing.assert_close(program.module()(q, k, v), expected, atol=1e-5, rtol=1e-5)


# --- the module ---


class RecordedRotary:
    """Recorded with encodings of their own for queries and keys."""

    def __init__(self, q_angles: Tensor, k_angles: Tensor):
        # every angle is recorded twice, for the two channels of a pair
        angles = {x.shape[1]: x[..., ::2] for x in (q_angles, k_angles)}
        self.by_length = {n: RotaryPositionEmbedding.from_angles(x) for n, x in angles.items()}

    def rotate(self, x: Tensor) -> Tensor:
        return self.by_length[x.shape[2]].rotate(x)


@pytest.mark.parametrize("case", golden_cases("pieces", "multi_head_attention"), ids=lambda case: case.name)
@every_path
def test_recorded_attention(monkeypatch: pytest.MonkeyPatch, limit: int, case: Case) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    names = {"causal_attention": "causal"}
    kwargs = {names.get(name, name): value for name, value in case.kwargs.items() if name != "max_heads_parallel"}
    mha = MultiHeadAttention(**kwargs).eval()
    prefix = "param."
    mha.load_state_dict({k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)})
    x_q, x_kv = case.inputs["x_q"], case.inputs["x_kv"]
    torch.testing.assert_close(mha(x_q, x_kv), case.outputs["no_mask"], atol=1e-5, rtol=1e-5)
    rotary = RecordedRotary(case.inputs["rot_q"], case.inputs["rot_k"])
    rotated = mha(x_q, x_kv, None, cast(RotaryPositionEmbedding, rotary))
    torch.testing.assert_close(rotated, case.outputs["rotated"], atol=1e-5, rtol=1e-5)
    pad_mask = case.inputs["pad_mask"]
    masked, expected = mha(x_q, x_kv, pad_mask), case.outputs["masked"].clone()
    # On purpose: an example without any key gives 0, so that only the output projection's bias is left. The published
    # code attended to all padding then.
    expected[pad_mask.all(dim=1)] = 0.0 if mha.o_proj.bias is None else mha.o_proj.bias
    torch.testing.assert_close(masked, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@every_path
def test_equals_torch_multihead_attention(monkeypatch: pytest.MonkeyPatch, limit: int, bias: bool) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    channels, kv_channels = 21, 17
    theirs = nn.MultiheadAttention(channels, H, bias=bias, kdim=kv_channels, vdim=kv_channels, batch_first=True).eval()
    ours = MultiHeadAttention(
        num_heads=H,
        num_q_input_channels=channels,
        num_kv_input_channels=kv_channels,
        qkv_bias=bias,
        out_bias=bias,
    ).eval()
    parameters = {f"{name}_proj.weight": getattr(theirs, f"{name}_proj_weight") for name in "qkv"}
    parameters["o_proj.weight"] = theirs.out_proj.weight
    if bias:
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
        parameters |= {f"{n}_proj.bias": b for n, b in zip("qkv", theirs.in_proj_bias.chunk(3), strict=True)}
        parameters["o_proj.bias"] = theirs.out_proj.bias
    ours.load_state_dict(parameters)
    x_q, x_kv, pad_mask = torch.randn(B, N, channels), torch.randn(B, M, kv_channels), torch.rand(B, M) < 0.4
    pad_mask[:, 0] = False
    for mask in (None, pad_mask):
        expected, _ = theirs(x_q, x_kv, x_kv, key_padding_mask=mask)
        torch.testing.assert_close(ours(x_q, x_kv, mask), expected, atol=1e-5, rtol=1e-5)


def test_default_channels() -> None:
    mha = MultiHeadAttention(num_heads=3, num_q_input_channels=15, num_kv_input_channels=7)
    assert (mha.q_proj.weight.shape, mha.k_proj.weight.shape) == ((15, 15), (15, 7))
    assert (mha.v_proj.weight.shape, mha.o_proj.weight.shape) == ((15, 7), (15, 15))
    mha = MultiHeadAttention(num_heads=3, num_q_input_channels=11, num_kv_input_channels=7, num_qk_channels=6)
    assert (mha.v_proj.weight.shape, mha.o_proj.weight.shape) == ((6, 7), (11, 6))


def test_one_query_serves_all_examples() -> None:
    mha = MultiHeadAttention(num_heads=2, num_q_input_channels=6, num_kv_input_channels=7, num_v_channels=10)
    x_q, x_kv = torch.randn(1, N, 6), torch.randn(B, M, 7)
    torch.testing.assert_close(mha(x_q, x_kv), mha(x_q.repeat(B, 1, 1), x_kv), atol=1e-6, rtol=1e-6)


@every_path
@pytest.mark.parametrize("v_channels", [10, 6])
def test_dropout_acts_in_training_only(monkeypatch: pytest.MonkeyPatch, limit: int, v_channels: int) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORES", limit)
    sizes = {"num_heads": 2, "num_q_input_channels": 6, "num_kv_input_channels": 7, "num_v_channels": v_channels}
    dropping, plain = MultiHeadAttention(**sizes, dropout=0.4), MultiHeadAttention(**sizes)
    plain.load_state_dict(dropping.state_dict())
    x_q, x_kv = torch.randn(1, N, 6), torch.randn(1, M, 7)
    expected = plain(x_q, x_kv)
    torch.testing.assert_close(dropping.eval()(x_q, x_kv), expected)
    samples = dropping.train()(x_q.expand(20_000, -1, -1), x_kv.expand(20_000, -1, -1))
    assert (samples[0] - samples[1]).abs().max() > 1e-3
    # probabilities are dropped and the others scaled up: right in the mean
    torch.testing.assert_close(samples.mean(0), expected[0], atol=2e-2, rtol=0)


@pytest.mark.parametrize("num_key_heads", [1, 2, 3])
def test_a_head_of_keys_for_several_heads_of_queries(num_key_heads: int) -> None:
    """As if each had its own, with the same weights; the cache has it once."""
    sizes = {"num_heads": 6, "num_q_input_channels": 12, "num_kv_input_channels": 12, "num_v_channels": 18}
    mha, same = (MultiHeadAttention(**sizes, causal=True).eval() for _ in range(2))
    mha.k_proj, mha.v_proj = nn.Linear(12, 2 * num_key_heads), nn.Linear(12, 3 * num_key_heads)
    state = dict(mha.state_dict())
    for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        heads = state[name].unflatten(0, (num_key_heads, -1))
        state[name] = heads.repeat_interleave(6 // num_key_heads, dim=0).flatten(0, 1)
    same.load_state_dict(state)
    x = torch.randn(B, 9, 12, requires_grad=True)
    rotary = RotaryPositionEmbedding.from_angles(torch.randn(B, 9, 1))
    result, expected = mha(x, x, rotary=rotary), same(x, x, rotary=rotary)
    torch.testing.assert_close(result, expected)
    weights = torch.randn_like(result)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (result, expected)]
    torch.testing.assert_close(*gradients)

    cache, pieces = KeyValueCache(window=9), []
    for start, stop in pairwise((0, 4, 5, 9)):
        now = RotaryPositionEmbedding(rotary.cos[:, :, :stop], rotary.sin[:, :, :stop])
        pieces.append(mha(x[:, start:stop], x[:, start:stop], rotary=now, cache=cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)
    assert cache.keys is not None and cache.keys.shape[1] == num_key_heads


@pytest.mark.parametrize(
    "name, sizes", [("num_qk_channels", {"num_qk_channels": 7}), ("num_v_channels", {"num_v_channels": 7})]
)
def test_heads_that_do_not_divide_channels(name: str, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{name}=7 must be a positive multiple of num_heads=3"):
        MultiHeadAttention(num_heads=3, num_q_input_channels=6, num_kv_input_channels=5, **sizes)


@pytest.mark.parametrize("num_heads", [0, -2])
def test_no_heads(num_heads: int) -> None:
    with pytest.raises(ValueError, match=f"num_heads={num_heads}"):
        MultiHeadAttention(num_heads=num_heads, num_q_input_channels=6, num_kv_input_channels=5)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"dropout={dropout} must be in \[0, 1\)"):
        MultiHeadAttention(num_heads=2, num_q_input_channels=6, num_kv_input_channels=5, dropout=dropout)
