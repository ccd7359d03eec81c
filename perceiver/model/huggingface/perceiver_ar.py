"""Hugging Face models around a `CausalSequenceModel`: hidden states and caches, with logits or without."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.evaluation import sequence_latents
from perceiver.model.core.packing import latent_indices
from perceiver.model.core.position import positions
from perceiver.model.huggingface.cache import CacheLayer, PerceiverARCache, StaticCacheLayer
from perceiver.model.huggingface.forward import model_forward, pad_mask_of, recorded, text_input
from perceiver.model.huggingface.model import PerceiverBackendModel


class PerceiverARModel(PerceiverBackendModel):
    """Base of Hugging Face models around a `CausalSequenceModel`, with logits or without."""

    backend_model: CausalSequenceModel

    def get_input_embeddings(self) -> nn.Module:
        return self.backend_model.txt_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backend_model.input_adapter.txt_embedding = value

    def hidden_modules(self) -> list[nn.Module]:
        """Latents after the cross-attention and each self-attention layer, the last ones after the output norm."""
        model = self.backend_model
        return [model.cross_attention, *list(model.self_attention)[:-1], model.out_norm]

    def new_cache(self, max_length: int | None = None) -> PerceiverARCache:
        """An empty cache. `max_length`: number of tokens that it will have to take up, if that is known."""
        return PerceiverARCache([CacheLayer(window, max_length) for window in self.backend_model.windows])

    def new_static_cache(self, compile_options: dict[str, Any] | None = None) -> PerceiverARCache:
        """An empty cache whose steps can be compiled: they are if there are arguments of `torch.compile`."""
        layers = [StaticCacheLayer(ring) for ring in self.backend_model.new_rings()]
        return PerceiverARCache(layers, compile_options=compile_options)

    def hidden_states(
        self,
        x: Tensor,
        *,
        prefix_len: int | None,
        attention_mask: Tensor | None,
        past_key_values: PerceiverARCache | None,
        use_cache: bool | None,
        output_hidden_states: bool | None,
        wants_all: bool = True,
        num_logits: int | None = None,
        lengths: list[int] | None = None,
        num_blocks: int = 1,
        **given: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], Tensor | None, PerceiverARCache | None]:
        """Hidden states (B, N, D), without `output_hidden_states` the last ones alone, and the cache. See `forward`.

        Between them are the logits of the last `num_logits` positions, 0: of all, if those are made in one go with the
        states. That is so with a cache, whose steps may be compiled, unless all hidden states are asked for.
        `lengths` are those of packed documents (`packed_lengths`), of which N latents have states. Of several blocks of
        latents there are the last states only.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        model, cache, num_new = self.backend_model, past_key_values, x.shape[1]
        if cache is not None and not isinstance(cache, PerceiverARCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, it must be a PerceiverARCache: what this "
                "model returned or its new_cache() gives"
            )
        if cache is not None and [layer.window for layer in cache.layers] != model.windows:
            raise ValueError("past_key_values is the cache of another model: its layers have other windows")
        num_cached = 0 if cache is None else cache.num_seen
        if attention_mask is not None:
            attention_mask = attention_mask[:, -(num_cached + num_new) :]
        if lengths is not None:
            if cache is not None or use_cache or prefix_len is not None:
                raise ValueError("packed documents take no cache, no use_cache=True and no prefix_len")
            x = rearrange(x, "b m ... -> 1 (b m) ...")
            with recorded(self.hidden_modules()) as states:
                model.latents_packed(x, lengths)
            return tuple(states) if output_hidden_states else (states[-1],), None, None
        pad_mask = pad_mask_of(attention_mask)
        _check_positions(x, pad_mask, num_cached, 0 if cache is None else cache.get_seq_length(), **given)

        in_windows = prefix_len is None and not num_cached and num_new > model.max_latents
        if in_windows and (use_cache or cache is not None):
            if wants_all:
                raise ValueError(
                    f"{num_new} tokens are more than max_latents={model.max_latents}, and a cache is asked for: give "
                    "prefix_len, the number of tokens that predict nothing, or logits_to_keep, or use_cache=False"
                )
            in_windows = False
        if num_cached or prefix_len is None:
            prefix_len = 0 if num_cached else max(num_new - model.max_latents, 0)
        if use_cache is None:  # with a cache there may be more latents than max_latents: only if that is asked for
            fits = num_new - prefix_len <= model.max_latents and not in_windows
            use_cache = self.config.use_cache and not self.training and fits
        if cache is None and use_cache:
            cache = self.new_cache()

        layers = None if cache is None else cache.layers
        if num_blocks > 1 and (cache is not None or output_hidden_states):
            raise ValueError(f"a loss of {num_blocks} blocks of latents supports no cache and no output_hidden_states")

        def run(x: Tensor, prefix_len: int, pad_mask: Tensor | None) -> tuple[Tensor, ...]:
            if not output_hidden_states:
                return (model.latents(x, prefix_len, pad_mask, layers, num_blocks),)
            with recorded(self.hidden_modules()) as states:
                model.latents(x, prefix_len, pad_mask, layers)
            return tuple(states)

        if in_windows:
            return sequence_latents(model, x, pad_mask, run), None, cache
        if num_logits is None or cache is None or output_hidden_states:
            return run(x, prefix_len, pad_mask), None, cache
        latents, logits = model.outputs(
            x, prefix_len, pad_mask, layers, num_logits=num_logits, compile_options=cache.compile_options
        )
        return (latents,), logits, cache


def packed_lengths(
    x: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **given: Any
) -> list[int] | None:
    """Lengths of packed documents: there are several in a row if positions begin with 0 anew within it.

    So transformers' `DataCollatorWithFlattening` and the packing of TRL tell documents apart. This waits for a device.

    Args:
        x: Tokens (B, M).
        attention_mask: With padding, positions that begin anew are those behind padding: there are no documents.
        position_ids: (B, M)
    """
    if position_ids is None or position_ids.shape != x.shape[:2]:
        return None
    starts = position_ids == 0
    starts[:, 0] = True
    if int(starts.sum()) == len(starts) or (attention_mask is not None and not attention_mask.all()):
        return None
    first = starts.flatten().nonzero()[:, 0]
    lengths: list[int] = first.diff(append=first.new_tensor([starts.numel()])).tolist()
    expected = torch.cat([torch.arange(length) for length in lengths]).to(position_ids.device)
    if not torch.equal(position_ids.flatten(), expected):
        raise ValueError("position_ids of packed documents must count the tokens of each from 0 on, without padding")
    return lengths


def packed_labels(labels: Tensor, lengths: list[int], max_latents: int) -> Tensor:
    """Labels (B, M) of the tokens of packed documents -> labels (1, N) of their latents: each the next token's."""
    following = labels.flatten().roll(-1)
    following[torch.tensor(lengths).cumsum(0).to(labels.device) - 1] = -100
    return following[None, latent_indices(lengths, max_latents, device=labels.device)]


def _check_positions(
    x: Tensor,
    pad_mask: Tensor | None,
    num_cached: int,
    num_before: int,
    position_ids: Tensor | None = None,
    cache_position: Tensor | None = None,
) -> None:
    """What libraries give must be what the model takes anyway: it counts tokens, without padding, from 0 on."""
    if position_ids is not None:
        start = num_before if pad_mask is None else num_cached
        wrong = position_ids != positions(x.shape[1], pad_mask, start=start, device=x.device)
        if (wrong if pad_mask is None else wrong & ~pad_mask[:, num_cached:]).any():
            raise ValueError(
                "position_ids must count the tokens of each example from 0 on, without padding, or those of each of "
                "several packed documents"
            )
    if cache_position is not None:
        expected = torch.arange(num_before, num_before + x.shape[1], device=x.device)
        if not torch.equal(cache_position, expected):
            raise ValueError(f"cache_position must be {num_before} and so on, as the cache says")


class PerceiverARBody(PerceiverARModel):
    """The body of a causal model, what `AutoModel` gives: `last_hidden_state` is what logits are made of."""

    _keys_to_ignore_on_load_unexpected = [
        *(PerceiverBackendModel._keys_to_ignore_on_load_unexpected or ()),
        r"^backend_model[.]output_adapter[.]",
    ]

    @classmethod
    def backend(cls, model: nn.Module) -> nn.Module:
        """The same parts without the output's bias."""
        body = copy(model)
        body._modules = {name: part for name, part in model._modules.items() if name != "output_adapter"}
        return body

    @model_forward("position_ids", "cache_position")
    def forward(
        self,
        input_ids: Tensor | None = None,
        prefix_len: int | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: PerceiverARCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """The arguments of the model's `forward` -> `last_hidden_state` (B, N, D), by default of all positions"""
        x = text_input(input_ids, inputs_embeds)
        states, _, cache = self.hidden_states(
            x,
            lengths=packed_lengths(x, attention_mask, **kwargs),
            prefix_len=prefix_len,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states[-1],
            past_key_values=cache,
            hidden_states=states if len(states) > 1 else None,
        )
