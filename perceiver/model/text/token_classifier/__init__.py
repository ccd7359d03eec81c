"""Token classifier: a class for each word of a text, part of an entity for example, from bytes.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. Modeling code
of transformers and Lightning are imported when something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.token_classifier.alignment import align_labels, byte_word_ids, word_labels
from perceiver.model.text.token_classifier.backend import (
    TokenClassificationDecoderConfig,
    TokenClassifier,
    TokenClassifierConfig,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.text.token_classifier.huggingface_config import PerceiverTokenClassifierConfig
if TYPE_CHECKING:
    from perceiver.model.text.token_classifier.huggingface import PerceiverTokenClassifier, convert_checkpoint
    from perceiver.model.text.token_classifier.lightning import LitTokenClassifier

__all__ = [
    "LitTokenClassifier",
    "PerceiverTokenClassifier",
    "PerceiverTokenClassifierConfig",
    "TextEncoderConfig",
    "TokenClassificationDecoderConfig",
    "TokenClassifier",
    "TokenClassifierConfig",
    "align_labels",
    "byte_word_ids",
    "convert_checkpoint",
    "word_labels",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitTokenClassifier": "lightning",
        "PerceiverTokenClassifier": "huggingface",
        "PerceiverTokenClassifierConfig": "huggingface_config",
        "convert_checkpoint": "huggingface",
    },
)
