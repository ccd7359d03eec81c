"""Causal language model.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

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
        convert_checkpoint as convert_checkpoint,
    )
    from perceiver.model.text.clm.huggingface_config import (
        PerceiverCausalLanguageModelConfig as PerceiverCausalLanguageModelConfig,
    )
    from perceiver.model.text.clm.lightning import LitCausalLanguageModel as LitCausalLanguageModel

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.text.clm.huggingface_config")  # registers the config
