"""What `generate` of a causal model is asked for: what it can't do is an error before anything is computed."""

from __future__ import annotations

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode

from perceiver.checks import check_integer
from perceiver.model.huggingface.cache import PerceiverARCache

_MODES = {
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
    GenerationMode.CONTRASTIVE_SEARCH,
    GenerationMode.ASSISTED_GENERATION,
}

# Modes that take back what they have cached, which a ring may have overwritten, or steps of changing length. Their
# passes are not one for each token, either.
NOT_STATIC = {GenerationMode.CONTRASTIVE_SEARCH, GenerationMode.ASSISTED_GENERATION}

# What logits can be divided by without an overflow, after which there are no probabilities to draw from.
LEAST_TEMPERATURE = 1e-30


def check_request(
    config: GenerationConfig, mode: GenerationMode, reset_latents: bool, cache: object, vocab_size: int
) -> None:
    """Raises ValueError if mode, cache and options don't go together."""
    if mode not in _MODES:
        raise ValueError(f"{mode.value} is not supported, only {', '.join(sorted(mode.value for mode in _MODES))}")
    if config.prefill_chunk_size is not None:
        raise ValueError(f"prefill_chunk_size={config.prefill_chunk_size} is not supported: the prefix needs no chunks")
    if cache is not None and not isinstance(cache, PerceiverARCache):
        raise ValueError(f"past_key_values is a {type(cache).__name__}, it must be a PerceiverARCache")
    lengths = {name: getattr(config, name) for name in ("max_length", "max_new_tokens")}
    check_integer(**{name: length for name, length in lengths.items() if length is not None})
    if config.do_sample and config.temperature is not None and 0.0 < config.temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"temperature={config.temperature} must be at least {LEAST_TEMPERATURE}: do_sample=False takes the most "
            "probable token"
        )
    _check_static(config, mode, cache)
    _check_cache(config, cache)
    if mode == GenerationMode.CONTRASTIVE_SEARCH:
        _check_contrastive_search(config, cache, vocab_size)
    if reset_latents and not config.use_cache:
        raise ValueError("reset_latents=True needs use_cache=True: without cache there is nothing to reset")
    if reset_latents and mode in (GenerationMode.CONTRASTIVE_SEARCH, GenerationMode.ASSISTED_GENERATION):
        raise ValueError(f"reset_latents=True is not supported by {mode.value}")


def _check_static(config: GenerationConfig, mode: GenerationMode, cache: PerceiverARCache | None) -> None:
    if config.cache_implementation not in (None, "dynamic", "static"):
        raise ValueError(
            f"cache_implementation={config.cache_implementation!r} is not supported, only 'dynamic' and 'static': "
            "this model has its own cache"
        )
    if config.cache_implementation == "static" and not config.use_cache:
        raise ValueError("cache_implementation='static' with use_cache=False: there is no use for the cache")
    is_given = cache is not None and cache.is_compileable
    if config.cache_implementation == "static" and cache is not None and not is_given:
        raise ValueError("cache_implementation='static', but past_key_values is a dynamic cache")
    is_static = config.cache_implementation == "static" or is_given
    if config.output_attentions and (is_static or mode in NOT_STATIC):
        raise ValueError(f"output_attentions is not supported by {'a static cache' if is_static else mode.value}")
    if is_given and mode in NOT_STATIC:
        raise ValueError(f"{mode.value} needs a dynamic cache, past_key_values is a static one")


def _check_cache(config: GenerationConfig, cache: PerceiverARCache | None) -> None:
    if cache is not None and not config.use_cache:
        raise ValueError("past_key_values with use_cache=False: there is no use for the cache")
    if cache is not None and cache.num_seen and cache.is_of_beams:
        raise ValueError("a cache of beam search can't be continued: its rows are beams, not the returned sequences")


def _check_contrastive_search(config: GenerationConfig, cache: PerceiverARCache | None, vocab_size: int) -> None:
    if not config.use_cache:
        raise ValueError("contrastive search needs use_cache=True")
    if cache is not None and cache.num_seen:
        raise ValueError("contrastive search can't continue from a filled cache: it needs all hidden states")
    if config.stop_strings is not None:
        raise ValueError("stop_strings are not supported by contrastive search")
    if config.penalty_alpha > 1.0:
        raise ValueError(f"penalty_alpha={config.penalty_alpha} of contrastive search must be in (0, 1]")
    if config.top_k is not None and config.top_k > vocab_size:
        raise ValueError(f"top_k={config.top_k} of contrastive search exceeds the vocabulary of {vocab_size} tokens")


def checked_prompt(prompt: object) -> Tensor:
    """The prompt; raises ValueError if it is no tensor (B, n) with tokens."""
    if prompt is None or (isinstance(prompt, Tensor) and prompt.numel() == 0):
        raise ValueError("the prompt is empty, it must have at least one token and the shape (B, n)")
    if not isinstance(prompt, Tensor) or prompt.ndim != 2:
        what = f"has shape {tuple(prompt.shape)}" if isinstance(prompt, Tensor) else f"is a {type(prompt).__name__}"
        raise ValueError(f"the prompt {what}, it must be a tensor of shape (B, n)")
    return prompt


def check_padding(prompt: Tensor, attention_mask: Tensor | None, config: GenerationConfig, num_before: int) -> None:
    """Raises ValueError if prompts (B, n) after `num_before` tokens are empty, or padded on the right."""
    if attention_mask is None:
        # transformers takes these tokens for padding.
        eos_token_id = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if config.pad_token_id is None or config.pad_token_id in eos_token_id:
            return
        attention_mask = prompt != config.pad_token_id
    expected = (prompt.shape[0], num_before + prompt.shape[1])
    if attention_mask.shape != expected:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected (B, n) = {expected}, for all tokens"
        )
    if not attention_mask.any(dim=1).all():
        raise ValueError("a prompt is empty, every one must have at least one token besides padding")
    if not attention_mask[:, -1].all():
        raise ValueError("prompts are padded on the right, they must be padded on the left: padding_side='left'")


def check_continuation(
    prompt: Tensor, num_cached: int, num_latents: int | None, only_new_ids: bool, reset_latents: bool
) -> None:
    """Raises ValueError if tokens (B, n) don't continue `num_cached` cached ones."""
    if num_latents is not None:
        raise ValueError(f"num_latents={num_latents} has no effect with a filled cache: all tokens are latents")
    if only_new_ids and reset_latents:
        raise ValueError("reset_latents=True needs all tokens, also those that are cached")
    if not only_new_ids and prompt.shape[1] <= num_cached:
        raise ValueError(
            f"of {prompt.shape[1]} tokens, {num_cached} are cached: pass all tokens, or only new ones with the "
            "attention_mask of all"
        )
