"""lucidrains/perceiver-pytorch: Perceiver, PerceiverIO and PerceiverLM, as 0.5 to 0.11 name their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perceiver.model.foreign.layers import GatedEncoderConfig
from perceiver.model.foreign.layouts.parts import Arguments, Converted, Names, Parameters
from perceiver.model.foreign.perceiver_pytorch import (
    GatedDecoderConfig,
    LucidrainsPerceiverConfig,
    LucidrainsPerceiverIOConfig,
    LucidrainsPerceiverLMConfig,
    MeanDecoderConfig,
)

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


def _encoder(names: Names, arguments: Arguments) -> GatedEncoderConfig:
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


def _attention(names: Names, ours: str, theirs: str, *, query_norm: str = "q_norm", keep: bool = True) -> None:
    """Attention of perceiver-pytorch, whose keys and values are of one matrix."""
    names.linear(f"{ours}.{query_norm}", f"{theirs}.norm", keep=keep)
    if query_norm == "q_norm":
        names.linear(f"{ours}.kv_norm", f"{theirs}.norm_context", keep=keep)
    names.move(f"{ours}.attention.q_proj.weight", f"{theirs}.fn.to_q.weight", keep=keep)
    names.split([f"{ours}.attention.{x}_proj.weight" for x in "kv"], f"{theirs}.fn.to_kv.weight", keep=keep)
    names.linear(f"{ours}.attention.o_proj", f"{theirs}.fn.to_out", keep=keep)


def _gated_mlp(names: Names, ours: str, theirs: str, *, keep: bool = True) -> None:
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
    names = Names(renamed_to_0_11(parameters))
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


def _io(names: Names, arguments: Arguments) -> tuple[GatedEncoderConfig, GatedDecoderConfig]:
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
    names = Names(renamed_to_0_11(parameters))
    encoder, decoder = _io(names, arguments)
    arguments.tell(queries_dim=decoder.num_query_channels, logits_dim=decoder.num_output_channels)
    return Converted(LucidrainsPerceiverIOConfig(encoder, decoder), names.finished(), arguments.finished())


def perceiver_lm(parameters: Parameters, given: Mapping[str, Any]) -> Converted:
    """`perceiver_pytorch.PerceiverLM`"""
    arguments = Arguments(given, _HEADS | _IO, _REFUSED)
    own, inner = Names({}), "perceiver_io."
    own.left = {name: value for name, value in parameters.items() if not name.startswith(inner)}
    names = Names(
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
