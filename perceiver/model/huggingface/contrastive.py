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
    rows = torch.arange(len(input_ids), device=input_ids.device)
    unfinished = torch.ones_like(rows, dtype=torch.bool)
    has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    recorded = [name for name in ("scores", "logits", "hidden_states") if getattr(generation_config, f"output_{name}")]
    record: dict[str, tuple[Any, ...]] = dict.fromkeys(recorded, ())  # an entry per step
    cache = model_kwargs["past_key_values"]  # empty
    model_kwargs["output_hidden_states"] = True
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    outputs = model(**inputs, return_dict=True)
    logits, states = outputs.logits[:, -1], outputs.hidden_states  # B V; of the prompt, then of the token chosen
    context = _directions(states)  # B N D
    cache.batch_repeat_interleave(k)

    while unfinished.any():
        processed = logits_processor(input_ids, logits.to(torch.float32, copy=True))  # type: ignore[arg-type]
        step = {"scores": processed, "logits": logits, "hidden_states": states}
        record = {name: (*steps, step[name]) for name, steps in record.items()}
        probs, candidates = processed.softmax(dim=-1).topk(k, dim=-1)  # B k
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        outputs = _try_candidates(model, candidates, model_kwargs)
        similarity = _similarity(_directions(outputs.hidden_states), context, model_kwargs.get("attention_mask"))
        chosen = ((1.0 - alpha) * probs - alpha * similarity).argmax(dim=-1)  # B

        cache_rows = rows * k + chosen
        for layer in cache.layers:
            layer.select_last(cache_rows.repeat_interleave(k))
        logits, states = outputs.logits[cache_rows, -1], tuple(state[cache_rows] for state in outputs.hidden_states)
        context = torch.cat([context, _directions(states)], dim=1)
        next_tokens = candidates[rows, chosen]
        if has_eos:
            assert generation_config._pad_token_tensor is not None
            next_tokens = next_tokens.where(unfinished, generation_config._pad_token_tensor)
        input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=1)
        if streamer is not None:
            streamer.put(next_tokens.cpu())
        unfinished = unfinished & ~stopping_criteria(input_ids, record.get("scores", ()))

    if streamer is not None:
        streamer.end()
    cache.batch_select_indices(rows * k)
    cache.crop(-1)  # like after any other search, the last token is not in it
    if not generation_config.return_dict_in_generate:
        return input_ids
    return GenerateDecoderOnlyOutput(sequences=input_ids, past_key_values=cache, **record)  # type: ignore[arg-type]


def _try_candidates(model: Any, candidates: Tensor, model_kwargs: dict[str, Any]) -> Any:
    """Outputs for candidates (B, k) of the next token, each an example of a batch of B * k."""
    mask = model_kwargs.get("attention_mask")
    if mask is not None:
        mask = repeat(mask, "b n -> (b k) n", k=candidates.shape[1])
    inputs = model.prepare_inputs_for_generation(
        rearrange(candidates, "b k -> (b k) 1"), next_sequence_length=1, **{**model_kwargs, "attention_mask": mask}
    )
    return model(**inputs, return_dict=True)


def _directions(hidden_states: tuple[Tensor, ...]) -> Tensor:
    """The last hidden states, (B, N, D), of length 1."""
    return F.normalize(hidden_states[-1].float(), dim=-1)


def _similarity(candidates: Tensor, context: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The largest cosine similarity (B, k) of candidates (B * k, 1, D) to the context (B, N, D), padding excepted.

    The mask (B, at least N + 1) ends with the candidates' column.
    """
    similarity = rearrange(candidates, "(b k) 1 d -> b k d", b=len(context)) @ rearrange(context, "b n d -> b d n")
    if attention_mask is not None:
        is_padding = attention_mask[:, -context.shape[1] - 1 : -1] == 0
        similarity = similarity.masked_fill(rearrange(is_padding, "b n -> b 1 n"), -1.0)
    return similarity.amax(dim=-1)
