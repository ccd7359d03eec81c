"""Multi-head attention (Perceiver IO, arXiv 2107.14795, appendix E; Attention is all you need, arXiv 1706.03762).

Shape legend of the whole package. Comments and docstrings use these letters, docs/building-blocks.md relates them to
configuration fields:

    B batch             C input channels     H attention heads
    M input length      D latent channels    K query and key channels per head
    N latents           F query channels     V value channels per head
    O outputs           E output channels

`attention()` is the only place of the package that turns queries, keys and values into an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypedDict

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceiver.model.core.blocks import LatentBlocks
from perceiver.model.core.cache import LayerCache, SharedKeysValues
from perceiver.model.core.compilation import compiled, compiling
from perceiver.model.core.linear import Linear
from perceiver.model.core.mask import AttentionMask, causal_mask
from perceiver.model.core.packing import Documents
from perceiver.model.core.parts import attention_in_parts, takes_parts
from perceiver.model.core.position import RotaryPositionEmbedding

# A score matrix (H, N, M) of one example up to this size is cheap to keep: 32 MiB in float32.
_SMALL_SCORES = 2**23
# Masks (B, N, M) up to this size are not worth the seconds that FlexAttention takes to compile: 1 MiB.
_SMALL_MASK = 2**20
# Channels per head that FlexAttention's kernels have tile sizes for.
_BLOCK_CHANNELS = (16, 32, 64, 128, 256)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: AttentionMask | Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention by the fastest exact path; long inputs never have their score matrix in memory.

    The fused kernel is used wherever there is one. On CPU it takes heads with K = V and no dropout only. There, small
    score matrices are multiplied out, which is faster than the kernel's fallback (benchmarks/attention.py), and so are
    those of a single query, for which the kernel is slow, most so in bfloat16. Large ones are fused after padding K or
    V with zeros; with dropout they are multiplied out in chunks of queries, which the backward pass computes again. In
    training, fewer heads than threads are treated as with dropout: the kernel's backward pass has a thread per head.
    Documents that share a sequence are attended to one after the other, 5 to 50 times as fast as with their mask, and
    blocks of latents attend together to what they share of their keys (core/parts.py).
    On CUDA, fused kernels take heads of 8, 16, 24, ... channels, to which others are padded with zeros, and causal
    attention with padding, windows, documents or blocks of latents is FlexAttention (arXiv 2412.05496), without a mask
    (N, M).

    Causal attention is right-aligned: the N queries belong to the last N of the M keys (Perceiver AR, arXiv 2202.07765,
    figure 2). torch's `is_causal` is left-aligned, which is the same only for N = M.

    Args:
        q: Queries (B, H, N, K).
        k: Keys (B, H, M, K).
        v: Values (B, H, M, V).
        mask: Who attends to whom, or a boolean tensor, broadcastable to (B, H, N, M), True where a query may attend. A
            query without any key gives 0.
        causal: Whether query i attends to keys 0 to M - N + i only. An `AttentionMask` says so itself.
        dropout: Probability of dropping an attention probability.

    Returns:
        (B, H, N, V)
    """
    if not isinstance(mask, AttentionMask):
        mask = AttentionMask(mask, causal=causal)
    if mask.documents is not None and q.device.type == "cpu":
        return _attention_by_document(q, k, v, mask.documents, dropout)
    num_queries, num_keys = q.shape[2], k.shape[2]
    num_qk_channels, num_v_channels = q.shape[-1], v.shape[-1]
    scale = num_qk_channels**-0.5
    on_cuda = q.device.type == "cuda"
    if mask.is_only_causal(num_queries, num_keys) and num_qk_channels == num_v_channels:
        is_fused = not on_cuda or num_queries == num_keys or not torch.compiler.is_compiling()
        if is_fused and (dropout == 0.0 or on_cuda):
            return _right_aligned_attention(q, k, v, dropout)
    if on_cuda and dropout == 0.0 and _takes_blocks(q, k, v, mask):
        return block_attention(q, k, v, mask)
    if mask.latent_blocks is not None:
        return _attention_by_latent_block(q, k, v, mask.allowed, mask.latent_blocks, dropout)
    allowed = mask.dense(num_queries, num_keys, q.device)
    if q.device.type == "cpu" and not torch.compiler.is_exporting():
        small = q.shape[1] * num_queries * num_keys <= _SMALL_SCORES
        multiplied = dropout > 0.0 or (allowed is None and _leaves_threads_idle(q, k, v))
        if num_queries == 1 and dropout == 0.0 and torch.compiler.is_compiling():
            return _single_query_attention(q * scale, k, v, allowed)
        if num_queries == 1 or (small and (multiplied or num_qk_channels != num_v_channels)):
            return _unfused_attention(q * scale, k, v, allowed, dropout)
        if multiplied:
            return _chunked_attention(q * scale, k, v, allowed, dropout)
        if num_qk_channels < num_v_channels:
            q, k = (F.pad(x, (0, num_v_channels - num_qk_channels)) for x in (q, k))
        elif num_qk_channels > num_v_channels:
            v = F.pad(v, (0, num_qk_channels - num_v_channels))
    if on_cuda and (num_qk_channels % 8 or num_v_channels % 8):  # fused kernels take no other head sizes
        q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) for x in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, scale=scale)
    return x[..., :num_v_channels]


def _leaves_threads_idle(q: Tensor, k: Tensor, v: Tensor) -> bool:
    if torch.compiler.is_compiling():  # the number of threads is nothing that a graph can hold
        return False
    is_differentiated = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return is_differentiated and q.shape[0] * q.shape[1] < torch.get_num_threads()


def _right_aligned_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    if q.device.type != "cpu" and not torch.compiler.is_compiling():
        from torch.nn.attention.bias import causal_lower_right  # here: it imports torch's compiler, half of a start

        right_aligned = causal_lower_right(num_queries, num_keys)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=right_aligned, dropout_p=dropout)
    if torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(num_queries, num_keys, device=q.device))
    # With the queries in reverse order, whether a query may attend to a key depends on the sum of their indices alone.
    # So the rows of the mask are windows of one vector, and no mask of N x M numbers is made.
    allowed = torch.arange(num_queries + num_keys - 1) < num_keys
    bias = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, -torch.inf)
    bias = bias.as_strided((num_queries, num_keys), (1, 1))
    return F.scaled_dot_product_attention(q.flip(2), k, v, attn_mask=bias).flip(2)


def _takes_blocks(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> bool:
    num_queries, num_keys = q.shape[2], k.shape[2]
    num_masks = 1 if mask.allowed is None else mask.allowed.shape[0]
    return (
        mask.has_blocks(num_queries)
        and num_masks * num_queries * num_keys > _SMALL_MASK
        and max(q.shape[-1], v.shape[-1]) <= _BLOCK_CHANNELS[-1]
        and q.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.compiler.is_exporting()
    )


def block_attention(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """`attention` by FlexAttention, which visits the blocks of a mask in which there is something to attend to.

    Heads get as many channels as the kernel computes with anyway, of which the last are 0.
    """
    from torch.nn.attention.flex_attention import flex_attention  # here: it imports torch's compiler

    num_qk_channels, num_v_channels = q.shape[-1], v.shape[-1]
    num_channels = next(c for c in _BLOCK_CHANNELS if c >= max(num_qk_channels, num_v_channels))
    scale, block_mask = num_qk_channels**-0.5, mask.block_mask(q.shape[2], k.shape[2], q.device)
    if min(num_qk_channels, num_v_channels) < num_channels:
        q, k, v = (F.pad(x, (0, num_channels - x.shape[-1])) for x in (q, k, v))
    if torch.compiler.is_compiling():
        x = flex_attention(q, k, v, block_mask=block_mask, scale=scale)
    else:
        with compiling("attention in blocks"):
            x = compiled(flex_attention, {"fullgraph": True})(q, k, v, block_mask=block_mask, scale=scale)
    return x[..., :num_v_channels]


def _attention_by_document(q: Tensor, k: Tensor, v: Tensor, documents: Documents, dropout: float) -> Tensor:
    parts = zip(documents.queries(q), documents.keys(k), documents.keys(v), strict=True)
    return torch.cat([attention(*part, causal=True, dropout=dropout) for part in parts], dim=2)


def _attention_by_latent_block(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, blocks: LatentBlocks, dropout: float
) -> Tensor:
    """In parts where it can be. Else the keys of a block are copied, and so again in the backward pass."""
    if dropout == 0.0 and takes_parts(q, v) and not _leaves_threads_idle(q, k, v):
        return attention_in_parts(q, k, v, allowed, blocks)
    attend: Callable[..., Tensor] = _attend_to_pieces
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # compiled, what to keep is decided anyway
        attend = partial(checkpoint, attend, use_reentrant=False)
    masks = [None] * len(blocks) if allowed is None else [torch.cat(x, dim=3) for x in blocks.keys(allowed, dim=3)]
    parts = zip(q.chunk(len(blocks), dim=2), masks, blocks.keys(k), blocks.keys(v), strict=True)
    return torch.cat([attend(query, mask, dropout, *keys, *values) for query, mask, keys, values in parts], dim=2)


def _attend_to_pieces(q: Tensor, allowed: Tensor | None, dropout: float, *pieces: Tensor) -> Tensor:
    """`pieces`: first those of the keys, then those of the values."""
    k, v = (torch.cat(half, dim=2) for half in (pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]))
    return attention(q, k, v, mask=AttentionMask(allowed, causal=True), dropout=dropout)


def attention_weights(q: Tensor, k: Tensor, mask: AttentionMask) -> Tensor:
    """The probabilities (B, H, N, M) with which `attention` weighs values, all in memory. Arguments as there."""
    return _probabilities(q * q.shape[-1] ** -0.5, k, mask.dense(q.shape[2], k.shape[2], q.device))


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ rearrange(k, "b h m k -> b h k m")  # B H N M
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probs = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype)
    return probs if mask is None else probs.masked_fill(~mask, 0.0)  # matters where a query has no key at all


def _unfused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    return F.dropout(_probabilities(q, k, mask).to(v.dtype), dropout) @ v


def _single_query_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as `_unfused_attention`, as sums: compiled, they read keys and values once, as they are in memory."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(dtype) * k.to(dtype)).sum(dim=-1)  # B H M
    if mask is not None:
        mask = mask[..., 0, :]
        scores = scores.masked_fill(~mask, torch.finfo(dtype).min)
    probs = scores.softmax(dim=-1)
    if mask is not None:
        probs = probs.masked_fill(~mask, 0.0)
    return (rearrange(probs, "b h m -> b h m 1") * v.to(dtype)).sum(dim=2, keepdim=True).to(v.dtype)


def _chunked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    size = max(_SMALL_SCORES // (k.shape[1] * k.shape[2]), 1)
    size = math.ceil(q.shape[2] / math.ceil(q.shape[2] / size))  # as many chunks, of about the same size
    chunks = torch.split(q, size, dim=2)
    masks = [mask] * len(chunks) if mask is None or mask.shape[-2] == 1 else torch.split(mask, size, dim=-2)
    parts = [
        checkpoint(_unfused_attention, chunk, k, v, mask, dropout, use_reentrant=False)
        for chunk, mask in zip(chunks, masks, strict=True)
    ]
    return torch.cat(parts, dim=2)


class AttentionOptions(TypedDict, total=False):
    """The arguments of `MultiHeadAttention` that have defaults, for the layers around it."""

    num_qk_channels: int | None
    num_v_channels: int | None
    qkv_bias: bool
    out_bias: bool
    dropout: float


class MultiHeadAttention(nn.Module):
    """Projections, attention in heads, output projection.

    `k_proj` and `v_proj` may be replaced by layers that make fewer heads, a divisor of H: each serves several heads of
    queries (arXiv 1911.02150, 2305.13245), and is in the cache once.

    Args:
        num_heads: Number of heads H. It divides query/key and value channels.
        num_q_input_channels: Channels of the query input.
        num_kv_input_channels: Channels of the key/value input.
        num_qk_channels: Query and key channels H * K (default: `num_q_input_channels`).
        num_v_channels: Value channels H * V (default: `num_qk_channels`).
        num_output_channels: Output channels (default: `num_q_input_channels`).
        qkv_bias: Whether query, key and value projections have a bias.
        out_bias: Whether the output projection has a bias.
        causal: Whether attention is causal and right-aligned (see `attention`).
        dropout: Dropout of attention probabilities in training.
    """

    # Each gets the queries and keys of a call, in heads, and its mask. See core/attention_maps.py.
    recorders: tuple[Callable[[Tensor, Tensor, AttentionMask], None], ...] = ()

    def __init__(
        self,
        *,
        num_heads: int,
        num_q_input_channels: int,
        num_kv_input_channels: int,
        num_qk_channels: int | None = None,
        num_v_channels: int | None = None,
        num_output_channels: int | None = None,
        qkv_bias: bool = True,
        out_bias: bool = True,
        causal: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        num_qk_channels = num_q_input_channels if num_qk_channels is None else num_qk_channels
        num_v_channels = num_qk_channels if num_v_channels is None else num_v_channels
        num_output_channels = num_q_input_channels if num_output_channels is None else num_output_channels
        for name, channels in (("num_qk_channels", num_qk_channels), ("num_v_channels", num_v_channels)):
            if num_heads < 1 or channels < 1 or channels % num_heads:
                raise ValueError(f"{name}={channels} must be a positive multiple of num_heads={num_heads}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout={dropout} must be in [0, 1)")
        self.num_heads = num_heads
        self.causal = causal
        self.dropout = dropout
        self.q_proj = Linear(num_q_input_channels, num_qk_channels, bias=qkv_bias)
        self.k_proj = Linear(num_kv_input_channels, num_qk_channels, bias=qkv_bias)
        self.v_proj = Linear(num_kv_input_channels, num_v_channels, bias=qkv_bias)
        self.o_proj = Linear(num_v_channels, num_output_channels, bias=out_bias)

    def forward(
        self,
        x_q: Tensor,
        x_kv: Tensor,
        pad_mask: Tensor | None = None,
        rotary: RotaryPositionEmbedding | None = None,
        cache: LayerCache | SharedKeysValues | None = None,
        mask: AttentionMask | None = None,
    ) -> Tensor:
        """Attends from `x_q` to `x_kv`.

        Args:
            x_q: Query input (B, N, D), or (1, N, D) if it is the same for all examples.
            x_kv: Key/value input (B, M, C).
            pad_mask: Boolean (B, at least M), True where there is padding. Its last M columns are those of `x_kv`, or
                of the keys in `cache` after it has taken up those of `x_kv`.
            rotary: Rotates queries and keys, those of its last N and M positions.
            cache: Takes up the keys and values of `x_kv` and gives those to attend to. Only for causal attention; or
                shared ones, where `x_kv` counts the first time only.
            mask: Who attends to whom, instead of `pad_mask` and of what `causal` says.

        Returns:
            (B, N, output channels)
        """
        q = rearrange(self.q_proj(x_q), "b n (h k) -> b h n k", h=self.num_heads)
        q = q if rotary is None else rotary.rotate(q)
        if isinstance(cache, SharedKeysValues) and cache.keys is not None and cache.values is not None:
            k, v = cache.keys, cache.values
        else:
            k = rearrange(self.k_proj(x_kv), "b m (h k) -> b h m k", k=q.shape[-1])
            v = rearrange(self.v_proj(x_kv), "b m (h v) -> b h m v", h=k.shape[1])
            k = k if rotary is None else rotary.rotate(k)
            if cache is not None:
                k, v = cache.update(k, v)
        if k.shape[1] < self.num_heads:
            group = self.num_heads // k.shape[1]
            k, v = (repeat(x, "b h m c -> b (h group) m c", group=group) for x in (k, v))
        if mask is None:
            padding = None if pad_mask is None else pad_mask[:, -k.shape[2] :]
            window = None if cache is None else cache.window
            mask = AttentionMask.of_padding(padding, causal=self.causal, window=window)
        for record in self.recorders:
            record(q.expand(k.shape[0], -1, -1, -1), k, mask)
        dropout = self.dropout if self.training else 0.0
        x = attention(q.expand(k.shape[0], -1, -1, -1), k, v, mask=mask, dropout=dropout)
        return self.o_proj(rearrange(x, "b h n v -> b n (h v)"))
