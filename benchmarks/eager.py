"""Perceiver AR without any of our care: what benchmarks/perceiver_ar.py compares with. Same parameters, same results.

Attention multiplies out all scores, masks and normalises them. The cache holds keys as they were projected: each step
appends the new ones by copying, and rotates all of them again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.perceiver_ar import drop_prefix
from perceiver.model.core.position import RotaryPositionEmbedding

Cache = list[list[Tensor]]


def forward(model: CausalSequenceModel, x: Tensor, prefix_len: int, cache: Cache | None = None) -> Tensor:
    """Token ids (B, M + N), or the next ones of a cache, -> logits (B, N, vocabulary)"""
    num_cached = cache[0][0].shape[2] if cache and cache[0] else 0
    pos = torch.arange(num_cached, num_cached + x.shape[1], device=x.device)[None]
    if model.training and (num_dropped := int(prefix_len * model.cross_attention_dropout)):
        x, pos, _ = drop_prefix(x, pos, None, prefix_len, num_dropped)
        prefix_len -= num_dropped
    all_pos = pos if not num_cached else torch.arange(num_cached + x.shape[1], device=x.device)[None]
    angles = model.frequencies(all_pos)
    x = model.input_adapter(x, pos)
    x_prefix, x = x[:, :prefix_len], x[:, prefix_len:]

    layer: Any = model.cross_attention
    attention = layer[0].module
    x_q = attention.q_norm(x)
    x_kv = torch.cat([attention.kv_norm(x_prefix), x_q], dim=1)
    x = x + attend(attention.attention, x_q, x_kv, angles, None if cache is None else cache[0])
    x = x + mlp(layer[1].module, x)
    for i, layer in enumerate(model.self_attention):
        attention = layer[0].module
        y = attention.norm(x)
        layer_cache = None if cache is None else cache[i + 1]
        num_latents = y.shape[1] + (layer_cache[0].shape[2] if layer_cache else 0)
        layer_angles = angles[:, -num_latents:] if i < model.num_rotary_layers else None
        x = x + attend(attention.attention, y, y, layer_angles, layer_cache)
        x = x + mlp(layer[1].module, x)
    return F.linear(model.out_norm(x), model.txt_embedding.weight, model.output_adapter.bias)


def mlp(module: Any, x: Tensor) -> Tensor:
    norm, linear_1, _, linear_2 = module
    return F.linear(F.gelu(F.linear(norm(x), linear_1.weight)), linear_2.weight)


def attend(module: Any, x_q: Tensor, x_kv: Tensor, angles: Tensor | None, cache: list[Tensor] | None) -> Tensor:
    q = heads(module.q_proj, x_q, module.num_heads)
    k = heads(module.k_proj, x_kv, module.num_heads)
    v = heads(module.v_proj, x_kv, module.num_heads)
    if cache is not None:
        if cache:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        cache[:] = [k, v]
    if angles is not None:
        rotary = RotaryPositionEmbedding.from_angles(angles)
        q, k = rotary.rotate(q), rotary.rotate(k)
    num_queries, num_keys = q.shape[2], k.shape[2]
    masked = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device)
    masked = masked.triu(num_keys - num_queries + 1)
    scores = (q * q.shape[-1] ** -0.5) @ rearrange(k, "b h m k -> b h k m")
    scores = scores.masked_fill(masked, torch.finfo(scores.dtype).min)
    x = scores.softmax(dim=-1) @ v
    return F.linear(rearrange(x, "b h n v -> b n (h v)"), module.o_proj.weight, module.o_proj.bias)


def heads(projection: nn.Linear, x: Tensor, num_heads: int) -> Tensor:
    return rearrange(F.linear(x, projection.weight), "b n (h k) -> b h n k", h=num_heads)
