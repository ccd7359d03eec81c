"""lucidrains/perceiver-ar-pytorch: PerceiverAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange

from perceiver.model.foreign.layouts.parts import Arguments, Converted, Names, Parameters
from perceiver.model.foreign.perceiver_ar import LucidrainsPerceiverARConfig


def lucidrains_perceiver_ar(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_ar_pytorch.PerceiverAR`

    Its rotary position embedding pairs channel i with channel i + d / 2, ours neighbours: rows of queries and keys
    change places.
    """
    defaults = {"heads": 8, "dim_head": 64, "dropout": 0.0, "cross_attn_dropout": 0.0, "cross_attn_seq_len": None}
    arguments = Arguments(given, defaults | {"perceive_max_heads_process": 2}, {"perceive_depth": 1})
    names = Names(parameters)
    (vocab_size, num_channels), (max_seq_len, _) = names.shape("token_emb.weight"), names.shape("pos_emb.weight")
    num_layers = names.count("layers.{}.")
    num_hidden_channels, _ = names.shape("perceive_layers.0.1.1.weight")
    num_heads = arguments.heads("", names.shape("perceive_layers.0.0.to_q.weight")[0])
    widening_factor, rest = divmod(num_hidden_channels, num_channels)
    if rest:
        raise ValueError(f"{num_hidden_channels} hidden channels can't be converted: no multiple of dim={num_channels}")
    num_latents = max_seq_len - arguments["cross_attn_seq_len"]
    arguments.tell(
        num_tokens=vocab_size, dim=num_channels, depth=num_layers, max_seq_len=max_seq_len, ff_mult=widening_factor
    )
    if names.count("perceive_layers.{}.") > 1:
        raise ValueError("perceive_depth can't be converted, only perceive_depth=1: our model reads the prefix once")
    if not 0 < num_latents < max_seq_len:
        raise ValueError(f"cross_attn_seq_len={arguments['cross_attn_seq_len']} must be in [1, {max_seq_len - 1}]")
    config = LucidrainsPerceiverARConfig(
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        max_latents=num_latents,
        num_channels=num_channels,
        num_heads=num_heads,
        num_head_channels=arguments["dim_head"],
        num_self_attention_layers=num_layers,
        self_attention_widening_factor=widening_factor,
        cross_attention_widening_factor=widening_factor,
        cross_attention_dropout=arguments["cross_attn_dropout"],
        post_attention_dropout=arguments["dropout"],
        mlp_dropout=arguments["dropout"],
    )

    def paired(name: str) -> None:
        weight = rearrange(names.state_dict[name], "(h k) c -> h k c", h=num_heads)
        rotated, others = weight[:, : config.num_rotary_channels], weight[:, config.num_rotary_channels :]
        rotated = rearrange(rotated, "h (two r) c -> h (r two) c", two=2)
        names.state_dict[name] = rearrange(torch.cat([rotated, others], dim=1), "h k c -> (h k) c")

    def layer(ours: str, theirs: str) -> None:
        names.linear(f"{ours}.1.module.0", f"{theirs}.1.0")
        names.linear(f"{ours}.1.module.1", f"{theirs}.1.1", bias=False)
        names.linear(f"{ours}.1.module.3", f"{theirs}.1.4", bias=False)
        for x in "qk":
            paired(f"{ours}.0.module.attention.{x}_proj.weight")

    names.move("input_adapter.txt_embedding.weight", "token_emb.weight")
    names.move("input_adapter.pos_embedding.weight", "pos_emb.weight")
    names.left.pop("rotary_pos_emb.inv_freq", None)  # computed
    ours, theirs = "cross_attention.0.module", "perceive_layers.0.0"
    names.linear(f"{ours}.q_norm", f"{theirs}.norm")
    names.linear(f"{ours}.kv_norm", f"{theirs}.context_norm")
    names.move(f"{ours}.attention.q_proj.weight", f"{theirs}.to_q.weight")
    names.split([f"{ours}.attention.{x}_proj.weight" for x in "kv"], f"{theirs}.to_kv.weight")
    names.linear(f"{ours}.attention.o_proj", f"{theirs}.to_out")
    layer("cross_attention", "perceive_layers.0")
    for i in range(num_layers):
        ours, theirs = f"self_attention.{i}.0.module", f"layers.{i}.0"
        names.linear(f"{ours}.norm", f"{theirs}.norm")
        names.split([f"{ours}.attention.{x}_proj.weight" for x in "qkv"], f"{theirs}.to_qkv.weight")
        names.linear(f"{ours}.attention.o_proj", f"{theirs}.to_out", bias=False)
        layer(f"self_attention.{i}", f"layers.{i}")
    names.linear("output_adapter", "to_logits", bias=False)
    return Converted(config, names.finished(), arguments.finished())
