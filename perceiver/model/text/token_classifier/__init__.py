"""Token classifier: a class for each word of a text, part of an entity for example, from bytes.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.text.common.backend import TextEncoderConfig as TextEncoderConfig
    from perceiver.model.text.token_classifier.alignment import (
        align_labels as align_labels,
        byte_word_ids as byte_word_ids,
        word_labels as word_labels,
    )
    from perceiver.model.text.token_classifier.backend import (
        TokenClassificationDecoderConfig as TokenClassificationDecoderConfig,
        TokenClassifier as TokenClassifier,
        TokenClassifierConfig as TokenClassifierConfig,
        perceiver_io_token_classifier as perceiver_io_token_classifier,
    )
    from perceiver.model.text.token_classifier.huggingface import (
        PerceiverTokenClassifier as PerceiverTokenClassifier,
        PerceiverTokenClassifierConfig as PerceiverTokenClassifierConfig,
        convert_checkpoint as convert_checkpoint,
    )
    from perceiver.model.text.token_classifier.lightning import LitTokenClassifier as LitTokenClassifier

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("token-classifier")
