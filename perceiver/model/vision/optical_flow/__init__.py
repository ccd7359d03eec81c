"""Optical flow.

Importing this package registers the model with transformers' Auto classes, and the pipeline `optical-flow`, if
transformers is installed. Modeling code of transformers and Lightning are imported when something that needs them is
first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.vision.optical_flow.backend import (
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    perceiver_io_optical_flow,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.vision.optical_flow.huggingface_config import OpticalFlowPerceiverConfig
if TYPE_CHECKING:
    from perceiver.model.vision.optical_flow.huggingface import (
        OpticalFlowPerceiver,
        OpticalFlowPipeline,
        convert_checkpoint,
        convert_model,
    )
    from perceiver.model.vision.optical_flow.lightning import LitOpticalFlow

__all__ = [
    "LitOpticalFlow",
    "OpticalFlow",
    "OpticalFlowConfig",
    "OpticalFlowDecoderConfig",
    "OpticalFlowEncoderConfig",
    "OpticalFlowPerceiver",
    "OpticalFlowPerceiverConfig",
    "OpticalFlowPipeline",
    "convert_checkpoint",
    "convert_model",
    "perceiver_io_optical_flow",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitOpticalFlow": "lightning",
        "OpticalFlowPerceiver": "huggingface",
        "OpticalFlowPerceiverConfig": "huggingface_config",
        "OpticalFlowPipeline": "huggingface",
        "convert_checkpoint": "huggingface",
        "convert_model": "huggingface",
    },
)
