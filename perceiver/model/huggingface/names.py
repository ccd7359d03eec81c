"""Parameter names of transformers' models and ours. Every converted parameter is equal: nothing is permuted or scaled.

A map goes from our names to theirs, so its inverse writes their format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# The parts of an attention layer in transformers' Perceiver (the official weights, arXiv 2107.14795).
_LAYER = {
    "0.module.q_norm": "attention.self.layernorm1",
    "0.module.kv_norm": "attention.self.layernorm2",
    "0.module.norm": "attention.self.layernorm1",
    "0.module.attention.q_proj": "attention.self.query",
    "0.module.attention.k_proj": "attention.self.key",
    "0.module.attention.v_proj": "attention.self.value",
    "0.module.attention.o_proj": "attention.output.dense",
    "1.module.0": "layernorm",
    "1.module.1": "mlp.dense1",
    "1.module.3": "mlp.dense2",
}
_ENCODER = {
    "0.latent_provider._query": "perceiver.embeddings.latents",
    "0.cross_attn_1": "perceiver.encoder.cross_attention",
    "0.self_attn_1": "perceiver.encoder.self_attends",
}


def perceiver_names(parameters: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """Names of transformers' Perceiver for those of one of our Perceiver IO models.

    Args:
        parameters: Our names.
        modules: Ours: theirs, for all modules and parameters but those of the encoder's attention and latents.

    Raises:
        ValueError: if a parameter is in none of the modules.
    """
    return {name: _renamed(name, {**_ENCODER, **modules}) for name in parameters}


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    for ours, theirs in modules.items():
        if name == ours:
            return theirs
        if name.startswith(f"{ours}."):
            return f"{theirs}.{_part(name.removeprefix(f'{ours}.'))}"
    raise ValueError(f"transformers' Perceiver has no {name}")


def _part(name: str) -> str:
    """A parameter in a module or layer, or in the i-th of a block of layers; without residual there is no `module`."""
    if (match := re.fullmatch(r"(\d+\.)?([01])\.(?:module\.)?(.+)\.(weight|bias)", name)) is None:
        return name
    layer, part, rest, parameter = match.groups()
    return f"{layer or ''}{_LAYER[f'{part}.module.{rest}']}.{parameter}"


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


def renamed(state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Their parameters under our names.

    Raises:
        ValueError: if they have a parameter that `names` does not know, or lack one.
    """
    if unknown := sorted(set(state_dict) ^ set(names.values())):
        raise ValueError(f"parameters that can't be converted: {', '.join(unknown[:5])}")
    return {ours: state_dict[theirs] for ours, theirs in names.items()}
