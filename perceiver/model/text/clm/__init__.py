"""Causal language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.text.clm.backend import (
    CausalLanguageModel,
    CausalLanguageModelConfig,
    perceiver_ar_byte_base,
    perceiver_ar_xlnet_base,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.text.clm.huggingface_config import PerceiverCausalLanguageModelConfig
if TYPE_CHECKING:
    from perceiver.model.text.clm.evaluation import TextEvaluation, evaluate_text
    from perceiver.model.text.clm.huggingface import PerceiverCausalLanguageModel, convert_checkpoint
    from perceiver.model.text.clm.lightning import LitCausalLanguageModel

__all__ = [
    "CausalLanguageModel",
    "CausalLanguageModelConfig",
    "LitCausalLanguageModel",
    "PerceiverCausalLanguageModel",
    "PerceiverCausalLanguageModelConfig",
    "TextEvaluation",
    "convert_checkpoint",
    "evaluate_text",
    "perceiver_ar_byte_base",
    "perceiver_ar_xlnet_base",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitCausalLanguageModel": "lightning",
        "PerceiverCausalLanguageModel": "huggingface",
        "PerceiverCausalLanguageModelConfig": "huggingface_config",
        "TextEvaluation": "evaluation",
        "convert_checkpoint": "huggingface",
        "evaluate_text": "evaluation",
    },
)
