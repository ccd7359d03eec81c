"""Hugging Face config of the image classifier, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig, complete_labels
from perceiver.model.vision.image_classifier.backend import ImageClassifierConfig, ImageEncoderConfig


class PerceiverImageClassifierConfig(PerceiverBackendConfig):
    """Config of `PerceiverImageClassifier`. Without `id2label`, labels are `LABEL_0` and so on, one for each class."""

    model_type = "perceiver-io-image-classifier"
    model_module = "perceiver.model.vision.image_classifier.huggingface"
    backend_config_class = ImageClassifierConfig

    def __init__(
        self,
        backend_config: ImageClassifierConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)
        complete_labels(self, kwargs)
        if self.model_config is not None:  # perceiver-io 0.11 does not know these fields, so files name them if need be
            encoder = self.model_config["encoder"]
            for name in ("adapter", "num_adapter_channels"):
                if encoder[name] == getattr(ImageEncoderConfig, name):
                    del encoder[name]


AutoConfig.register(PerceiverImageClassifierConfig.model_type, PerceiverImageClassifierConfig)
