"""Masked language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

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
        convert_checkpoint as convert_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.text.mlm.huggingface_config import (
        PerceiverMaskedLanguageModelConfig as PerceiverMaskedLanguageModelConfig,
    )
    from perceiver.model.text.mlm.lightning import LitMaskedLanguageModel as LitMaskedLanguageModel
    from perceiver.model.text.mlm.mask_filler import fill_masks as fill_masks

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.text.mlm.huggingface_config")  # registers the config
