"""From the parameters of another library to one of our models: recognising a layout, its configuration, its names.

A layout is recognised by its parameter names. Shapes tell most of a configuration; what they can't tell (numbers of
heads, frequencies, ...) comes from the arguments that the original was built with, for which its defaults stand in.
Whatever a model can't express is refused by name.

    lucidrains/perceiver-pytorch         Perceiver, PerceiverIO, PerceiverLM, as 0.5 to 0.11 name their parameters
    lucidrains/perceiver-ar-pytorch      PerceiverAR
    google-research/perceiver-ar         PerceiverAR, with one latent per position (arXiv 2202.07765)

DeepMind's pickles of Perceiver IO are read in `perceiver.model.foreign.huggingface.deepmind`: our own models take them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from perceiver.model.core.config import Config
from perceiver.model.foreign.layers import GatedEncoderConfig
from perceiver.model.foreign.perceiver_ar import GooglePerceiverARConfig, LucidrainsPerceiverARConfig
from perceiver.model.foreign.perceiver_pytorch import (
    GatedDecoderConfig,
    LucidrainsPerceiverConfig,
    LucidrainsPerceiverIOConfig,
    LucidrainsPerceiverLMConfig,
    MeanDecoderConfig,
)

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A model of ours with the parameters of another library.

    Attributes:
        config: Configuration of the backend model.
        state_dict: Its parameters.
        arguments: What the original is built with, those included that its defaults or the shapes tell.
    """

    config: Config
    state_dict: Parameters
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How a class of another library names its parameters.

    Attributes:
        package: Of the class.
        original: Name of the class.
        marks: Patterns of parameter names, all of which such a file has.
        model: Name of our model in `perceiver.tasks.FOREIGN`.
        convert: Parameters and arguments of the original -> our model.
    """

    package: str
    original: str
    marks: tuple[str, ...]
    model: str
    convert: Callable[[Parameters, Mapping[str, Any]], Converted]


def recognised(names: Iterable[str]) -> Layout | None:
    """The layout whose marks are all among these parameter names."""
    names = list(names)

    def has(mark: str) -> bool:
        return any(re.match(mark, name) for name in names)

    return next((layout for layout in LAYOUTS if all(has(mark) for mark in layout.marks)), None)


class Arguments:
    """Arguments that the original was built with.

    Args:
        given: Those that are given.
        defaults: The original's own.
        fixed: Those that our model knows one value of.

    Raises:
        ValueError: if there is no such argument, or one with another than its fixed value.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], fixed: Mapping[str, Any]):
        self.values = {**defaults, **fixed, **given}
        self.found: dict[str, Any] = {}
        self._given = given
        self._known = {*defaults, *fixed}
        for name, value in fixed.items():
            if self.values[name] != value:
                raise ValueError(f"{name}={self.values[name]!r} can't be converted, only {name}={value!r}")

    def __getitem__(self, name: str) -> Any:
        """The value of an argument that no parameter tells.

        Raises:
            ValueError: if it isn't given and has no default.
        """
        if self.values.get(name) is None:
            raise ValueError(f"no parameter tells {name}, with which the original was built: give it, {name}=...")
        self.found[name] = self.values[name]
        return self.values[name]

    def tell(self, **found: Any) -> None:
        """What the parameters tell.

        Raises:
            ValueError: if something else was given.
        """
        for name, value in found.items():
            self._known.add(name)
            if name in self._given and self._given[name] != value:
                raise ValueError(f"{name}={self._given[name]!r} was given, but the parameters say {value!r}")
            self.found[name] = value

    def heads(self, name: str, num_channels: int) -> int:
        """The number of heads, `{name}heads`, each of `{name}dim_head` channels: together `num_channels`."""
        names = f"{name}heads", f"{name}dim_head"
        num_heads, num_head_channels = (self[name] for name in names)
        if num_heads * num_head_channels != num_channels:
            raise ValueError(
                f"{names[0]}={num_heads} with {names[1]}={num_head_channels} can't be: the parameters have "
                f"{num_channels} channels. Give both as the original was built with"
            )
        return int(num_heads)

    def finished(self) -> dict[str, Any]:
        """All arguments.

        Raises:
            ValueError: if one was given that the original does not have.
        """
        if unknown := sorted(set(self._given) - self._known):
            raise ValueError(f"there is no argument {unknown[0]}; there are {', '.join(sorted(self._known))}")
        return {**self.values, **self.found}


class _Names:
    """Parameters, taken out one by one under our names. What is left in the end can't be converted."""

    def __init__(self, parameters: Parameters):
        self.left = dict(parameters)
        self.state_dict: Parameters = {}

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise ValueError(f"the parameter {name} is missing")
        return self.left.pop(name)

    def shape(self, name: str) -> tuple[int, int]:
        """Shape of a matrix."""
        if name not in self.left:
            raise ValueError(f"the parameter {name} is missing")
        shape = tuple(self.left[name].shape)
        if len(shape) != 2:
            raise ValueError(f"the parameter {name} has the shape {shape}, expected two dimensions")
        return shape

    def count(self, pattern: str) -> int:
        """The highest number that stands for `{}` at the start of a name, and one more; 0 if there is none."""
        start, end = pattern.split("{}")
        regex = re.compile(f"{re.escape(start)}(\\d+){re.escape(end)}")
        return max((int(match[1]) + 1 for name in self.left if (match := regex.match(name))), default=0)

    def equal(self, a: str, b: str) -> bool:
        """Whether the parameters that begin with `a` equal those that begin with `b`."""
        parts = [
            {name.removeprefix(start): value for name, value in self.left.items() if name.startswith(start)}
            for start in (a, b)
        ]
        return parts[0].keys() == parts[1].keys() and all(torch.equal(parts[0][n], parts[1][n]) for n in parts[0])

    def move(self, ours: str, theirs: str, *, keep: bool = True) -> None:
        self.split([ours], theirs, keep=keep)

    def split(self, ours: list[str], theirs: str, *, keep: bool = True) -> None:
        """Takes a parameter whose parts, along the first dimension, are several of ours. `keep`: or drops it."""
        parts = self.take(theirs).chunk(len(ours))
        if keep:
            self.state_dict |= dict(zip(ours, parts, strict=True))

    def linear(self, ours: str, theirs: str, *, bias: bool = True, keep: bool = True) -> None:
        """Weight and bias of a linear layer or of a norm."""
        for parameter in ("weight", "bias") if bias else ("weight",):
            self.move(f"{ours}.{parameter}", f"{theirs}.{parameter}", keep=keep)

    def haiku_linear(self, ours: str, theirs: str) -> None:
        self.state_dict[f"{ours}.weight"] = rearrange(self.take(f"{theirs}/w"), "input output -> output input")
        self.move(f"{ours}.bias", f"{theirs}/b")

    def haiku_norm(self, ours: str, theirs: str) -> None:
        self.move(f"{ours}.weight", f"{theirs}/scale")
        self.move(f"{ours}.bias", f"{theirs}/offset")

    def finished(self) -> Parameters:
        if self.left:
            raise ValueError(f"the parameter {next(iter(self.left))} can't be converted: our model has none like it")
        return self.state_dict


# --- lucidrains/perceiver-pytorch -----------------------------------------------------------------------------------

# Names of former versions -> those of 0.11. Up to 0.10, what is a number there has a name since; up to 0.7, layers that
# are followed by dropout were the first of two.
_RENAMED = (
    (r"cross_attend_blocks\.0\.", "cross_attend_block.cross_attn."),
    (r"cross_attend_blocks\.1\.", "cross_attend_block.cross_ff."),
    (r"layers\.(\d+)\.2\.(\d+)\.", r"layers.\1.self_attns.\2."),
    (r"layers\.(\d+)\.0\.", r"layers.\1.cross_attn."),
    (r"layers\.(\d+)\.1\.", r"layers.\1.cross_ff."),
    (r"(.*)\.fn\.to_out\.0\.", r"\1.fn.to_out."),
    (r"(.*)\.fn\.net\.3\.", r"\1.fn.net.2."),
)
# In Perceiver IO from 0.7 to 0.10, the layers are those of latents alone.
_RENAMED_IO = ((r"layers\.(\d+)\.([01])\.(?!self_attns)", r"layers.\1.self_attns.0.\2."),)


def renamed_to_0_11(parameters: Parameters) -> Parameters:
    """Parameters of any version of perceiver-pytorch, without a prefix, under the names of 0.11."""
    is_io = any(name.startswith("cross_attend_block") for name in parameters)
    is_old = any(re.match(r"cross_attend_blocks\.|layers\.\d+\.\d", name) for name in parameters)
    rules = (*(_RENAMED_IO if is_io else ()), *_RENAMED) if is_old else ()
    result = {}
    for name, value in parameters.items():
        for pattern, replacement in (*rules, *_RENAMED[-2:]):
            name = re.sub(f"^{pattern}", replacement, name)
        result[name] = value
    return result


def _encoder(names: _Names, arguments: Arguments) -> GatedEncoderConfig:
    """Moves latents and layers, and says what the encoder is."""
    if found := next((name for name in names.left if name.startswith("attn_residuals.")), None):
        raise ValueError(f"attn_residual=True can't be converted: the parameter {found} has no place in our model")
    is_io = "cross_attend_block.cross_attn.fn.to_q.weight" in names.left
    first = "cross_attend_block" if is_io else "layers.0"
    num_blocks, num_layers = names.count("layers.{}."), names.count("layers.0.self_attns.{}.")
    num_cross = 1 if is_io else names.count("layers.{}.cross_attn.")
    if not num_layers or not num_cross:
        raise ValueError("the parameters of the first layers are missing")
    num_distinct = num_blocks
    while num_distinct > 1 and names.equal(f"layers.{num_distinct - 2}.", f"layers.{num_distinct - 1}."):
        num_distinct -= 1
    num_latents, num_latent_channels = names.shape("latents")
    num_cross_channels, _ = names.shape(f"{first}.cross_attn.fn.to_q.weight")
    _, num_input_channels = names.shape(f"{first}.cross_attn.fn.to_kv.weight")
    num_self_channels, _ = names.shape("layers.0.self_attns.0.0.fn.to_q.weight")
    arguments.tell(depth=num_blocks, num_latents=num_latents, latent_dim=num_latent_channels)
    if num_distinct < num_blocks or num_blocks > (1 if is_io else 2):  # the first layers of a Perceiver are never tied
        arguments.tell(weight_tie_layers=num_distinct < num_blocks)

    names.move("encoder.latent_provider._query", "latents")
    for i in range(num_blocks):
        keep = i < num_distinct  # else the parameters of the last distinct block once more
        if i < num_cross:
            theirs = first if i == 0 else f"layers.{i}"
            _attention(names, f"encoder.cross_attention.{i}.0.module", f"{theirs}.cross_attn", keep=keep)
            _gated_mlp(names, f"encoder.cross_attention.{i}.1.module", f"{theirs}.cross_ff", keep=keep)
        for j in range(num_layers):
            ours, theirs = f"encoder.self_attention.{i}.{j}", f"layers.{i}.self_attns.{j}"
            _attention(names, f"{ours}.0.module", f"{theirs}.0", query_norm="norm", keep=keep)
            _gated_mlp(names, f"{ours}.1.module", f"{theirs}.1", keep=keep)
    return GatedEncoderConfig(
        num_input_channels=num_input_channels,
        num_latents=num_latents,
        num_latent_channels=num_latent_channels,
        num_blocks=num_blocks,
        num_distinct_blocks=num_distinct,
        num_cross_attention_layers=num_cross,
        num_self_attention_layers_per_block=num_layers,
        num_cross_attention_heads=arguments.heads("cross_", num_cross_channels),
        num_cross_attention_channels=num_cross_channels,
        num_self_attention_heads=arguments.heads("latent_", num_self_channels),
        num_self_attention_channels=num_self_channels,
    )


def _attention(names: _Names, ours: str, theirs: str, *, query_norm: str = "q_norm", keep: bool = True) -> None:
    """Attention of perceiver-pytorch, whose keys and values are of one matrix."""
    names.linear(f"{ours}.{query_norm}", f"{theirs}.norm", keep=keep)
    if query_norm == "q_norm":
        names.linear(f"{ours}.kv_norm", f"{theirs}.norm_context", keep=keep)
    names.move(f"{ours}.attention.q_proj.weight", f"{theirs}.fn.to_q.weight", keep=keep)
    names.split([f"{ours}.attention.{x}_proj.weight" for x in "kv"], f"{theirs}.fn.to_kv.weight", keep=keep)
    names.linear(f"{ours}.attention.o_proj", f"{theirs}.fn.to_out", keep=keep)


def _gated_mlp(names: _Names, ours: str, theirs: str, *, keep: bool = True) -> None:
    names.linear(f"{ours}.0", f"{theirs}.norm", keep=keep)
    names.linear(f"{ours}.1", f"{theirs}.fn.net.0", keep=keep)
    names.linear(f"{ours}.3", f"{theirs}.fn.net.2", keep=keep)


def perceiver(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_pytorch.Perceiver`"""
    arguments = Arguments(given, _HEADS | _PERCEIVER, _REFUSED)
    # Up to 0.7.0, all the latents' channels were averaged before the first module of the head. Up to 0.7.1,
    # frequencies were spaced geometrically, whatever their base.
    number = 0 if "to_logits.0.weight" in parameters else 1
    is_geometric = number == 0 or "freq_base" in given
    names = _Names(renamed_to_0_11(parameters))
    encoder = _encoder(names, arguments)
    encoder = replace(encoder, attention_dropout=arguments["attn_dropout"], mlp_dropout=arguments["ff_dropout"])
    decoder = None
    if f"to_logits.{number}.weight" in names.left:
        decoder = MeanDecoderConfig(names.shape(f"to_logits.{number + 1}.weight")[0])
        names.linear("decoder.0", f"to_logits.{number}")
        names.linear("decoder.1", f"to_logits.{number + 1}")
        arguments.tell(num_classes=decoder.num_classes)
    arguments.tell(
        self_per_cross_attn=encoder.num_self_attention_layers_per_block, final_classifier_head=decoder is not None
    )
    num_channels, num_dimensions, is_fourier = (
        arguments[name] for name in ("input_channels", "input_axis", "fourier_encode_data")
    )
    bands, max_frequency = (arguments["num_freq_bands"], arguments["max_freq"]) if is_fourier else (6, 10.0)
    num_codes = num_dimensions * (2 * bands + 1) if is_fourier else 0
    if num_channels + num_codes != encoder.num_input_channels:
        raise ValueError(
            f"input_channels={num_channels} and {num_codes} channels of Fourier features can't be: the parameters have "
            f"{encoder.num_input_channels}. Give input_channels, input_axis, num_freq_bands and fourier_encode_data as "
            "the original was built with"
        )
    config = LucidrainsPerceiverConfig(
        encoder=encoder,
        decoder=decoder,
        num_dimensions=num_dimensions,
        num_frequency_bands=bands,
        max_frequency=float(max_frequency),
        fourier_features=is_fourier,
        geometric_frequencies=is_fourier and is_geometric,
    )
    return Converted(config, names.finished(), arguments.finished())


_HEADS = {"cross_heads": 1, "latent_heads": 8, "cross_dim_head": 64, "latent_dim_head": 64}
_PERCEIVER = {
    "num_freq_bands": None,
    "max_freq": None,
    "freq_base": 2,
    "input_channels": 3,
    "input_axis": 2,
    "fourier_encode_data": True,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "num_classes": 1000,
    "attn_residual_rank": 64,
    "weight_tie_layers": False,
}
_REFUSED = {"inverted_cross_attn": False, "attn_residual": False}


def _io(names: _Names, arguments: Arguments) -> tuple[GatedEncoderConfig, GatedDecoderConfig]:
    encoder = replace(_encoder(names, arguments), input_dropout=arguments["seq_dropout_prob"])
    num_channels, num_query_channels = names.shape("decoder_cross_attn.fn.to_q.weight")
    has_mlp, has_output = "decoder_ff.norm.weight" in names.left, "to_logits.weight" in names.left
    decoder = GatedDecoderConfig(
        num_query_channels=num_query_channels,
        num_output_channels=names.shape("to_logits.weight")[0] if has_output else None,
        num_heads=arguments.heads("cross_", num_channels),
        num_channels=num_channels,
        mlp=has_mlp,
    )
    _attention(names, "decoder.0" if has_mlp else "decoder", "decoder_cross_attn")
    if has_mlp:
        _gated_mlp(names, "decoder.1.module", "decoder_ff")
    if has_output:
        names.linear("output", "to_logits")
    arguments.tell(dim=encoder.num_input_channels, decoder_ff=has_mlp)
    return encoder, decoder


_IO = {"seq_dropout_prob": 0.0, "weight_tie_layers": False, "attn_residual_rank": 64}


def perceiver_io(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_pytorch.PerceiverIO`"""
    arguments = Arguments(given, _HEADS | _IO, _REFUSED)
    names = _Names(renamed_to_0_11(parameters))
    encoder, decoder = _io(names, arguments)
    arguments.tell(queries_dim=decoder.num_query_channels, logits_dim=decoder.num_output_channels)
    return Converted(LucidrainsPerceiverIOConfig(encoder, decoder), names.finished(), arguments.finished())


def perceiver_lm(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_pytorch.PerceiverLM`"""
    arguments = Arguments(given, _HEADS | _IO, _REFUSED)
    own, inner = _Names({}), "perceiver_io."
    own.left = {name: value for name, value in parameters.items() if not name.startswith(inner)}
    names = _Names(
        renamed_to_0_11({name.removeprefix(inner): v for name, v in parameters.items() if name.startswith(inner)})
    )
    encoder, decoder = _io(names, arguments)
    (vocab_size, _), (max_seq_len, _) = own.shape("token_emb.weight"), own.shape("pos_emb.weight")
    own.move("input_adapter.txt_embedding.weight", "token_emb.weight")
    own.move("input_adapter.pos_embedding.weight", "pos_emb.weight")
    arguments.tell(num_tokens=vocab_size, max_seq_len=max_seq_len)
    decoder = replace(decoder, num_output_channels=None)
    config = LucidrainsPerceiverLMConfig(encoder, decoder, vocab_size=vocab_size, max_seq_len=max_seq_len)
    state_dict = own.finished() | {f"{inner}{name}": value for name, value in names.finished().items()}
    return Converted(config, state_dict, arguments.finished())


# --- lucidrains/perceiver-ar-pytorch --------------------------------------------------------------------------------


def lucidrains_perceiver_ar(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_ar_pytorch.PerceiverAR`

    Its rotary position embedding pairs channel i with channel i + d / 2, ours neighbours: rows of queries and keys
    change places.
    """
    defaults = {"heads": 8, "dim_head": 64, "dropout": 0.0, "cross_attn_dropout": 0.0, "cross_attn_seq_len": None}
    arguments = Arguments(given, defaults | {"perceive_max_heads_process": 2}, {"perceive_depth": 1})
    names = _Names(parameters)
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


# --- google-research/perceiver-ar -----------------------------------------------------------------------------------

# The defaults of its `get_config`, and what our model knows one value of.
_GOOGLE = {
    "max_context_length": None,
    "max_wavelength": None,
    "z_index_dim": 1024,
    "num_cross_attend_heads": 16,
    "num_transformer_heads": 16,
    "fraction_to_rotate": 0.5,
    "dropout_prob": 0.1,
}
_GOOGLE_FIXED = {
    "fraction_heads_to_rotate": 1.0,
    "use_positions_from_data": True,
    "use_negative_rotary_positions": False,
    "initial_query_offsetting": False,
    "initial_query_embed_style": "none",
    "include_initial_cross_attention": True,
    "encoder_use_query_residual": True,
    "num_latents_per_position": 1,
    "activation_name": "sq_relu",
    "mask_style": "final_block",
}


def google_perceiver_ar(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_ar_model.PerceiverAR`

    Positions count from 1 there, and the position embedding is a table in the file.
    """
    arguments = Arguments(given, _GOOGLE, _GOOGLE_FIXED)
    names = _Names({name.removeprefix("perceiver_ar/").removeprefix("~/"): v for name, v in parameters.items()})
    vocab_size, num_channels = names.shape("embed/embeddings")
    if names.shape("linear/w") != (num_channels, num_channels):
        raise ValueError("input_embed_dim and num_z_channels differ, which can't be converted: ours are equal")
    has_table = "embed_1/embeddings" in names.left
    if has_table:
        arguments.tell(position_encoding_type="absolute", max_context_length=len(names.left["embed_1/embeddings"]) - 1)
    else:
        arguments.tell(position_encoding_type="rotary")
    max_seq_len = arguments["max_context_length"] if not has_table else arguments.found["max_context_length"]
    num_heads, num_cross_heads = arguments["num_transformer_heads"], arguments["num_cross_attend_heads"]
    num_layers = max(1, names.count("self_attention_{}/"))  # the first one has no number
    num_rotary_channels, num_rotary_layers, max_wavelength = 2, 0, max_seq_len
    if not has_table:
        if num_heads != num_cross_heads:
            raise ValueError(
                f"num_transformer_heads={num_heads} and num_cross_attend_heads={num_cross_heads} with rotary positions "
                "can't be converted: ours are the same in all layers"
            )
        num_rotary_channels = 2 * int(num_channels // num_heads * arguments["fraction_to_rotate"] / 2)
        num_rotary_layers = -1
        max_wavelength = arguments.values["max_wavelength"] or max_seq_len
    widening_factors = [
        names.shape(f"{layer}/dense/linear/w")[1] // num_channels for layer in ("cross_attention", "self_attention")
    ]
    arguments.tell(
        num_classes=vocab_size,
        input_embed_dim=num_channels,
        num_z_channels=num_channels,
        num_transformers_per_block=num_layers,
        cross_attend_widening_factor=widening_factors[0],
        transformer_widening_factor=widening_factors[1],
    )
    config = GooglePerceiverARConfig(
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        max_latents=arguments["z_index_dim"],
        num_channels=num_channels,
        num_heads=num_heads,
        num_cross_attention_heads=num_cross_heads,
        num_self_attention_layers=num_layers,
        num_self_attention_rotary_layers=num_rotary_layers,
        num_rotary_channels=num_rotary_channels,
        max_wavelength=max_wavelength,
        cross_attention_widening_factor=widening_factors[0],
        self_attention_widening_factor=widening_factors[1],
        cross_attention_dropout=0.0,
        residual_dropout=arguments["dropout_prob"],
        abs_pos_emb=has_table,
    )

    def layer(ours: str, attention: str, theirs: str, mlp_norm: str) -> None:
        for i, x in enumerate("qkvo"):
            names.haiku_linear(f"{attention}.{x}_proj", f"{theirs}/attention/linear{_suffix(i)}")
        names.haiku_norm(f"{ours}.1.module.0", f"{theirs}/{mlp_norm}")
        names.haiku_linear(f"{ours}.1.module.1", f"{theirs}/dense/linear")
        names.haiku_linear(f"{ours}.1.module.3", f"{theirs}/dense/linear_1")

    names.move("input_adapter.txt_embedding.weight", "embed/embeddings")
    if has_table:
        names.state_dict["input_adapter.pos_embedding.weight"] = names.take("embed_1/embeddings")[1:]
    names.haiku_linear("cross_attention.0.query", "linear")
    ours, theirs = "cross_attention.0.cross_attention", "cross_attention"
    names.haiku_norm(f"{ours}.q_norm", f"{theirs}/layer_norm")
    names.haiku_norm(f"{ours}.kv_norm", f"{theirs}/layer_norm_1")
    layer("cross_attention", f"{ours}.attention", theirs, "layer_norm_2")
    for i in range(num_layers):
        ours, theirs = f"self_attention.{i}.0.module", f"self_attention{_suffix(i)}"
        names.haiku_norm(f"{ours}.norm", f"{theirs}/layer_norm")
        layer(f"self_attention.{i}", f"{ours}.attention", theirs, "layer_norm_1")
    names.haiku_norm("out_norm", "layer_norm")
    names.haiku_linear("output_adapter", "logits")
    return Converted(config, names.finished(), arguments.finished())


def _suffix(number: int) -> str:
    """Haiku numbers modules of the same name from the second one on."""
    return f"_{number}" if number else ""


LAYOUTS = (
    Layout(
        "google-research/perceiver-ar",
        "PerceiverAR",
        (r"perceiver_ar/~/cross_attention/attention/linear/w", r"perceiver_ar/~/embed/embeddings"),
        "google-perceiver-ar",
        google_perceiver_ar,
    ),
    Layout(
        "perceiver-ar-pytorch",
        "PerceiverAR",
        (r"token_emb\.weight", r"perceive_layers\.0\.0\.to_q\.weight"),
        "lucidrains-perceiver-ar",
        lucidrains_perceiver_ar,
    ),
    Layout(
        "perceiver-pytorch",
        "PerceiverLM",
        (r"token_emb\.weight", r"perceiver_io\.latents", r"perceiver_io\.decoder_cross_attn\.fn\.to_q\.weight"),
        "lucidrains-perceiver-lm",
        perceiver_lm,
    ),
    Layout(
        "perceiver-pytorch",
        "PerceiverIO",
        (r"latents", r"decoder_cross_attn\.fn\.to_q\.weight"),
        "lucidrains-perceiver-io",
        perceiver_io,
    ),
    Layout(
        "perceiver-pytorch",
        "Perceiver",
        (r"latents", r"layers\.0\.(0|cross_attn)\.fn\.to_q\.weight"),
        "lucidrains-perceiver",
        perceiver,
    ),
)
