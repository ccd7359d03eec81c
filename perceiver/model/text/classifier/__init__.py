"""Text classifier.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.model.core.config import ClassificationDecoderConfig as ClassificationDecoderConfig
    from perceiver.model.text.classifier.backend import (
        TextClassifier as TextClassifier,
        TextClassifierConfig as TextClassifierConfig,
    )
    from perceiver.model.text.classifier.huggingface import (
        PerceiverTextClassifier as PerceiverTextClassifier,
        convert_checkpoint as convert_checkpoint,
        convert_imdb_classifier_checkpoint as convert_imdb_classifier_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.text.classifier.huggingface_config import (
        PerceiverTextClassifierConfig as PerceiverTextClassifierConfig,
    )
    from perceiver.model.text.classifier.lightning import LitTextClassifier as LitTextClassifier
    from perceiver.model.text.common.backend import TextEncoderConfig as TextEncoderConfig

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.text.classifier.huggingface_config")  # registers the config
