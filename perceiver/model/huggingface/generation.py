"""Base of the Hugging Face models over `CausalSequenceModel`: forward pass and generation with transformers' Cache API.

Generation has three modes, which give equal results until there are `max_latents` latents:

cached    (default) Every new token is a new latent. Attention sees the last `max_seq_len` tokens and the last
          `max_latents` latents, each as it was when it entered. Constant work per token.
uncached  `use_cache=False`: the last `max_seq_len` tokens are processed again for every token. A token that is not
          among the last `max_latents` ones becomes prefix.
reset     `reset_latents=True`: as cached, but when the latents are full, half of them become prefix and the others
          are computed again. So no latent ever saw more than in training, at constant amortised work per token.
          A batch is reset as a whole, when its longest example is full.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.utils import logging

from perceiver.model.core.adapter import is_readable
from perceiver.model.core.causal import prompt_prefix_len
from perceiver.model.core.compilation import default_options
from perceiver.model.core.loss import check_labels, token_cross_entropy
from perceiver.model.huggingface.cache import PerceiverARCache
from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.contrastive import contrastive_search
from perceiver.model.huggingface.embeddings import tied_output
from perceiver.model.huggingface.forward import model_forward, text_input
from perceiver.model.huggingface.generation_checks import (
    NOT_STATIC,
    check_continuation,
    check_padding,
    check_request,
    checked_prompt,
)
from perceiver.model.huggingface.perceiver_ar import PerceiverARModel, packed_labels, packed_lengths

logger = logging.get_logger(__name__)


def _warn_of_prefix(labels: Tensor, max_latents: int) -> None:
    """Labels (B, n) that have no effect."""
    if is_readable(labels) and (labels != -100).any():
        logger.warning_once(
            f"The loss is that of the last max_latents={max_latents} positions, as in the training of Perceiver AR; "
            f"{labels.shape[1]} labels before them have no effect. prefix_len says so without this warning. Without "
            "labels, all positions have logits."
        )


class CausalSequenceGenerationModel(PerceiverARModel, GenerationMixin):
    """Hugging Face model around a `CausalSequenceModel`. Leaves register themselves with the Auto classes.

    With `config.num_loss_blocks` above 1, the loss in training, without `prefix_len`, is that of so many blocks of
    `max_latents` positions, the last ones, each with all tokens before it as its prefix; of as many blocks as there are
    in a shorter sequence.
    """

    def __init__(self, config: PerceiverBackendConfig, backend_model: nn.Module | None = None):
        super().__init__(config, backend_model)
        self.loss_type = "ForCausalLM"  # Trainer counts labels from the second position on

    @model_forward("position_ids", "cache_position")
    def forward(
        self,
        input_ids: Tensor | None = None,
        prefix_len: int | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: PerceiverARCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Predicts next tokens.

        A sequence of any length has logits of all its positions: one with more than `max_latents` tokens is processed
        in windows, `max_latents` positions after the other, as `perceiver.model.core.evaluation` scores it. Then the
        logits of a position depend on the tokens up to it and on nothing else. `prefix_len` gives the model's usual
        pass instead, and so do `labels` and a cache.

        Where `position_ids` begin with 0 anew, documents are packed: they know nothing of each other, and each has the
        logits that it has alone, those of its last `max_latents` tokens. All come one after the other, (1, N,
        vocabulary). Labels are not shifted across their ends.

        Args:
            input_ids: Token ids (B, M + N), or the next N of what is in `past_key_values`.
            prefix_len: Number M of tokens without latent, which predict nothing. With `labels` or a cache the default
                is what exceeds `max_latents`, otherwise all tokens predict the next one. Has no effect on the next
                tokens of a cache.
            attention_mask: (B, at least all tokens, cached ones included), 0 where there is padding.
            past_key_values: Cache that an earlier call returned, which takes up the new tokens.
            use_cache: Whether to return a cache. Default: `config.use_cache`, but not in training, nor with `labels`,
                nor of more latents than `max_latents`.
            labels: Token ids (B, M + N), `input_ids` usually, -100 where nothing is to be predicted. They are shifted
                inside: the latent of a token is compared with the label of the next one. Labels of the prefix count for
                nothing, and a warning says so once, unless `prefix_len` is given.
            output_hidden_states: Whether to return latents after each layer, the last one being what logits are made
                of. Default: the config's.
            logits_to_keep: Number of last positions to make logits of, or indices of positions. 0: of all.
            inputs_embeds: Token embeddings (B, M + N, channels) in place of token ids.
            kwargs: `return_dict` and `output_attentions`, see `model_forward`; `position_ids` and `cache_position` if
                they are what the model takes anyway, or `position_ids` (B, M) of packed documents.

        Returns:
            `loss`, if there are labels. `logits` (B, N, vocabulary). `past_key_values`, if asked for. `hidden_states`,
            if asked for: a tensor (B, N, channels) per layer, and one before them.

        Raises:
            ValueError: if prefix or latents are longer than the model allows, a cache of another class is given, or all
                logits of a sequence longer than `max_latents` together with a cache.
        """
        x = text_input(input_ids, inputs_embeds)
        lengths = packed_lengths(x, attention_mask, **kwargs)
        num_blocks = self.config.num_loss_blocks if labels is not None and self.training and prefix_len is None else 1
        if num_blocks > 1 and lengths is not None:
            raise ValueError(f"num_loss_blocks={num_blocks} takes no packed documents")
        if labels is not None:
            check_labels(labels, x)
            if not isinstance(logits_to_keep, int) or logits_to_keep:
                raise ValueError(f"logits_to_keep={logits_to_keep} can't be given with labels, which need all logits")
            use_cache = bool(use_cache)
            num_cached = 0 if past_key_values is None else past_key_values.num_seen
            if prefix_len is None and not num_cached and lengths is None:
                num_blocks = self.backend_model.num_loss_blocks(x.shape[1], num_blocks)
                max_latents = self.backend_model.max_latents
                prefix_len = max(x.shape[1] - num_blocks * max_latents, 0)
                if num_blocks == 1:
                    _warn_of_prefix(labels[:, 1 : prefix_len + 1], max_latents)
        keeps_last = isinstance(logits_to_keep, int)
        states, logits, cache = self.hidden_states(
            x,
            prefix_len=prefix_len,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            wants_all=not keeps_last or not 1 <= logits_to_keep <= self.backend_model.max_latents,
            num_logits=logits_to_keep if isinstance(logits_to_keep, int) else None,
            lengths=lengths,
            num_blocks=num_blocks,
            **kwargs,
        )
        if logits is None:
            latents = states[-1][:, slice(-logits_to_keep, None) if keeps_last else logits_to_keep]  # -0: all
            logits = self.backend_model.logits(latents)
        loss = None
        if labels is not None and lengths is not None:
            loss = token_cross_entropy(logits, packed_labels(labels, lengths, self.backend_model.max_latents))
        elif labels is not None:
            num_labels, labels = labels.shape[1], labels[:, 1:]
            if attention_mask is not None:  # padding is not predicted, and predicts nothing
                is_padding = attention_mask[:, -num_labels:] == 0
                labels = labels.masked_fill(is_padding[:, 1:] | is_padding[:, :-1], -100)
            loss = token_cross_entropy(logits[:, :-1], labels[:, labels.shape[1] - logits.shape[1] + 1 :])
        return CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=states if len(states) > 1 else None,
        )

    def get_output_embeddings(self) -> nn.Module:
        return tied_output(self.backend_model.txt_embedding, self.backend_model.output_adapter)

    def generate(  # type: ignore[override]  # the arguments of transformers' are among `kwargs`
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        num_latents: int | None = None,
        prefix_len: int | None = None,
        reset_latents: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continues prompts. See the modes at the top of this module.

        Args:
            inputs: Prompts (B, n), padded on the left if they differ in length. Also accepted as `input_ids`. A prompt
                longer than `max_seq_len` is continued as its last `max_seq_len` tokens would be. Default: the
                `bos_token_id` of model or generation config, if there is one.
            generation_config: As in transformers.
            num_latents: Number of last prompt tokens that start as latents, 1 to `max_latents`. Default: 1, or as many
                as are needed for the others to fit into the prefix, `max_seq_len - max_latents` tokens.
            prefix_len: Number of prompt tokens that don't start as latents, instead of `num_latents`. This is how
                transformers hands it on to an assistant model.
            reset_latents: Whether latents are reset when they are full.
            kwargs: Arguments of transformers' `generate`.

        Returns:
            What transformers' `generate` returns.

        Raises:
            ValueError: if an argument is out of range, or asks for what this model can't do.
        """
        for name in ("position_ids", "inputs_embeds", "assistant_early_exit"):
            if kwargs.get(name) is not None and kwargs[name] is not False:
                raise ValueError(f"{name} is not supported by {type(self).__name__}")
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        config, _ = self._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        if prompt is None and config.bos_token_id is not None:
            inputs = prompt = torch.full((1, 1), config.bos_token_id, device=self.device)
        prompt = checked_prompt(prompt)
        mode = config.get_generation_mode(kwargs.get("assistant_model"))
        cache, attention_mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        check_request(config, mode, reset_latents, cache, self.backend_model.config.vocab_size)
        if config.cache_implementation == "static" and mode in NOT_STATIC:
            logger.warning_once(f"{mode.value} has no static form: it runs with a dynamic cache, and is not compiled")
            generation_config, kwargs = _with_dynamic_cache(generation_config, kwargs)
        elif config.compile_config is not None and config.cache_implementation != "static" and cache is None:
            logger.warning_once("compile_config has no effect without cache_implementation='static'")
        num_cached = 0 if cache is None else cache.get_seq_length()
        only_new_ids = num_cached > 0 and attention_mask is not None and attention_mask.shape[1] > prompt.shape[1]
        check_padding(prompt, attention_mask, config, num_cached if only_new_ids else 0)
        if num_cached:
            check_continuation(prompt, num_cached, num_latents, only_new_ids, reset_latents)
        else:
            prefix_len = self._prompt_prefix_len(prompt.shape[1], num_latents, prefix_len)
        if mode == GenerationMode.CONTRASTIVE_SEARCH and "custom_generate" not in kwargs:
            kwargs["custom_generate"] = partial(contrastive_search, streamer=kwargs.get("streamer"))
        kwargs |= {
            "prefix_len": prefix_len,
            "reset_latents": reset_latents or None,
            "only_new_ids": only_new_ids or None,
        }
        return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]

    def _prompt_prefix_len(self, prompt_len: int, num_latents: int | None, prefix_len: int | None) -> int:
        """How many tokens of a prompt don't start as latents, by one of two arguments of `generate` or neither."""
        max_seq_len, max_latents = self.backend_model.max_seq_len, self.backend_model.max_latents
        return prompt_prefix_len(prompt_len, num_latents, prefix_len, max_seq_len=max_seq_len, max_latents=max_latents)

    def _prepare_cache_for_generation(  # type: ignore[override]  # transformers' returns nothing, too
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache:
            model_kwargs["past_key_values"] = (
                self.new_static_cache(self._compile_options(generation_config))
                if generation_config.cache_implementation == "static"
                else self.new_cache(max_cache_length)
            )
        cache = model_kwargs.get("past_key_values")
        if cache is not None and not cache.num_seen:
            cache.num_skipped = self._num_skipped(model_kwargs["prefix_len"])
        if cache is not None and generation_config.is_assistant:
            cache.activate_past_recording()

    def _compile_options(self, config: GenerationConfig) -> dict[str, Any] | None:
        if config.disable_compile:
            return None
        return default_options(self.device) if config.compile_config is None else config.compile_config.to_dict()

    def _valid_auto_compile_criteria(self, model_kwargs: dict[str, Any], generation_config: GenerationConfig) -> bool:
        return False  # what is compiled is a step of the backend model, and the cache knows about it

    def _num_skipped(self, prefix_len: int) -> int:
        # Of a longer prompt the model sees the last `max_seq_len` tokens only.
        return max(prefix_len - (self.backend_model.max_seq_len - self.backend_model.max_latents), 0)

    def prepare_inputs_for_generation(  # type: ignore[override]  # names what it takes
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: PerceiverARCache | None = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool | None = False,
        prefix_len: int | None = None,
        reset_latents: bool | None = None,
        only_new_ids: bool | None = None,
        tokenizer: object = None,  # for stop strings: transformers passes it along, but `forward` has no use for it
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next forward pass. `prefix_len` counts tokens of the whole sequence."""
        max_seq_len, max_latents = self.backend_model.max_seq_len, self.backend_model.max_latents
        num_tokens = input_ids.shape[1]
        if prefix_len is None:
            prefix_len = self._prompt_prefix_len(num_tokens, None, None)
        if past_key_values is None:  # uncached: the whole window again
            num_new = min(num_tokens, max_seq_len)
            prefix_len = max(prefix_len - (num_tokens - num_new), num_new - max_latents, 0)
        else:
            if reset_latents and past_key_values.num_latents >= max_latents:
                prefix_len = num_tokens - max(max_latents // 2, 1)
                past_key_values.reset()
                past_key_values.num_skipped = self._num_skipped(prefix_len)
            if past_key_values.num_seen:
                num_new = num_tokens if only_new_ids else num_tokens - past_key_values.get_seq_length()
                num_new = num_new if next_sequence_length is None else next_sequence_length
                prefix_len = 0
            else:
                num_new = num_tokens - past_key_values.num_skipped
                prefix_len -= past_key_values.num_skipped
        return {
            "input_ids": input_ids[:, -num_new:].to(self.device),
            "prefix_len": prefix_len,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            **kwargs,
        }


def _with_dynamic_cache(
    config: GenerationConfig | None, kwargs: dict[str, Any]
) -> tuple[GenerationConfig | None, dict[str, Any]]:
    """Arguments of `generate` without a static cache."""
    if config is None:
        return None, {**kwargs, "cache_implementation": "dynamic"}
    config = deepcopy(config)
    config.cache_implementation = "dynamic"
    return config, {name: value for name, value in kwargs.items() if name != "cache_implementation"}
