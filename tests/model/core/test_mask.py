"""Masks in blocks, and attention by FlexAttention, are the boolean mask and attention with it.

On CUDA `attention` takes FlexAttention for causal attention with padding, documents or windows (tests/gpu). Here the
same code runs on CPU, which has no backward pass of it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from perceiver.model.core import attention as attention_module, mask as module
from perceiver.model.core.attention import attention, block_attention
from perceiver.model.core.blocks import LatentBlocks
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.packing import Packing
from tests.model.core.test_attention import LargestTensor

CPU = torch.device("cpu")


def padding(batch_size: int, num_keys: int, *, left: bool) -> Tensor:
    """The first example has none, the last nothing else in its first half."""
    pads = torch.rand(batch_size, num_keys) < 0.3
    pads[0] = False
    pads[-1] = torch.arange(num_keys) < num_keys // 2 if left else torch.ones(num_keys, dtype=torch.bool)
    return pads


@pytest.mark.parametrize("window", [None, 3, 17])
@pytest.mark.parametrize("batch_size", [0, 3])
@pytest.mark.parametrize("num_queries, num_keys", [(5, 7), (17, 31), (33, 33), (49, 70)])
def test_blocks_are_those_of_the_dense_mask(
    num_queries: int, num_keys: int, batch_size: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_SIZE", 16)
    pads = padding(batch_size, num_keys, left=True) if batch_size else None
    mask = AttentionMask.of_padding(pads, causal=True, window=window)
    assert mask.has_blocks(num_queries)
    blocks, dense = mask.block_mask(num_queries, num_keys, CPU), mask.dense(num_queries, num_keys, CPU)
    assert dense is not None
    dense = dense.expand(max(batch_size, 1), 1, num_queries, num_keys)
    sizes = (num_queries, num_keys)
    rows = dense[:, 0]  # torch 2.8 takes no plain number among indices here
    expected = create_block_mask(lambda b, h, q, k: rows[b, q, k], len(dense), 1, *sizes, "cpu", BLOCK_SIZE=16)
    assert blocks.shape == (len(dense), 1, *sizes)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, name).expand(len(dense), -1, -1), getattr(expected, name)), name
    for name, number in (("kv_indices", "kv_num_blocks"), ("full_kv_indices", "full_kv_num_blocks")):
        own, other = (getattr(x, name).expand(len(dense), -1, -1, -1) for x in (blocks, expected))
        used = torch.arange(own.shape[-1]) < getattr(expected, number)[..., None]
        assert torch.equal(own[used], other[used])
    q, k = torch.arange(num_queries)[:, None], torch.arange(num_keys)
    for b in range(len(dense)):
        assert torch.equal(blocks.mask_mod(torch.tensor(b), torch.tensor(0), q, k), dense[b, 0])


def test_blocks_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of many blocks, one within a block, and one of a single latent. No pair is lost, few are looked at."""
    monkeypatch.setattr(module, "_BLOCK_SIZE", 16)
    documents = Packing.of([90, 7, 40, 1, 33], 33).documents
    for part in (documents, documents.latents()):
        mask, (num_queries, num_keys) = AttentionMask(causal=True, documents=part), (107, len(part.numbers))
        blocks, dense = mask.block_mask(num_queries, num_keys, CPU), mask.dense(num_queries, num_keys, CPU)
        assert dense is not None
        q, k = torch.arange(num_queries)[:, None], torch.arange(num_keys)
        assert torch.equal(blocks.mask_mod(torch.tensor(0), torch.tensor(0), q, k), dense)
        expected = create_block_mask(
            lambda b, h, q, k, dense=dense: dense[q, k], 1, 1, *dense.shape, "cpu", BLOCK_SIZE=16
        )
        visited, needed = (block_pairs(x.kv_num_blocks, x.kv_indices) for x in (blocks, expected))
        full, all_full = (block_pairs(x.full_kv_num_blocks, x.full_kv_indices) for x in (blocks, expected))
        assert full == all_full
        assert needed <= visited and len(visited - needed) <= 8 < len(full | needed)


@pytest.mark.parametrize("batch_size", [0, 3])
def test_blocks_of_blocks_of_latents(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 5 blocks of 21 latents: no pair is lost, few are looked at."""
    monkeypatch.setattr(module, "_BLOCK_SIZE", 16)
    latent_blocks = LatentBlocks.of(37, 105, 5)
    num_queries, num_keys = 105, latent_blocks.prefix_len + 105
    pads = padding(batch_size, num_keys, left=False) if batch_size else None
    mask = AttentionMask.of_padding(pads, causal=True, latent_blocks=latent_blocks)
    blocks, dense = mask.block_mask(num_queries, num_keys, CPU), mask.dense(num_queries, num_keys, CPU)
    assert dense is not None
    dense = dense.expand(max(batch_size, 1), 1, -1, -1)
    q, k = torch.arange(num_queries)[:, None], torch.arange(num_keys)
    for b, rows in enumerate(dense[:, 0]):
        assert torch.equal(blocks.mask_mod(torch.tensor(b), torch.tensor(0), q, k), rows)
        expected = create_block_mask(lambda b, h, q, k, rows=rows: rows[q, k], 1, 1, *rows.shape, "cpu", BLOCK_SIZE=16)
        found = blocks[b : b + 1]
        visited, needed = (block_pairs(x.kv_num_blocks, x.kv_indices) for x in (found, expected))
        full, all_full = (block_pairs(x.full_kv_num_blocks, x.full_kv_indices) for x in (found, expected))
        assert full == all_full
        assert needed <= visited | full and len(visited - needed) <= 12


def block_pairs(numbers: Tensor, indices: Tensor) -> set[tuple[int, int]]:
    rows = zip(numbers[0, 0].tolist(), indices[0, 0].tolist(), strict=True)
    return {(row, column) for row, (number, columns) in enumerate(rows) for column in columns[:number]}


@pytest.mark.parametrize(
    "num_queries, num_keys, k_size, v_size, window, is_padded",
    [(131, 300, 20, 33, None, True), (40, 145, 11, 7, 20, False)],
)
def test_attention_in_blocks(
    num_queries: int, num_keys: int, k_size: int, v_size: int, window: int | None, is_padded: bool
) -> None:
    """Eagerly and as a part of what is compiled. The last example has no key."""
    q, k, v = (torch.randn(3, 2, *size) for size in ((num_queries, k_size), (num_keys, k_size), (num_keys, v_size)))
    pads = padding(3, num_keys, left=False) if is_padded else None

    def in_blocks(q: Tensor, k: Tensor, v: Tensor, pads: Tensor | None) -> Tensor:
        return block_attention(q, k, v, AttentionMask.of_padding(pads, causal=True, window=window))

    torch.compiler.reset()
    result = torch.compile(in_blocks, fullgraph=True, backend="eager")(q, k, v, pads)
    expected = attention(q, k, v, mask=AttentionMask.of_padding(pads, causal=True, window=window))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert not is_padded or result[-1].count_nonzero() == 0


def test_blocks_are_made_once_and_without_the_dense_mask() -> None:
    mask = AttentionMask.of_padding(torch.arange(2**16)[None] < 1000, causal=True, window=2**15)
    with LargestTensor() as largest:
        blocks = mask.block_mask(1024, 2**16, CPU)
    assert largest.numel <= 2**16
    assert blocks is mask.block_mask(1024, 2**16, CPU)
    # padding, prefix before the windows, and what follows the last query are no work
    assert (blocks.kv_num_blocks + blocks.full_kv_num_blocks).max() == 2**15 // 128 + 1


def test_what_has_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not AttentionMask.of_padding(torch.ones(1, 7) > 0).has_blocks(5)  # a mask of keys is small enough
    assert not AttentionMask(torch.ones(5, 7) > 0, causal=True).has_blocks(5)
    assert not AttentionMask(causal=True).has_blocks(1)
    monkeypatch.setattr(attention_module, "_SMALL_MASK", 34)
    mask, inputs = AttentionMask(causal=True), [torch.zeros(3, 2, size, 256) for size in (5, 7, 7)]
    assert attention_module._takes_blocks(*inputs, mask)
    assert not attention_module._takes_blocks(*(x.double() for x in inputs), mask)
    assert not attention_module._takes_blocks(*(torch.cat([x, x], dim=-1) for x in inputs), mask)
    monkeypatch.setattr(attention_module, "_SMALL_MASK", 35)
    assert not attention_module._takes_blocks(*inputs, mask)
    assert attention_module._takes_blocks(*inputs, AttentionMask.of_padding(torch.zeros(2, 7) > 0, causal=True))
