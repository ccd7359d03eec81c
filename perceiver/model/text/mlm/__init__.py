"""Masked language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.text.common.backend import TextEncoderConfig as TextEncoderConfig
    from perceiver.model.text.mlm.backend import (
        MaskedLanguageModel as MaskedLanguageModel,
        MaskedLanguageModelConfig as MaskedLanguageModelConfig,
        TextDecoderConfig as TextDecoderConfig,
        perceiver_io_language_base as perceiver_io_language_base,
    )
    from perceiver.model.text.mlm.huggingface import (
        PerceiverMaskedLanguageModel as PerceiverMaskedLanguageModel,
        PerceiverMaskedLanguageModelConfig as PerceiverMaskedLanguageModelConfig,
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.text.mlm.lightning import LitMaskedLanguageModel as LitMaskedLanguageModel
    from perceiver.model.text.mlm.mask_filler import fill_masks as fill_masks

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("mlm")
