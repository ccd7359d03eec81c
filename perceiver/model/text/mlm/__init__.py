"""Masked language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import (
    MaskedLanguageModel,
    MaskedLanguageModelConfig,
    TextDecoderConfig,
    perceiver_io_language_base,
)
from perceiver.model.text.mlm.mask_filler import fill_masks

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.text.mlm.huggingface_config import PerceiverMaskedLanguageModelConfig
if TYPE_CHECKING:
    from perceiver.model.text.mlm.huggingface import PerceiverMaskedLanguageModel, convert_checkpoint, convert_model
    from perceiver.model.text.mlm.lightning import LitMaskedLanguageModel

__all__ = [
    "LitMaskedLanguageModel",
    "MaskedLanguageModel",
    "MaskedLanguageModelConfig",
    "PerceiverMaskedLanguageModel",
    "PerceiverMaskedLanguageModelConfig",
    "TextDecoderConfig",
    "TextEncoderConfig",
    "convert_checkpoint",
    "convert_model",
    "fill_masks",
    "perceiver_io_language_base",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitMaskedLanguageModel": "lightning",
        "PerceiverMaskedLanguageModel": "huggingface",
        "PerceiverMaskedLanguageModelConfig": "huggingface_config",
        "convert_checkpoint": "huggingface",
        "convert_model": "huggingface",
    },
)
