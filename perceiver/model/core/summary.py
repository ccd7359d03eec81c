"""Sizes of a model by the papers' letters (Perceiver IO, arXiv 2107.14795, section 3; Perceiver AR, arXiv 2202.07765).

>>> print(summary(model, torch.zeros(1, 2048, dtype=torch.long)))
M inputs           2,048
C input channels     768
...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from perceiver.model.core.bixt import BiXTEncoder
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.perceiver_ar import PerceiverAR
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverEncoder
from perceiver.model.core.resampler import PerceiverResampler
from perceiver.model.core.sampling import evaluation_mode

_NAMES = {
    "M": "inputs",
    "C": "input channels",
    "N": "latents",
    "D": "latent channels",
    "O": "outputs",
    "F": "query channels",
    "E": "output channels",
}


@dataclass(frozen=True)
class Summary:
    """Sizes of a model for a certain input; None of what it doesn't have. As a string, a table of them.

    Attributes:
        M: Inputs.
        C: Input channels.
        N: Latents.
        D: Latent channels.
        O: Outputs.
        F: Query channels.
        E: Output channels.
        parameters: Number of parameters.
        trained: How many of them are trained.
    """

    M: int
    C: int
    N: int
    D: int
    O: int | None  # noqa: E741  # the paper's letter
    F: int | None
    E: int | None
    parameters: int
    trained: int

    def __str__(self) -> str:
        sizes = {name: value for name, value in vars(self).items() if value is not None}
        rows = {f"{name} {_NAMES[name]}" if name in _NAMES else name: value for name, value in sizes.items()}
        width, digits = max(map(len, rows)), max(len(f"{value:,}") for value in rows.values())
        return "\n".join(f"{name:{width}}  {value:{digits},}" for name, value in rows.items())


def summary(model: nn.Module, *args: Any, **kwargs: Any) -> Summary:
    """Runs a model once and says how big what went through it was.

    Args:
        model: Any model that has an encoder, a resampler or a Perceiver AR in it, and maybe a decoder: a part alone, a
            task's backend model, the Lightning or Hugging Face model around it, or a module of your own. Of several
            encoders or decoders it is the first that counts.
        args: An input of the model, of a Hugging Face model of its backend model, as are `kwargs`. On the meta device
            (as the model then has to be) nothing is computed.
    """
    model = getattr(model, "backend_model", model)
    encoder = _first(model, PerceiverEncoder | BiXTEncoder | PerceiverAR | PerceiverResampler)
    decoder = _first(model, PerceiverDecoder | CausalSequenceModel)
    if encoder is None:
        raise ValueError(f"{type(model).__name__} has no Perceiver encoder, Perceiver AR or resampler in it")
    # A layer's output has the shape of its queries: in Perceiver AR these are latents.
    watched = {"latents": getattr(encoder, "cross_attention", encoder)}
    if not isinstance(encoder, PerceiverResampler):
        watched["inputs"] = encoder.input_adapter
    if decoder is not None:
        watched["queries"] = decoder.cross_attention if isinstance(decoder, PerceiverAR) else decoder.cross_attn
        watched["outputs"] = decoder.output_adapter
    shapes: dict[str, list[torch.Size]] = {"inputs": [], "latents": [], "queries": [], "outputs": []}

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda _, args, output: shapes[name].append(output.shape))

    hooks = [watch(name, module) for name, module in watched.items()]
    if isinstance(encoder, PerceiverResampler):
        hooks.append(encoder.register_forward_pre_hook(lambda _, args: shapes["inputs"].append(args[0].shape)))
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = list(model.parameters())
    *_, num_inputs, num_input_channels = shapes["inputs"][0]
    *_, num_latents, num_latent_channels = shapes["latents"][0]
    return Summary(
        M=num_inputs,
        C=num_input_channels,
        N=num_latents,
        D=num_latent_channels,
        O=sum(shape[1] for shape in shapes["queries"]) or None,  # more than one of a decoding in parts
        F=shapes["queries"][0][-1] if shapes["queries"] else None,
        E=shapes["outputs"][0][-1] if shapes["outputs"] else None,
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _first(model: nn.Module, kind: Any) -> Any:
    return next((module for module in model.modules() if isinstance(module, kind)), None)
