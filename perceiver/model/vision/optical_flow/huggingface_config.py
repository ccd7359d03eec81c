"""Hugging Face config of optical flow, registered with `AutoConfig`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.vision.optical_flow.backend import OpticalFlowConfig


class OpticalFlowPerceiverConfig(PerceiverBackendConfig):
    """Config of `OpticalFlowPerceiver`."""

    model_type = "perceiver-io-optical-flow"
    model_module = "perceiver.model.vision.optical_flow.huggingface"
    backend_config_class = OpticalFlowConfig

    def __init__(
        self,
        backend_config: OpticalFlowConfig | None = None,
        *,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(backend_config, model_config=model_config, **kwargs)


AutoConfig.register(OpticalFlowPerceiverConfig.model_type, OpticalFlowPerceiverConfig)
