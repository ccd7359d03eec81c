"""The image processor, under the name that published folders give it."""

from transformers import AutoImageProcessor

from perceiver.model.vision.image_classifier.huggingface_config import PerceiverImageClassifierConfig
from perceiver.processing.image import PerceiverImageClassifierInputProcessor

AutoImageProcessor.register(
    PerceiverImageClassifierConfig, image_processor_classes={"pil": PerceiverImageClassifierInputProcessor}
)
