"""Multimodal autoencoder.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.model.multimodal.autoencoder.backend import (
        MultimodalAutoencoder as MultimodalAutoencoder,
        MultimodalAutoencoderConfig as MultimodalAutoencoderConfig,
        MultimodalDecoderConfig as MultimodalDecoderConfig,
        MultimodalEncoderConfig as MultimodalEncoderConfig,
        MultimodalOutput as MultimodalOutput,
        perceiver_io_multimodal as perceiver_io_multimodal,
    )
    from perceiver.model.multimodal.autoencoder.huggingface import (
        PerceiverMultimodalAutoencoder as PerceiverMultimodalAutoencoder,
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.multimodal.autoencoder.huggingface_config import (
        PerceiverMultimodalAutoencoderConfig as PerceiverMultimodalAutoencoderConfig,
    )
    from perceiver.model.multimodal.autoencoder.lightning import LitMultimodalAutoencoder as LitMultimodalAutoencoder

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.multimodal.autoencoder.huggingface_config")  # registers the config
