"""Causal language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.text.clm.backend import (
        CausalLanguageModel as CausalLanguageModel,
        CausalLanguageModelConfig as CausalLanguageModelConfig,
        perceiver_ar_byte_base as perceiver_ar_byte_base,
        perceiver_ar_xlnet_base as perceiver_ar_xlnet_base,
    )
    from perceiver.model.text.clm.evaluation import TextEvaluation as TextEvaluation, evaluate_text as evaluate_text
    from perceiver.model.text.clm.huggingface import (
        PerceiverCausalLanguageModel as PerceiverCausalLanguageModel,
        PerceiverCausalLanguageModelConfig as PerceiverCausalLanguageModelConfig,
        convert_checkpoint as convert_checkpoint,
    )
    from perceiver.model.text.clm.lightning import LitCausalLanguageModel as LitCausalLanguageModel

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("clm")
