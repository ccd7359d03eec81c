"""Text classifier.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.common.backend import TextEncoderConfig

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.text.classifier.huggingface_config import PerceiverTextClassifierConfig
if TYPE_CHECKING:
    from perceiver.model.text.classifier.huggingface import (
        PerceiverTextClassifier,
        convert_checkpoint,
        convert_imdb_classifier_checkpoint,
        convert_model,
    )
    from perceiver.model.text.classifier.lightning import LitTextClassifier

__all__ = [
    "ClassificationDecoderConfig",
    "LitTextClassifier",
    "PerceiverTextClassifier",
    "PerceiverTextClassifierConfig",
    "TextClassifier",
    "TextClassifierConfig",
    "TextEncoderConfig",
    "convert_checkpoint",
    "convert_imdb_classifier_checkpoint",
    "convert_model",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitTextClassifier": "lightning",
        "PerceiverTextClassifier": "huggingface",
        "PerceiverTextClassifierConfig": "huggingface_config",
        "convert_checkpoint": "huggingface",
        "convert_imdb_classifier_checkpoint": "huggingface",
        "convert_model": "huggingface",
    },
)
