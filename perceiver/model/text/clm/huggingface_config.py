"""Hugging Face config of the causal language model, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import CausalSequenceHuggingFaceConfig
from perceiver.model.text.clm.backend import CausalLanguageModelConfig


class PerceiverCausalLanguageModelConfig(CausalSequenceHuggingFaceConfig):
    """Config of `PerceiverCausalLanguageModel`."""

    model_type = "perceiver-ar-causal-language-model"
    model_module = "perceiver.model.text.clm.huggingface"
    backend_config_class = CausalLanguageModelConfig

    def __init__(
        self,
        backend_config: CausalLanguageModelConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)


AutoConfig.register(PerceiverCausalLanguageModelConfig.model_type, PerceiverCausalLanguageModelConfig)
