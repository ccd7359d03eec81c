"""DeepMind's pickles of Perceiver IO become our own models (arXiv 2107.14795): names of Haiku, and configurations.

Their parameters have the names that modules of Haiku have. transformers' public script
`convert_perceiver_haiku_to_pytorch.py` says which of its own they are; so names go from Haiku's to transformers' here,
and from there to ours. Which models there are: `deepmind_kinds.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from transformers import PerceiverConfig

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.foreign.huggingface.deepmind_kinds import Kind
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.names import perceiver_names
from perceiver.model.text.mlm.huggingface import PerceiverMaskedLanguageModel

# Parts of an attention layer: the norms are numbered in the order in which they are called.
_CROSS = {
    "attention.self.layernorm1": "layer_norm",
    "attention.self.layernorm2": "layer_norm_1",
    "layernorm": "layer_norm_2",
}
_SELF = {"attention.self.layernorm1": "layer_norm", "layernorm": "layer_norm_1"}
_PARTS = {
    "attention.self.query": "attention/linear",
    "attention.self.key": "attention/linear_1",
    "attention.self.value": "attention/linear_2",
    "attention.output.dense": "attention/linear_3",
    "mlp.dense1": "mlp/linear",
    "mlp.dense2": "mlp/linear_1",
}
_LINEAR = {"weight": "w", "bias": "b"}
_NORM = {"weight": "scale", "bias": "offset"}

# Fields of transformers' configuration that are sizes of every kind, see `Kind`.
_SIZES = {
    "num_latents": ("perceiver.embeddings.latents", 0),
    "d_latents": ("perceiver.embeddings.latents", 1),
    "d_model": ("perceiver.encoder.cross_attention.attention.self.key.weight", 0),
}


def haiku_name(theirs: str, kind: Kind) -> str:
    """The name `scope/parameter` of a parameter of transformers' class.

    Raises:
        ValueError: if the kind has no such parameter.
    """
    scopes = {
        "perceiver.embeddings.latents": f"{kind.encoder}/~/trainable_position_encoding/pos_embs",
        "perceiver.encoder.cross_attention": f"{kind.encoder}/~/cross_attention",
        **kind.scopes,
    }
    if match := re.fullmatch(r"perceiver\.encoder\.self_attends\.(\d+)\.(.+)", theirs):
        number = f"_{match[1]}" if match[1] != "0" else ""
        return f"{kind.encoder}/~/self_attention{number}/{_in_layer(match[2], _SELF)}"
    for module, scope in scopes.items():
        if theirs == module:
            return scope
        if theirs.startswith(f"{module}."):
            rest = theirs.removeprefix(f"{module}.")
            if scope.endswith("cross_attention"):
                return f"{scope}/{_in_layer(rest, _CROSS)}"
            return f"{scope}/{(_NORM if scope.endswith('batchnorm') else _LINEAR)[rest]}"
    raise ValueError(f"DeepMind's {kind.name} has no {theirs}")


def _in_layer(name: str, norms: Mapping[str, str]) -> str:
    module, parameter = name.rsplit(".", 1)
    if module in norms:
        return f"{norms[module]}/{_NORM[parameter]}"
    return f"{_PARTS[module]}/{_LINEAR[parameter]}"


def from_haiku(parameters: Mapping[str, Tensor], kind: Kind, backend: nn.Module) -> dict[str, Tensor]:
    """Parameters of a pickle under the names of our backend model.

    Raises:
        ValueError: if one is missing, has another size, or has no name of ours.
    """
    left = {name: value for name, value in parameters.items() if not name.endswith(("/hidden", "var_ema/counter"))}
    own = backend.state_dict()
    result = {}
    for ours, theirs in perceiver_names(own, kind.weights.modules).items():
        name = haiku_name(theirs, kind)
        if name not in left:
            raise ValueError(f"the parameter {name} is missing")
        value = left.pop(name)
        if name.endswith("/w"):
            value = rearrange(value, "i o -> o i" if value.ndim == 2 else "h w i o -> o i h w")
        if value.numel() != own[ours].numel():
            raise ValueError(
                f"the parameter {name} has the shape {tuple(value.shape)}, expected {tuple(own[ours].shape)}"
            )
        result[ours] = value.reshape(own[ours].shape)  # norms of images are (1, 1, 1, C), 1x1 convolutions are linear
    if left:
        raise ValueError(f"the parameter {next(iter(left))} can't be converted: our {kind.name} has none like it")
    return result


def official_config(parameters: Mapping[str, Tensor], kind: Kind, given: Mapping[str, Any]) -> PerceiverConfig:
    """The configuration of transformers' class: what shapes tell, what is given, and DeepMind's values for the rest.

    Raises:
        ValueError: if something else is given than shapes tell, or there is no such field.
    """
    layer = re.compile(r"~/self_attention(_\d+)?/mlp/linear/w$")
    told = {"num_self_attends_per_block": sum(layer.search(name) is not None for name in parameters)}
    for field, (theirs, dim) in {**_SIZES, **kind.sizes}.items():
        name = haiku_name(theirs, kind)
        if name not in parameters or parameters[name].ndim <= dim:
            raise ValueError(f"the parameter {name} is missing")
        told[field] = parameters[name].shape[dim]
    if "image_size" in told:  # the number of positions, a square
        told["image_size"] = isqrt(told["image_size"])
    for name, value in given.items():
        if name in told and told[name] != value:
            raise ValueError(f"{name}={value!r} was given, but the parameters say {told[name]!r}")
        if not hasattr(PerceiverConfig(), name):
            raise ValueError(f"there is no argument {name}: arguments are those of transformers.PerceiverConfig")
    return PerceiverConfig(**{**kind.values, **given, **told})


def converted(
    parameters: Mapping[str, Tensor], kind: Kind, given: Mapping[str, Any], source: str
) -> tuple[PerceiverBackendModel, PerceiverConfig]:
    """Our model with the parameters of a pickle, and the configuration of transformers' class."""
    config = official_config(parameters, kind, given)
    names: dict[str, Any] = {}
    if kind.model_class is PerceiverMaskedLanguageModel:
        names["tokenizer_class"] = "PerceiverTokenizer"
    backend_config = kind.adapted(kind.weights.config(config))
    model = kind.model_class(kind.model_class.config_class(backend_config, **names))
    load_parameters(model.backend_model, from_haiku(parameters, kind, model.backend_model), source)
    return model.eval(), config
