"""Optical flow.

Importing this package registers the model with transformers' Auto classes, and the pipeline `optical-flow`, if
transformers is installed. Modeling code of transformers and Lightning are imported when something that needs them is
first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

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
        OpticalFlowPipeline as OpticalFlowPipeline,
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.vision.optical_flow.huggingface_config import (
        OpticalFlowPerceiverConfig as OpticalFlowPerceiverConfig,
    )
    from perceiver.model.vision.optical_flow.lightning import LitOpticalFlow as LitOpticalFlow

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.vision.optical_flow.huggingface_config")  # registers the config
