"""Configurations: plain dataclasses of numbers, the only home of every default.

A config survives its own JSON, `C(**json.loads(json.dumps(asdict(c)))) == c`, nested configs and tuples included. Field
names are those of the published checkpoints, so a `config.json` of perceiver-io 0.8 and later is read as it is.

The papers' letters (Perceiver IO, arXiv 2107.14795; Perceiver AR, arXiv 2202.07765): M inputs of C channels, N latents
of D channels, O outputs, made from O queries of F channels, of E channels each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from typing_extensions import Self


# Metadata of fields that perceiver-io 0.11 does not know: files name them only where they differ from the default.
SINCE_1_0 = {"since": "1.0"}


@dataclass
class Config:
    """Base of all configs: accepts what `asdict` and JSON make of a config, and checks it.

    Numbers are integers of at least 1, or of at least `metadata["least"]` of their field, and floats not negative;
    dropouts are below 1. What relates several fields is checked by the `__post_init__` of their class.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in fields(self):
            value, hint = getattr(self, item.name), hints[item.name]
            kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Config)]
            if isinstance(value, Mapping) and kinds:  # a part, which may be optional
                value = kinds[0].from_dict(value)
            elif isinstance(value, list) and get_origin(hint) is tuple:
                value = tuple(value)
            setattr(self, item.name, value)
            if expected := _wrong(item, hint, value):
                raise ValueError(f"{item.name}={value!r} of {type(self).__name__} must be {expected}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds a config from `values`. Missing fields get their defaults.

        Raises:
            ValueError: if `values` is no mapping, has a key that is no field, lacks one that has no default, or has a
                wrong value.
        """
        if not isinstance(values, Mapping):  # a file can hold anything
            raise ValueError(f"{cls.__name__} is made from a dictionary, not from {values!r}")
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(names)}")
        try:
            return cls(**values)
        except TypeError as error:  # a required field is missing: the message names it
            raise ValueError(f"{cls.__name__}: {error}") from error

    @classmethod
    def of_hyper_parameters(cls, values: Mapping[str, Any]) -> Self:
        """The same of a checkpoint's hyper-parameters, which have further arguments of the Lightning module."""
        names = {field.name for field in fields(cls)}
        return cls.from_dict({name: value for name, value in values.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for files: those that perceiver-io 0.11 does not know are left out where they are defaults."""
        values = {item.name: (item, getattr(self, item.name)) for item in fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Config) else value
            for name, (item, value) in values.items()
            if item.metadata.get("since") is None or value != item.default
        }


def _wrong(item: Field[Any], hint: Any, value: Any) -> str | None:
    """What `value` should be for a field of type `hint`; None if it is that."""
    kind = hint
    if NoneType in get_args(hint):
        if value is None:
            return None
        kind, _ = get_args(hint)
    if kind is int:
        least = item.metadata.get("least", 1)
        return None if type(value) is int and value >= least else f"an integer, at least {least}"
    if kind is float:
        limit = 1.0 if "dropout" in item.name else math.inf
        fits = isinstance(value, float | int) and type(value) is not bool and 0 <= value < limit
        return None if fits else f"a number in [0, {limit:g})"
    if kind in (bool, str):
        return None if type(value) is kind else {bool: "true or false", str: "a string"}[kind]
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        size = None if get_args(kind)[-1] is Ellipsis else len(get_args(kind))
        fits = isinstance(value, tuple) and len(value) == (size or len(value))
        fits = fits and all(type(n) is int and n > 0 for n in value)
        return None if fits else f"{size or 'any number of'} integers, at least 1"
    return None if isinstance(value, kind) else f"a {kind.__name__}"


# Fields that only training sees, and fields that the shapes of parameters show: the functions of two models with equal
# shapes differ in the others.
TRAINING_FIELDS = ("params", "freeze", "init_scale", "activation_checkpointing", "activation_offloading")
_SHAPE_FIELDS = ("vocab_size", "max_seq_len", "num_classes", "max_heads_parallel")


def is_training_field(name: str) -> bool:
    """Whether a field, named with or without those around it (`encoder.dropout`), is for training alone."""
    last = name.rpartition(".")[2]
    return last in TRAINING_FIELDS or last.endswith("dropout")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as {"encoder.num_channels": ...}; tuples are lists, as in files."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def differences(one: Config, other: Config) -> list[str]:
    """The fields in which two models with parameters of equal shapes differ in what they compute, with both values."""
    ones, others = flat(asdict(one)), flat(asdict(other))
    return [
        f"{name}={ones[name]} and {others[name]}"
        for name in ones.keys() & others.keys()
        if ones[name] != others[name] and not (is_training_field(name) or name.endswith(("_channels", *_SHAPE_FIELDS)))
    ]


@dataclass
class EncoderConfig(Config):
    """Perceiver IO encoder: cross-attention of N latents to M inputs, then blocks of latent self-attention.

    Attributes:
        num_cross_attention_heads: Heads of the cross-attention.
        num_cross_attention_qk_channels: Query and key channels of the cross-attention (default: latent channels D).
        num_cross_attention_v_channels: Value channels of the cross-attention (default: its query/key channels).
        num_cross_attention_layers: How often the latents attend to the input, each time before a self-attention block.
        first_cross_attention_layer_shared: Whether repeated cross-attentions use the weights of the first.
        cross_attention_widening_factor: Hidden channels of the cross-attention's MLP, in multiples of D.
        num_self_attention_heads: Heads of the self-attention layers.
        num_self_attention_qk_channels: Query and key channels of the self-attention (default: latent channels D).
        num_self_attention_v_channels: Value channels of the self-attention (default: its query/key channels).
        num_self_attention_layers_per_block: Self-attention layers in a block.
        num_self_attention_blocks: Number of blocks. All but possibly the first share their weights.
        first_self_attention_block_shared: Whether later blocks use the weights of the first.
        self_attention_widening_factor: Hidden channels of the self-attention's MLP, in multiples of D.
        dropout: Dropout of attention probabilities.
        init_scale: Standard deviation of initial weights.
        freeze: Whether the encoder's parameters are excluded from training.
        cross_attention_residual: Whether the latents are added to the output of the cross-attention.
    """

    num_cross_attention_heads: int = 8
    num_cross_attention_qk_channels: int | None = None
    num_cross_attention_v_channels: int | None = None
    num_cross_attention_layers: int = 1
    first_cross_attention_layer_shared: bool = False
    cross_attention_widening_factor: int = 1
    num_self_attention_heads: int = 8
    num_self_attention_qk_channels: int | None = None
    num_self_attention_v_channels: int | None = None
    num_self_attention_layers_per_block: int = 8
    num_self_attention_blocks: int = 1
    first_self_attention_block_shared: bool = True
    self_attention_widening_factor: int = 1
    dropout: float = 0.0
    init_scale: float = 0.02
    freeze: bool = False
    cross_attention_residual: bool = field(default=True, metadata=SINCE_1_0)

    # Published formats differ in the default of `num_cross_attention_qk_channels`: D, or the input channels C.
    qk_channels_of_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_cross_attention_layers > self.num_self_attention_blocks:
            raise ValueError(
                f"num_cross_attention_layers={self.num_cross_attention_layers} must be in "
                f"[1, num_self_attention_blocks={self.num_self_attention_blocks}]"
            )


@dataclass
class DecoderConfig(Config):
    """Perceiver IO decoder: cross-attention of O output queries to the latents.

    Attributes:
        num_cross_attention_heads: Heads of the cross-attention.
        num_cross_attention_qk_channels: Query and key channels (default: query channels F).
        num_cross_attention_v_channels: Value channels (default: the query/key channels).
        cross_attention_widening_factor: Hidden channels of the MLP, in multiples of F.
        cross_attention_residual: Whether the query is added to the attention's output.
        dropout: Dropout of attention probabilities.
        init_scale: Standard deviation of initial weights.
        freeze: Whether the decoder's parameters are excluded from training.
    """

    num_cross_attention_heads: int = 8
    num_cross_attention_qk_channels: int | None = None
    num_cross_attention_v_channels: int | None = None
    cross_attention_widening_factor: int = 1
    cross_attention_residual: bool = True
    dropout: float = 0.0
    init_scale: float = 0.02
    freeze: bool = False


@dataclass
class PerceiverIOConfig(Config):
    """Perceiver IO: what encoder and decoder have in common. Configs of tasks redeclare both.

    Attributes:
        encoder: Encoder configuration.
        decoder: Decoder configuration.
        num_latents: Number of latents N.
        num_latent_channels: Latent channels D.
        activation_checkpointing: Whether training recomputes the activations inside each layer in the backward pass.
        activation_offloading: Whether checkpointed activations wait for the backward pass in CPU memory.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    num_latents: int
    num_latent_channels: int
    activation_checkpointing: bool = False
    activation_offloading: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_offloading(self.activation_checkpointing, self.activation_offloading)


@dataclass
class PerceiverARConfig(Config):
    """Perceiver AR: causal cross-attention of the last positions, the latents, to all, then causal self-attention.

    Attributes:
        num_heads: Attention heads.
        max_heads_parallel: Without effect, no scores of all heads are ever in memory. Published files have it.
        num_self_attention_layers: Self-attention layers.
        num_self_attention_rotary_layers: How many of them, the first ones, have a rotary position embedding; -1: all.
        self_attention_widening_factor: Hidden channels of the self-attention's MLPs, in multiples of the channels.
        cross_attention_widening_factor: Hidden channels of the cross-attention's MLP.
        cross_attention_dropout: Fraction of prefix positions that training drops, others for each example.
        post_attention_dropout: Dropout of attention probabilities.
        residual_dropout: Dropout of what attention and MLPs add to their residuals.
        activation_checkpointing: Whether training recomputes the activations inside each layer in the backward pass.
        activation_offloading: Whether checkpointed activations wait for the backward pass in CPU memory.
    """

    num_heads: int = 8
    max_heads_parallel: int | None = None
    num_self_attention_layers: int = 8
    num_self_attention_rotary_layers: int = field(default=1, metadata={"least": -1})
    self_attention_widening_factor: int = 4
    cross_attention_widening_factor: int = 4
    cross_attention_dropout: float = 0.5
    post_attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    activation_checkpointing: bool = False
    activation_offloading: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_offloading(self.activation_checkpointing, self.activation_offloading)
        if self.num_self_attention_rotary_layers > self.num_self_attention_layers:
            raise ValueError(
                f"num_self_attention_rotary_layers={self.num_self_attention_rotary_layers} must be at most "
                f"num_self_attention_layers={self.num_self_attention_layers}, or -1 for all"
            )


@dataclass
class CausalSequenceModelConfig(PerceiverARConfig):
    """Perceiver AR over tokens.

    Attributes:
        vocab_size: Number of token ids.
        max_seq_len: Largest number of positions, prefix and latents together.
        max_latents: Largest number of latents N.
        num_channels: Channels of tokens and latents.
        output_norm: Whether a LayerNorm precedes the output.
        output_bias: Whether the output has a bias.
        abs_pos_emb: Whether there is a learned position embedding. With it, rotary position embeddings rotate half of
            the channels of a head, without it all.
        token_shift: Whether a linear layer of the token before is added to each token's embedding. With it, one read
            finds by content what follows something; see `perceiver.model.core.token_shift`.
        init_scale: Standard deviation of initial weights.
    """

    vocab_size: int = 262
    max_seq_len: int = 4096
    max_latents: int = 512
    num_channels: int = 512
    output_norm: bool = False
    output_bias: bool = True
    abs_pos_emb: bool = True
    token_shift: bool = field(default=False, metadata=SINCE_1_0)
    init_scale: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_latents > self.max_seq_len:
            raise ValueError(f"max_latents={self.max_latents} must be in [1, max_seq_len={self.max_seq_len}]")
        if self.num_channels % self.num_heads:
            raise ValueError(f"num_channels={self.num_channels} must be a multiple of num_heads={self.num_heads}")
        num_head_channels, num_needed = self.num_channels // self.num_heads, 2 * math.ceil(self.num_rotary_channels / 2)
        if not 0 < num_needed <= num_head_channels:
            raise ValueError(
                f"num_channels={self.num_channels} with num_heads={self.num_heads} leave {num_head_channels} channels "
                f"per head, the rotary position embedding needs {max(num_needed, 2)}"
            )

    @property
    def num_rotary_channels(self) -> int:
        """Channels per head that the rotary position embedding rotates."""
        num_head_channels = self.num_channels // self.num_heads
        return num_head_channels // 2 if self.abs_pos_emb else num_head_channels


@dataclass
class ClassificationDecoderConfig(DecoderConfig):
    """Decoder whose outputs are the logits of classes.

    Attributes:
        num_output_queries: Number of learned output queries O, each with logits of its own.
        num_output_query_channels: Query channels F.
        num_classes: Number of classes.
    """

    num_output_queries: int = 1
    num_output_query_channels: int = 256
    num_classes: int = 100


def check_offloading(activation_checkpointing: bool, activation_offloading: bool) -> None:
    """Raises ValueError if there is offloading without checkpointing."""
    if activation_offloading and not activation_checkpointing:
        raise ValueError("activation_offloading needs activation_checkpointing")
