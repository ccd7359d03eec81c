"""Parameter names of transformers' Perceiver models (the official weights, arXiv 2107.14795) and ours.

A map goes from our name to theirs. Every converted parameter is equal: nothing is permuted or scaled.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_ATTENTION = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
}
_CROSS_ATTENTION = {"q_norm": "attention.self.layernorm1", "kv_norm": "attention.self.layernorm2", **_ATTENTION}
_SELF_ATTENTION = {"norm": "attention.self.layernorm1", **_ATTENTION}
_MLP = {"1.module.0": "layernorm", "1.module.1": "mlp.dense1", "1.module.3": "mlp.dense2"}


def cross_attention_layer(ours: str, theirs: str, *, attention_residual: bool = True) -> dict[str, str]:
    """Names of a cross-attention layer called `ours` here and `theirs` there."""
    return _layer(ours, theirs, _CROSS_ATTENTION, attention_residual)


def encoder_layers(num_self_attention_layers: int) -> dict[str, str]:
    """Names of the latents, the cross-attention and the self-attention layers of an encoder."""
    names = {"0.latent_provider._query": "perceiver.embeddings.latents"}
    names |= cross_attention_layer("0.cross_attn_1", "perceiver.encoder.cross_attention")
    for i in range(num_self_attention_layers):
        names |= _layer(f"0.self_attn_1.{i}", f"perceiver.encoder.self_attends.{i}", _SELF_ATTENTION, True)
    return names


def idefics_resampler(num_layers: int) -> dict[str, str]:
    """Names of a `PerceiverResampler` and of transformers' Idefics resampler without norms of queries and keys."""
    norms = {
        "0.module.q_norm": "0.latents_layer_norm",
        "0.module.kv_norm": "0.context_layer_norm",
        "1.module.0": "1.ln",
    }
    linear = {f"0.module.attention.{name}_proj": f"0.{name}_proj" for name in "qkv"}
    linear |= {"0.module.attention.o_proj": "0.output_proj", "1.module.1": "1.fc", "1.module.3": "1.c_proj"}
    names = {"latent_provider._query": "latents", "norm.weight": "layer_norm.weight", "norm.bias": "layer_norm.bias"}
    for i in range(num_layers):
        for ours, theirs in (norms | linear).items():
            for parameter in ("weight", "bias") if ours in norms else ("weight",):
                names[f"layers.{i}.{ours}.{parameter}"] = f"blocks.{i}.{theirs}.{parameter}"
    return names


def _layer(ours: str, theirs: str, attention: Mapping[str, str], attention_residual: bool) -> dict[str, str]:
    prefix = "0.module" if attention_residual else "0"
    modules = {f"{prefix}.{name}": value for name, value in attention.items()} | _MLP
    return {
        f"{ours}.{name}.{parameter}": f"{theirs}.{value}.{parameter}"
        for name, value in modules.items()
        for parameter in ("weight", "bias")
    }


def converted(state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Their parameters under our names.

    Raises:
        ValueError: if they have a parameter that `names` does not know, or lack one.
    """
    if unknown := sorted(set(state_dict) ^ set(names.values())):
        raise ValueError(f"parameters that can't be converted: {', '.join(unknown[:5])}")
    return {ours: state_dict[theirs] for ours, theirs in names.items()}
