"""Text classifier.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.core.config import ClassificationDecoderConfig as ClassificationDecoderConfig
    from perceiver.model.text.classifier.backend import (
        TextClassifier as TextClassifier,
        TextClassifierConfig as TextClassifierConfig,
        perceiver_io_text_classifier as perceiver_io_text_classifier,
    )
    from perceiver.model.text.classifier.huggingface import (
        PerceiverTextClassifier as PerceiverTextClassifier,
        PerceiverTextClassifierConfig as PerceiverTextClassifierConfig,
        convert_checkpoint as convert_checkpoint,
        convert_imdb_classifier_checkpoint as convert_imdb_classifier_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.text.classifier.lightning import LitTextClassifier as LitTextClassifier
    from perceiver.model.text.common.backend import TextEncoderConfig as TextEncoderConfig

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("text-classifier")
