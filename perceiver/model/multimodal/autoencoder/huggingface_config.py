"""Hugging Face config of the multimodal autoencoder, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig, complete_labels
from perceiver.model.multimodal.autoencoder.backend import MultimodalAutoencoderConfig


class PerceiverMultimodalAutoencoderConfig(PerceiverBackendConfig):
    """Config of `PerceiverMultimodalAutoencoder`. Without `id2label`, labels are `LABEL_0` and so on, one per class."""

    model_type = "perceiver-io-multimodal-autoencoder"
    model_module = "perceiver.model.multimodal.autoencoder.huggingface"
    backend_config_class = MultimodalAutoencoderConfig

    def __init__(
        self,
        backend_config: MultimodalAutoencoderConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)
        complete_labels(self, kwargs)


AutoConfig.register(PerceiverMultimodalAutoencoderConfig.model_type, PerceiverMultimodalAutoencoderConfig)
