"""Hugging Face config of the symbolic audio model, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.audio.symbolic.backend import SymbolicAudioModelConfig
from perceiver.model.huggingface.config import CausalSequenceHuggingFaceConfig


class PerceiverSymbolicAudioModelConfig(CausalSequenceHuggingFaceConfig):
    """Config of `PerceiverSymbolicAudioModel`."""

    model_type = "perceiver-ar-symbolic-audio-model"
    model_module = "perceiver.model.audio.symbolic.huggingface"
    backend_config_class = SymbolicAudioModelConfig

    def __init__(
        self,
        backend_config: SymbolicAudioModelConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)


AutoConfig.register(PerceiverSymbolicAudioModelConfig.model_type, PerceiverSymbolicAudioModelConfig)
