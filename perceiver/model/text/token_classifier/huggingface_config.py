"""Hugging Face config of the token classifier, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig, complete_labels
from perceiver.model.text.token_classifier.backend import TokenClassifierConfig


class PerceiverTokenClassifierConfig(PerceiverBackendConfig):
    """Config of `PerceiverTokenClassifier`. Without `id2label`, labels are `LABEL_0` and so on, one for each class."""

    model_type = "perceiver-io-token-classifier"
    model_module = "perceiver.model.text.token_classifier.huggingface"
    backend_config_class = TokenClassifierConfig

    def __init__(
        self,
        backend_config: TokenClassifierConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)
        complete_labels(self, kwargs)

    @property
    def backend_config(self) -> TokenClassifierConfig:
        """A new backend config, which does not name the files that the parts of the model once started from."""
        config = super().backend_config
        assert isinstance(config, TokenClassifierConfig)
        config.encoder.params = config.decoder.params = None
        return config


AutoConfig.register(PerceiverTokenClassifierConfig.model_type, PerceiverTokenClassifierConfig)
