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
from torch import Tensor, nn

from perceiver.model.core.perceiver_ar import CausalSequenceModel
from perceiver.model.core.perceiver_io import PerceiverIO
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
    """Sizes of a model for a certain input. As a string, a table of them.

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
    O: int  # noqa: E741  # the paper's letter
    F: int
    E: int
    parameters: int
    trained: int

    def __str__(self) -> str:
        rows = {f"{name} {_NAMES[name]}" if name in _NAMES else name: value for name, value in vars(self).items()}
        width, digits = max(map(len, rows)), max(len(f"{value:,}") for value in rows.values())
        return "\n".join(f"{name:{width}}  {value:{digits},}" for name, value in rows.items())


def summary(model: nn.Module, *args: Any, **kwargs: Any) -> Summary:
    """Runs a model once and says how big what went through it was.

    Args:
        model: Perceiver IO or Perceiver AR: backend model, or the Lightning or Hugging Face model around it.
        args: An input of the backend model, as are `kwargs`. On the meta device (as the model then has to be) nothing
            is computed.
    """
    backend = getattr(model, "backend_model", model)
    if not isinstance(backend, PerceiverIO | CausalSequenceModel):
        raise ValueError(f"{type(model).__name__} is neither a Perceiver IO nor a Perceiver AR")
    seen: dict[str, list[Tensor]] = {"input": [], "latents": [], "query": [], "output": []}

    def watch(module: nn.Module, name: str) -> Any:
        return module.register_forward_hook(lambda _, inputs, output: seen[name].append(output))

    if isinstance(backend, PerceiverIO):
        hooks = [
            watch(backend.encoder.input_adapter, "input"),
            watch(backend.encoder, "latents"),
            watch(backend.decoder.cross_attn, "query"),  # its output has the query's shape
            watch(backend.decoder.output_adapter, "output"),
        ]
    else:
        hooks = [watch(backend.input_adapter, "input"), watch(backend.cross_attention, "latents")]
        hooks += [watch(backend.cross_attention, "query"), watch(backend.output_adapter, "output")]
    try:
        with torch.no_grad(), evaluation_mode(backend):
            backend(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = list(backend.parameters())
    _, num_inputs, num_input_channels = seen["input"][0].shape
    _, num_latents, num_latent_channels = seen["latents"][0].shape
    return Summary(
        M=num_inputs,
        C=num_input_channels,
        N=num_latents,
        D=num_latent_channels,
        O=sum(query.shape[1] for query in seen["query"]),  # of a decoding in parts
        F=seen["query"][0].shape[2],
        E=seen["output"][0].shape[-1],
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )
