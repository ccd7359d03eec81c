"""Multimodal autoencoder.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

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
        PerceiverMultimodalAutoencoderConfig as PerceiverMultimodalAutoencoderConfig,
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.multimodal.autoencoder.lightning import LitMultimodalAutoencoder as LitMultimodalAutoencoder

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("multimodal-autoencoder")
