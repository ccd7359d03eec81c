"""Image classifier.

Importing this package registers the model and its image processor with transformers' Auto classes, if transformers (and
Pillow) are installed. Modeling code of transformers and Lightning are imported when something that needs them is first
used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.vision.image_classifier.backend import (
    ImageClassifier,
    ImageClassifierConfig,
    ImageEncoderConfig,
    perceiver_io_conv,
    perceiver_io_fourier,
    perceiver_io_learned,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.vision.image_classifier.huggingface_config import PerceiverImageClassifierConfig
if TYPE_CHECKING or (find_spec("transformers") and find_spec("PIL")):
    # AutoImageProcessor asks no config: it looks for a class with the name in preprocessor_config.json
    from perceiver.model.vision.image_classifier.image_processor import PerceiverImageClassifierInputProcessor
if TYPE_CHECKING:
    from perceiver.model.vision.image_classifier.huggingface import (
        PerceiverImageClassifier,
        convert_checkpoint,
        convert_mnist_classifier_checkpoint,
        convert_model,
    )
    from perceiver.model.vision.image_classifier.lightning import LitImageClassifier

__all__ = [
    "ClassificationDecoderConfig",
    "ImageClassifier",
    "ImageClassifierConfig",
    "ImageEncoderConfig",
    "LitImageClassifier",
    "PerceiverImageClassifier",
    "PerceiverImageClassifierConfig",
    "PerceiverImageClassifierInputProcessor",
    "convert_checkpoint",
    "convert_mnist_classifier_checkpoint",
    "convert_model",
    "perceiver_io_conv",
    "perceiver_io_fourier",
    "perceiver_io_learned",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitImageClassifier": "lightning",
        "PerceiverImageClassifier": "huggingface",
        "PerceiverImageClassifierConfig": "huggingface_config",
        "PerceiverImageClassifierInputProcessor": "image_processor",
        "convert_checkpoint": "huggingface",
        "convert_mnist_classifier_checkpoint": "huggingface",
        "convert_model": "huggingface",
    },
)
