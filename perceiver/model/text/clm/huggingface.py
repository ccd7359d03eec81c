"""Causal language model for Hugging Face: Auto classes, generation, text-generation pipeline, Trainer; conversion."""

from __future__ import annotations

import warnings
from copy import copy
from typing import Any

from transformers import TextGenerationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter
from perceiver.model.huggingface.generation import CausalSequenceGenerationModel
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.perceiver_ar import PerceiverARBody
from perceiver.model.huggingface.saving import text_tokenizer
from perceiver.model.text.clm.backend import CausalLanguageModel
from perceiver.tasks import TASKS

PerceiverCausalLanguageModelConfig = config_class(TASKS["clm"])


class PerceiverCausalLanguageModelBody(PerceiverARBody):
    """Body of a causal language model, registered with `AutoModel`."""

    config_class = PerceiverCausalLanguageModelConfig
    backend_class = CausalLanguageModel


class PerceiverCausalLanguageModel(CausalSequenceGenerationModel):
    """Causal language model, registered with `AutoModelForCausalLM`."""

    config_class = PerceiverCausalLanguageModelConfig
    backend_class = CausalLanguageModel
    body_class = PerceiverCausalLanguageModelBody

    def processor(self, source: Any) -> Any:
        tokenizer = text_tokenizer(source, padding_side="left")  # any length: the model sees the last tokens
        vocab_size = self.backend_model.config.vocab_size
        if len(tokenizer) > vocab_size:
            warnings.warn(
                f"tokenizer {source} has {len(tokenizer)} ids, the model's vocabulary only {vocab_size}: texts with "
                "other tokens will be refused",
                stacklevel=3,
            )
        return tokenizer


class PerceiverTextGenerationPipeline(TextGenerationPipeline):
    """The text-generation pipeline, which continues the prompt of our models as it is.

    transformers' own appends the special tokens of the tokenizer to it, unless it is called with
    `add_special_tokens=False`. It also samples unless it is told not to; with ours, beam search and contrastive search
    sample only with `do_sample=True`. An empty prompt is the tokenizer's BOS token. For other models nothing changes.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **kwargs: Any):
        if isinstance(model, PerceiverCausalLanguageModel):
            tokenizer = copy(tokenizer)  # its padding side will be set, and other models may use it, too
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def preprocess(self, prompt_text: Any, prefix: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(self.model, PerceiverCausalLanguageModel):
            kwargs.setdefault("add_special_tokens", False)
        return super().preprocess(prompt_text, prefix, **kwargs)

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(self.model, PerceiverCausalLanguageModel):
            if kwargs.get("penalty_alpha") is not None or (kwargs.get("num_beams") or 1) > 1:
                kwargs.setdefault("do_sample", False)
            is_empty = model_inputs["input_ids"].shape[1] == 0
            if is_empty and self.tokenizer is not None and self.model.generation_config.bos_token_id is None:
                kwargs.setdefault("bos_token_id", self.tokenizer.bos_token_id)
        return super()._forward(model_inputs, **kwargs)


convert_checkpoint = checkpoint_converter(PerceiverCausalLanguageModel)
register_model(PerceiverCausalLanguageModel)
# In place of transformers' own, whose other settings for the task stay. (`register_pipeline` would drop them.)
PIPELINE_REGISTRY.supported_tasks["text-generation"]["impl"] = PerceiverTextGenerationPipeline
