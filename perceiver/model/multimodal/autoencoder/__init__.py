"""Multimodal autoencoder.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.multimodal.autoencoder.backend import (
    MultimodalAutoencoder,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    MultimodalOutput,
    perceiver_io_multimodal,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.multimodal.autoencoder.huggingface_config import PerceiverMultimodalAutoencoderConfig
if TYPE_CHECKING:
    from perceiver.model.multimodal.autoencoder.huggingface import (
        PerceiverMultimodalAutoencoder,
        convert_checkpoint,
        convert_model,
    )
    from perceiver.model.multimodal.autoencoder.lightning import LitMultimodalAutoencoder

__all__ = [
    "LitMultimodalAutoencoder",
    "MultimodalAutoencoder",
    "MultimodalAutoencoderConfig",
    "MultimodalDecoderConfig",
    "MultimodalEncoderConfig",
    "MultimodalOutput",
    "PerceiverMultimodalAutoencoder",
    "PerceiverMultimodalAutoencoderConfig",
    "convert_checkpoint",
    "convert_model",
    "perceiver_io_multimodal",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitMultimodalAutoencoder": "lightning",
        "PerceiverMultimodalAutoencoder": "huggingface",
        "PerceiverMultimodalAutoencoderConfig": "huggingface_config",
        "convert_checkpoint": "huggingface",
        "convert_model": "huggingface",
    },
)
