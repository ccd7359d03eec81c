"""Masked language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Lightning is
imported when `LitMaskedLanguageModel` is first asked for.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import (
    MaskedLanguageModel,
    MaskedLanguageModelConfig,
    TextDecoderConfig,
    perceiver_io_language_base,
)
from perceiver.model.text.mlm.mask_filler import fill_masks

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.text.mlm.huggingface import (
        PerceiverMaskedLanguageModel,
        PerceiverMaskedLanguageModelConfig,
        convert_checkpoint,
        convert_model,
    )
if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name == "LitMaskedLanguageModel":
        from perceiver.model.text.mlm.lightning import LitMaskedLanguageModel

        return LitMaskedLanguageModel
    if name in __all__:
        raise ImportError(f"{name} needs transformers: pip install perceiver-io[text]")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
