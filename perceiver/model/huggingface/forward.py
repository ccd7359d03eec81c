"""What the forward passes of all Hugging Face models share: arguments, inputs, hidden states and attention weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from perceiver.model.core.attention_maps import AttentionMaps, record_attention

if TYPE_CHECKING:
    from perceiver.model.huggingface.model import PerceiverBackendModel


# What libraries pass to any model, wanted or not.
_COMMON_ARGUMENTS = ("cache_position", "head_mask", "inputs_embeds", "position_ids", "use_cache")


def model_forward(*further: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a model's `forward`: `return_dict`, `output_hidden_states`, `output_attentions`, Trainer's
    `num_items_in_batch`, and what libraries pass to all models.

    `forward` names the arguments that it has, and takes others as `**kwargs`, of which it gets none but those called
    `further`. Any argument may be None or False: what is not asked for needs no support.

    Raises:
        ValueError: if something is asked for that other models can do, a mask of heads for example, or attention
            weights of a pass in windows.
        TypeError: if something is asked for that is no argument of models.
    """

    def decorator(forward: Callable[..., Any]) -> Callable[..., Any]:
        names = {*inspect.signature(forward).parameters, *further}
        records = "output_hidden_states" not in names

        @can_return_tuple
        @wraps(forward)
        def wrapper(self: PerceiverBackendModel, *args: Any, **kwargs: Any) -> Any:
            hidden_states = kwargs.pop("output_hidden_states", None) if records else False
            attentions = kwargs.pop("output_attentions", None)
            num_items = kwargs.pop("num_items_in_batch", None)
            for name in [name for name in kwargs if name not in names]:
                value = kwargs.pop(name)
                if value is not None and value is not False:
                    error = ValueError if name in _COMMON_ARGUMENTS else TypeError
                    raise error(f"{type(self).__name__} does not support {name}")
            if records and hidden_states is None:
                hidden_states = self.config.output_hidden_states
            if attentions is None:
                attentions = self.config.output_attentions
            with ExitStack() as stack:
                states = stack.enter_context(recorded(self.hidden_modules())) if hidden_states else None
                maps = stack.enter_context(record_attention(self)) if attentions else None
                outputs = forward(self, *args, **kwargs)
            if states is not None:
                outputs["hidden_states"] = tuple(states)
            if maps is not None:
                outputs["attentions"], outputs["cross_attentions"] = attentions_of(maps)
            if num_items is not None and outputs.get("loss") is not None:  # none where Trainer smooths labels itself
                outputs["loss"] = outputs["loss"] * share_of(kwargs["labels"], num_items, self.loss_type)
            return outputs

        return wrapper

    return decorator


def share_of(labels: Tensor, num_items: Tensor | int, loss_type: str | None) -> Tensor:
    """The share of a batch in the loss of several, which Trainer accumulates: that of its labels in `num_items` of all.

    Labels are counted as Trainer does: all but -100, those of a causal model from the second position on. So the losses
    of the batches add up to one mean, over the labels that the model learns from if none is beyond its latents.
    """
    labels = labels[..., 1:] if loss_type == "ForCausalLM" else labels
    return (labels != -100).sum() / torch.as_tensor(num_items, device=labels.device).clamp(min=1)


def attentions_of(maps: AttentionMaps) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Self- and cross-attention of a pass, each layer by layer, as transformers' Perceiver gives them."""
    if any(len(calls) > 1 and "decoder" not in name for name, calls in maps.calls.items()):
        raise ValueError(
            "output_attentions is not supported where a sequence is processed in windows: give prefix_len, or use "
            "perceiver.model.core.attention_maps.record_attention"
        )
    is_self = {name: "self_attention" in name for name in maps}
    return tuple(maps[n] for n in maps if is_self[n]), tuple(maps[n] for n in maps if not is_self[n])


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Gives a list to which each call of one of the modules adds its output."""
    states: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _, args, output: states.append(output)) for module in modules]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def text_input(
    input_ids: Tensor | None, inputs_embeds: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """Token ids (B, M), or their embeddings (B, M, C): exactly one is given.

    Raises:
        ValueError: if both are given or none, or if there are other positions than 0 to M - 1.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    x = inputs_embeds if input_ids is None else input_ids
    assert x is not None
    if position_ids is not None and not (position_ids == torch.arange(x.shape[1], device=x.device)).all():
        raise ValueError(f"position_ids must be 0 to {x.shape[1] - 1}: positions can't be chosen")
    return x


def pad_mask_of(attention_mask: Tensor | None) -> Tensor | None:
    """attention_mask (B, M), 0 = padding -> pad_mask (B, M), True = padding"""
    return None if attention_mask is None else attention_mask == 0
