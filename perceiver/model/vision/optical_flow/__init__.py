"""Optical flow.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.vision.optical_flow.backend import (
        OpticalFlow as OpticalFlow,
        OpticalFlowConfig as OpticalFlowConfig,
        OpticalFlowDecoderConfig as OpticalFlowDecoderConfig,
        OpticalFlowEncoderConfig as OpticalFlowEncoderConfig,
        perceiver_io_optical_flow as perceiver_io_optical_flow,
    )
    from perceiver.model.vision.optical_flow.huggingface import (
        OpticalFlowPerceiver as OpticalFlowPerceiver,
        OpticalFlowPerceiverConfig as OpticalFlowPerceiverConfig,
        OpticalFlowPipeline as OpticalFlowPipeline,
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.vision.optical_flow.lightning import LitOpticalFlow as LitOpticalFlow

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("optical-flow")
