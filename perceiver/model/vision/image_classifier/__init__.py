"""Image classifier.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.core.config import ClassificationDecoderConfig as ClassificationDecoderConfig
    from perceiver.model.vision.image_classifier.backend import (
        ConvImageAdapter as ConvImageAdapter,
        ImageClassifier as ImageClassifier,
        ImageClassifierConfig as ImageClassifierConfig,
        ImageEncoderConfig as ImageEncoderConfig,
        perceiver_io_conv as perceiver_io_conv,
        perceiver_io_fourier as perceiver_io_fourier,
        perceiver_io_learned as perceiver_io_learned,
        perceiver_io_mnist as perceiver_io_mnist,
    )
    from perceiver.model.vision.image_classifier.huggingface import (
        PerceiverImageClassifier as PerceiverImageClassifier,
        PerceiverImageClassifierConfig as PerceiverImageClassifierConfig,
        convert_checkpoint as convert_checkpoint,
        convert_mnist_classifier_checkpoint as convert_mnist_classifier_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.vision.image_classifier.lightning import LitImageClassifier as LitImageClassifier
    from perceiver.processing.image import (
        PerceiverImageClassifierInputProcessor as PerceiverImageClassifierInputProcessor,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("image-classifier")
