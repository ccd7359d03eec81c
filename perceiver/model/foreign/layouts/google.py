"""google-research/perceiver-ar: PerceiverAR, with one latent per position (arXiv 2202.07765)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perceiver.model.foreign.layouts.parts import Arguments, Converted, Names, Parameters
from perceiver.model.foreign.perceiver_ar import GooglePerceiverARConfig

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
    names = Names({name.removeprefix("perceiver_ar/").removeprefix("~/"): v for name, v in parameters.items()})
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
