"""Image classifier.

Importing this package registers the model and its image processor with transformers' Auto classes, if transformers (and
Pillow) are installed. Modeling code of transformers and Lightning are imported when something that needs them is first
used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.model.core.config import ClassificationDecoderConfig as ClassificationDecoderConfig
    from perceiver.model.vision.image_classifier.backend import (
        ImageClassifier as ImageClassifier,
        ImageClassifierConfig as ImageClassifierConfig,
        ImageEncoderConfig as ImageEncoderConfig,
        perceiver_io_conv as perceiver_io_conv,
        perceiver_io_fourier as perceiver_io_fourier,
        perceiver_io_learned as perceiver_io_learned,
    )
    from perceiver.model.vision.image_classifier.huggingface import (
        PerceiverImageClassifier as PerceiverImageClassifier,
        convert_checkpoint as convert_checkpoint,
        convert_mnist_classifier_checkpoint as convert_mnist_classifier_checkpoint,
        convert_model as convert_model,
    )
    from perceiver.model.vision.image_classifier.huggingface_config import (
        PerceiverImageClassifierConfig as PerceiverImageClassifierConfig,
    )
    from perceiver.model.vision.image_classifier.lightning import LitImageClassifier as LitImageClassifier
    from perceiver.processing.image import (
        PerceiverImageClassifierInputProcessor as PerceiverImageClassifierInputProcessor,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.vision.image_classifier.huggingface_config")  # registers the config
    if find_spec("PIL"):
        # AutoImageProcessor asks no config: it looks for a class with the name in preprocessor_config.json
        import_module("perceiver.model.vision.image_classifier.huggingface_processor")
