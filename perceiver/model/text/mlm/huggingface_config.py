"""Hugging Face config of the masked language model, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.text.mlm.backend import MaskedLanguageModelConfig


class PerceiverMaskedLanguageModelConfig(PerceiverBackendConfig):
    """Config of `PerceiverMaskedLanguageModel`."""

    model_type = "perceiver-io-masked-language-model"
    model_module = "perceiver.model.text.mlm.huggingface"
    backend_config_class = MaskedLanguageModelConfig

    def __init__(
        self,
        backend_config: MaskedLanguageModelConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)


AutoConfig.register(PerceiverMaskedLanguageModelConfig.model_type, PerceiverMaskedLanguageModelConfig)
