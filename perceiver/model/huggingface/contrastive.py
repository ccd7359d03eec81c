"""Contrastive search (A contrastive framework for neural text generation, arXiv 2202.06417, section 3.2).

Of the most probable next tokens, the one is chosen whose probability is high and whose hidden state is unlike those of
the tokens before. transformers moved its implementation to a hub repository; here Perceiver AR models bring their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput


def contrastive_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decoding loop for `generate(custom_generate=...)`; `generate(penalty_alpha=..., top_k=...)` uses it by itself.

    The cache holds `top_k` copies of every example, which differ in the last position only.

    Args:
        model: A `CausalSequenceGenerationModel`.
        input_ids: Prompts (B, n).
        logits_processor: Applied to logits.
        stopping_criteria: End of generation.
        generation_config: `penalty_alpha` and `top_k` are those of the paper, alpha and k.
        streamer: Gets every token.
        model_kwargs: As `generate` prepares them, with a cache.

    Returns:
        Sequences (B, n + new tokens), or an output object if `generation_config` asks for it.
    """
    alpha, k = generation_config.penalty_alpha, generation_config.top_k
    assert alpha is not None and k is not None
    batch_size = len(input_ids)
    rows = torch.arange(batch_size, device=input_ids.device)
    pad_token = generation_config._pad_token_tensor
    has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    unfinished = torch.ones(batch_size, dtype=torch.bool, device=input_ids.device)
    model_kwargs["output_hidden_states"] = True
    scores: tuple[Tensor, ...] = ()
    raw_logits: tuple[Tensor, ...] = ()
    hidden_states: tuple[tuple[Tensor, ...], ...] = ()

    cache = model_kwargs["past_key_values"]  # empty
    attention_mask = model_kwargs.get("attention_mask")
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    outputs = model(**inputs, return_dict=True)
    logits = outputs.logits[:, -1]  # B V
    states = outputs.hidden_states  # of the prompt, then of each token that is chosen
    hidden = F.normalize(states[-1].float(), dim=-1)  # B N D
    is_padding = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)  # B N
    if attention_mask is not None:
        is_padding = attention_mask[:, -hidden.shape[1] :] == 0
    cache.batch_repeat_interleave(k)

    while True:
        processed = logits_processor(input_ids, logits.to(torch.float32, copy=True))  # type: ignore[arg-type]
        if generation_config.output_scores:
            scores += (processed,)
        if generation_config.output_logits:
            raw_logits += (logits,)
        if generation_config.output_hidden_states:
            hidden_states += (states,)
        probs, candidates = processed.softmax(dim=-1).topk(k, dim=-1)  # B k
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        mask = model_kwargs.get("attention_mask")
        inputs = model.prepare_inputs_for_generation(
            rearrange(candidates, "b k -> (b k) 1"),
            next_sequence_length=1,
            **{**model_kwargs, "attention_mask": None if mask is None else repeat(mask, "b n -> (b k) n", k=k)},
        )
        outputs = model(**inputs, return_dict=True)
        candidate_hidden = F.normalize(outputs.hidden_states[-1].float(), dim=-1)
        candidate_hidden = rearrange(candidate_hidden, "(b k) 1 d -> b k d", k=k)
        similarity = candidate_hidden @ rearrange(hidden, "b n d -> b d n")  # B k N
        similarity = similarity.masked_fill(rearrange(is_padding, "b n -> b 1 n"), -1.0).amax(dim=-1)
        chosen = ((1.0 - alpha) * probs - alpha * similarity).argmax(dim=-1)  # B

        next_tokens = candidates[rows, chosen]
        if has_eos:
            assert pad_token is not None
            next_tokens = next_tokens.where(unfinished, pad_token)
        cache_rows = rows * k + chosen
        for layer in cache.layers:
            layer.select_last(cache_rows.repeat_interleave(k))
        logits = outputs.logits[cache_rows, -1]
        states = tuple(state[cache_rows] for state in outputs.hidden_states)
        hidden = torch.cat([hidden, candidate_hidden[rows, chosen][:, None]], dim=1)
        is_padding = torch.cat([is_padding, is_padding.new_zeros(batch_size, 1)], dim=1)
        input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=1)
        if streamer is not None:
            streamer.put(next_tokens.cpu())
        unfinished = unfinished & ~stopping_criteria(input_ids, scores)
        if not unfinished.any():
            break

    if streamer is not None:
        streamer.end()
    cache.batch_select_indices(rows * k)
    cache.crop(-1)  # like after any other search, the last token is not in it
    if not generation_config.return_dict_in_generate:
        return input_ids
    return GenerateDecoderOnlyOutput(
        sequences=input_ids,  # type: ignore[arg-type]
        scores=scores if generation_config.output_scores else None,  # type: ignore[arg-type]
        logits=raw_logits if generation_config.output_logits else None,  # type: ignore[arg-type]
        hidden_states=hidden_states if generation_config.output_hidden_states else None,  # type: ignore[arg-type]
        past_key_values=cache,
    )
