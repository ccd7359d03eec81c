"""Attention maps: with which weights a model attended to what.

The kernels that attention uses keep no weights. They are computed once more, for the layers that are asked for, while
something records them, and with the queries, keys and masks of that very call:

    with record_attention(model, "decoder.*") as maps:
        model(x)
    maps["decoder.cross_attention"]  # (B, H, O, N)

Names of the layers, counted from 0 on:

    encoder.cross_attention.I     latents to inputs, layer I (Perceiver IO has one)    (B, H, N, M)
    encoder.self_attention.I.J    latents to latents, layer J of block I               (B, H, N, N)
    decoder.cross_attention       output queries to latents                            (B, H, O, N)
    cross_attention               Perceiver AR: latents to prefix and latents          (B, H, N, M + N)
    self_attention.J              Perceiver AR: latents to latents, layer J            (B, H, N, N)
    encoder.token_attention.I     BiXT: tokens to latents, layer I but the last        (B, H, M, N)
    encoder.self_attention.I      BiXT: latents to latents, layer I                    (B, H, N, N)

Blocks and layers that share weights have maps of their own. Other models have the names of their modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from perceiver.model.core.attention import MultiHeadAttention, attention_weights
from perceiver.model.core.bixt import BidirectionalAttention, BiXTEncoder
from perceiver.model.core.layers import AttentionLayer
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverEncoder


class AttentionMaps(Mapping[str, Tensor]):
    """Weights by the name of their layer (B, H, queries, keys), in the order in which they were computed.

    Where a decoder worked in parts, they are those of all its queries, one part after the other.

    Attributes:
        calls: The weights of each call of a layer, of which there is more than one if the model ran more than once: in
            generation, for a sequence in windows.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.calls:
            raise KeyError(f"there is no map {name!r}, only {', '.join(self.calls) or 'none at all: nothing ran'}")
        calls = self.calls[name]
        if len(calls) == 1:
            return calls[0]
        if not name.endswith("decoder.cross_attention"):
            raise ValueError(f"{name} was computed {len(calls)} times: calls[{name!r}] has all of them")
        return torch.cat(calls, dim=2)

    def __iter__(self) -> Iterator[str]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)


@contextmanager
def record_attention(model: nn.Module, *layers: str) -> Iterator[AttentionMaps]:
    """Records the attention weights of what runs inside. A model that is not recorded computes none.

    Weights are those before dropout, detached, in the dtype and on the device of the model. Their memory is that which
    fused kernels avoid: H * N * M numbers of a layer for each example. Choose layers where inputs are long.

    Args:
        model: Any model with attention of ours in it, or the Lightning or Hugging Face model around it.
        layers: Names, see `attention_names`, or patterns with `*` as of files. Default: all layers.

    Returns:
        The maps, which grow with every call inside.

    Raises:
        ValueError: if a name fits no layer, or if the model trains with activation checkpointing, which would compute
            everything twice.
    """
    names = _names(model)
    every = [name for of_module in names.values() for name in of_module]
    for pattern in layers:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise ValueError(f"{pattern!r} fits no attention layer of {type(model).__name__}: {', '.join(every)}")
    for module in model.modules():
        if isinstance(module, AttentionLayer) and module.gradient_checkpointing and module.training:
            raise ValueError("attention can't be recorded in training with activation checkpointing: call model.eval()")
    maps = AttentionMaps()
    recorders = {
        module: _Recorder(
            maps, [n if not layers or any(fnmatchcase(n, p) for p in layers) else None for n in of_module]
        )
        for module, of_module in names.items()
    }
    for module, recorder in recorders.items():
        module.recorders = (*module.recorders, recorder)
    try:
        yield maps
    finally:
        for module, recorder in recorders.items():
            module.recorders = tuple(other for other in module.recorders if other is not recorder)


class _Recorder:
    """Adds the weights of a module's calls to `maps`.

    Args:
        maps: Where to.
        names: Of the calls that a pass of the model makes, more than one if weights are shared. None: not wanted.
    """

    def __init__(self, maps: AttentionMaps, names: list[str | None]):
        self.maps = maps
        self.names = names
        self.num_calls = 0

    @torch.no_grad()
    def __call__(self, q: Tensor, k: Tensor, mask: AttentionMask) -> None:
        name = self.names[self.num_calls % len(self.names)]
        self.num_calls += 1
        if name is not None:
            self.maps.calls.setdefault(name, []).append(attention_weights(q, k, mask))


def attention_names(model: nn.Module) -> list[str]:
    """Names of the attention layers of a model, in the order of `model.modules()`; see the top of this module."""
    return [name for names in _names(model).values() for name in names]


def _names(model: nn.Module) -> dict[MultiHeadAttention | BidirectionalAttention, list[str]]:
    """Names of the calls that a pass makes of each module, in their order."""
    names: dict[MultiHeadAttention | BidirectionalAttention, list[str]] = {}

    def add(layer: nn.Module, *calls: str) -> None:
        for module in layer.modules():
            if isinstance(module, MultiHeadAttention | BidirectionalAttention):
                names.setdefault(module, []).extend(calls)

    # A module comes before its parts: what a Perceiver encoder or decoder names keeps that name.
    for path, module in getattr(model, "backend_model", model).named_modules():
        if isinstance(module, PerceiverEncoder):
            encoder, config = _place(path, "encoder"), module.config
            for i in range(config.num_self_attention_blocks):
                cross_attn, self_attn = module.cross_attn_1, module.self_attn_1
                if i > 0:  # weights of their own, if there are
                    cross_attn, self_attn = module.cross_attn_n or cross_attn, module.self_attn_n or self_attn
                if i < config.num_cross_attention_layers:
                    add(cross_attn, f"{encoder}.cross_attention.{i}")
                for j, layer in enumerate(self_attn):
                    add(layer, f"{encoder}.self_attention.{i}.{j}")
        elif isinstance(module, BiXTEncoder):
            encoder = _place(path, "encoder")
            layers = zip([*module.bidirectional, module.cross_attention], module.self_attention, strict=True)
            for i, (reader, layer) in enumerate(layers):
                to_tokens = [] if reader is module.cross_attention else [f"{encoder}.token_attention.{i}"]
                add(reader, f"{encoder}.cross_attention.{i}", *to_tokens)
                add(layer, f"{encoder}.self_attention.{i}")
        elif isinstance(module, PerceiverDecoder):
            add(module.cross_attn, f"{_place(path, 'decoder')}.cross_attention")
        elif isinstance(module, AttentionLayer | MultiHeadAttention) and not names.keys() & set(module.modules()):
            add(module, path)
    return names


def _place(path: str, name: str) -> str:
    """Path of an encoder or decoder, which a `PerceiverIO` calls by its number."""
    parent, _, own = path.rpartition(".")
    return path if own and not own.isdecimal() else ".".join(filter(None, (parent, name)))
