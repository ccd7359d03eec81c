"""Hugging Face config of the text classifier, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig, complete_labels
from perceiver.model.text.classifier.backend import TextClassifierConfig


class PerceiverTextClassifierConfig(PerceiverBackendConfig):
    """Config of `PerceiverTextClassifier`. Without `id2label`, labels are `LABEL_0` and so on, one for each class."""

    model_type = "perceiver-io-text-classifier"
    model_module = "perceiver.model.text.classifier.huggingface"
    backend_config_class = TextClassifierConfig

    def __init__(
        self,
        backend_config: TextClassifierConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)
        complete_labels(self, kwargs)

    @property
    def backend_config(self) -> TextClassifierConfig:
        """A new backend config, which does not name the file that the encoder once started from.

        Published folders name one that nobody has. What such a model starts from is the folder: `params` of the
        Lightning module.
        """
        config = super().backend_config
        assert isinstance(config, TextClassifierConfig)
        config.encoder.params = None
        return config


AutoConfig.register(PerceiverTextClassifierConfig.model_type, PerceiverTextClassifierConfig)
