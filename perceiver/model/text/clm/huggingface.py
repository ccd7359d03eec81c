"""Causal language model for Hugging Face: Auto classes, generation, text-generation pipeline, Trainer; conversion."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, TextGenerationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from perceiver.model.huggingface.generation import CausalSequenceGenerationModel
from perceiver.model.huggingface.model import save_converted
from perceiver.model.text.clm.backend import CausalLanguageModel
from perceiver.model.text.clm.huggingface_config import PerceiverCausalLanguageModelConfig
from perceiver.model.text.common.huggingface import text_tokenizer


class PerceiverCausalLanguageModel(CausalSequenceGenerationModel):
    """Causal language model, registered with `AutoModelForCausalLM`."""

    config_class = PerceiverCausalLanguageModelConfig
    backend_class = CausalLanguageModel
    pipeline_task = "text-generation"


class PerceiverTextGenerationPipeline(TextGenerationPipeline):
    """The text-generation pipeline, which continues the prompt of our models as it is.

    transformers' own appends the special tokens of the tokenizer to it, unless it is called with
    `add_special_tokens=False`. For other models nothing changes.
    """

    def preprocess(self, prompt_text: Any, prefix: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(self.model, PerceiverCausalLanguageModel):
            kwargs.setdefault("add_special_tokens", False)
        return super().preprocess(prompt_text, prefix, **kwargs)


def convert_checkpoint(save_dir: str | Path, ckpt_url: str | Path, tokenizer_name: str, **kwargs: Any) -> None:
    """Converts a Lightning checkpoint of a causal language model to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint of perceiver-io 0.8 or later.
        tokenizer_name: Folder or hub id of the model's tokenizer.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit.
    """
    model = PerceiverCausalLanguageModel.from_checkpoint(ckpt_url)
    tokenizer = text_tokenizer(tokenizer_name, padding_side="left")  # any length: the model sees the last tokens
    vocab_size = model.backend_model.config.vocab_size
    if len(tokenizer) > vocab_size:
        warnings.warn(
            f"tokenizer {tokenizer_name} has {len(tokenizer)} ids, the model's vocabulary only {vocab_size}: texts "
            "with other tokens will be refused",
            stacklevel=2,
        )
    save_converted(model, tokenizer, save_dir, **kwargs)


AutoModelForCausalLM.register(PerceiverCausalLanguageModelConfig, PerceiverCausalLanguageModel)
# In place of transformers' own, whose other settings for the task stay. (`register_pipeline` would drop them.)
PIPELINE_REGISTRY.supported_tasks["text-generation"]["impl"] = PerceiverTextGenerationPipeline
