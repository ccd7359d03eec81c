"""transformers' own tests of pipelines and image processors, run with ours: a part of `transformers_mixins.py`.

Those of pipelines need a checkout. They load models and images from the hub, whose place a folder takes here.
"""

from __future__ import annotations

import os
import unittest
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from transformers import PerceiverTokenizer, XLNetTokenizer

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.vision import image_classifier
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from tests.peers import transformers_source
from tests.tokenizers import XLNET_VOCAB_SIZE, byte_tokenizer, xlnet_tokenizer

PICTURE = Path("tests/fixtures/tests_samples/COCO/000000039769.png")  # tests open it from the current folder
LENGTH, LABELS = 128, {0: "contradiction", 1: "neutral", 2: "entailment"}  # zero-shot looks for this name
SIZES: dict[str, Any] = {"num_latents": 4, "num_latent_channels": 16}

# Class of the model -> tasks of its pipelines, and what its folder holds besides. The token classifier has a tokenizer
# that knows where tokens are in the text: only then its test looks at results.
PIPELINES: dict[type, tuple[tuple[str, ...], str | None, str | None]] = {
    mlm.PerceiverMaskedLanguageModel: (("fill-mask",), "PerceiverTokenizer", None),
    mlm.PerceiverMaskedLanguageModel.body_class: (("feature-extraction",), "PerceiverTokenizer", None),
    clm.PerceiverCausalLanguageModel: (("text-generation",), "PerceiverTokenizer", None),
    classifier.PerceiverTextClassifier: (("text-classification", "zero-shot"), "PerceiverTokenizer", None),
    token_classifier.PerceiverTokenClassifier: (("token-classification",), "XLNetTokenizer", None),
    image_classifier.PerceiverImageClassifier: (("image-classification",), None, "ImageProcessor"),
    image_classifier.PerceiverImageClassifier.body_class: (("image-feature-extraction",), None, "ImageProcessor"),
}
EXCLUDED_IMAGES = {
    "test_call_numpy_4_channels": "models take 1 or 3 channels: an error says so",
    "test_new_models_require_torchvision_backend": "pixels are Pillow's and numpy's, as in the published format",
}
PROCESSORS = SimpleNamespace(
    PerceiverTokenizer=PerceiverTokenizer,
    XLNetTokenizer=XLNetTokenizer,
    ImageProcessor=PerceiverImageClassifierInputProcessor,
)


def backend_config(model_class: Any) -> Any:
    """The config of a small model."""
    vocab_size = XLNET_VOCAB_SIZE if model_class is token_classifier.PerceiverTokenClassifier else 262
    text_sizes: dict[str, Any] = {"vocab_size": vocab_size, "max_seq_len": LENGTH}
    text = mlm.TextEncoderConfig(**text_sizes, num_input_channels=16, num_self_attention_layers_per_block=1)
    classes = ClassificationDecoderConfig(num_classes=3, num_output_query_channels=16)
    match model_class.config_class.task.title:
        case "masked language model":
            return mlm.MaskedLanguageModelConfig(text, mlm.TextDecoderConfig(**text_sizes), **SIZES)
        case "causal language model":
            ar_sizes = {"max_latents": 16, "num_channels": 16, "num_heads": 2, "num_self_attention_layers": 1}
            return clm.CausalLanguageModelConfig(**text_sizes, **ar_sizes)
        case "text classifier":
            return classifier.TextClassifierConfig(text, classes, **SIZES)
        case "token classifier":
            decoder = token_classifier.TokenClassificationDecoderConfig(num_classes=3, max_seq_len=LENGTH)
            return token_classifier.TokenClassifierConfig(text, decoder, **SIZES)
        case "image classifier":
            images = image_classifier.ImageEncoderConfig(
                image_shape=(12, 12, 3), num_frequency_bands=2, num_cross_attention_heads=1
            )
            return image_classifier.ImageClassifierConfig(images, classes, **SIZES)
    raise ValueError(model_class)


def save_models(folder: Path) -> dict[str, Any]:
    """Saves the models where transformers' mixin looks for them -> what it wants to know of each."""
    torch.manual_seed(0)
    summary = {}
    for model_class, (_, tokenizer, image_processor) in PIPELINES.items():
        config: Any = model_class.config_class(backend_config(model_class))  # type: ignore[attr-defined]
        if "num_classes" in vars(getattr(config.backend_config, "decoder", None) or SimpleNamespace()):
            config.id2label, config.label2id = LABELS, {name: i for i, name in LABELS.items()}
        path = folder / config.model_type / model_class.__name__
        model = model_class(config)
        model.save_pretrained(path)
        if tokenizer:
            (byte_tokenizer if tokenizer == "PerceiverTokenizer" else xlnet_tokenizer)(path)
            processor = model.processor(path)  # with the settings of conversions
            if model_class is clm.PerceiverCausalLanguageModel:
                processor.model_max_length = 10**6  # prompts may have any length, which the test asks the tokenizer
            processor.save_pretrained(path)
        if image_processor:
            PerceiverImageClassifierInputProcessor(size={"height": 12, "width": 12}).save_pretrained(path)
        summary[model_class.__name__] = {
            "tokenizer_classes": [tokenizer] if tokenizer else [],
            "processor_classes": [image_processor] if image_processor else [],
        }
    return summary


def pictures(folder: Path) -> list[dict[str, PIL.Image.Image]]:
    """A picture where tests look for it, and the modes of it that pipelines take."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels)
    path = folder / PICTURE
    path.parent.mkdir(parents=True)
    picture.save(path)
    return [{"image": picture.convert(mode)} for mode in ("RGBA", "LA", "L", "RGB")]


def local_image(image: Any, timeout: float | None = None) -> PIL.Image.Image:
    """In the place of transformers' `load_image`: any path and URL is that of the picture."""
    return PIL.Image.open(PICTURE) if isinstance(image, str) else image


def former_pipeline(*args: Any, grouped_entities: bool, ignore_subwords: bool = False, **kwargs: Any) -> Any:
    """`pipeline` with an argument that tests from before transformers 5 want, and its warning."""
    warnings.warn("grouped_entities is aggregation_strategy", UserWarning, stacklevel=2)
    return transformers.pipeline(*args, aggregation_strategy="first" if ignore_subwords else "simple", **kwargs)


def pipeline_tests() -> type:
    """transformers' tests of the pipelines that our models have."""
    mixin = transformers_source.test_module("test_pipeline_mixin")
    folder = Path(transformers_source.TINY_MODELS.name)
    tasks = {task: model_class for model_class, (names, *_) in PIPELINES.items() for task in names}
    for task in tasks:
        module = f"pipelines.test_pipelines_{task.replace('-', '_')}"
        test_case = mixin.pipeline_test_mapping[task]["test"].rpartition(".")[2]
        transformers_source.test_module(module)
        mixin.pipeline_test_mapping[task] = {"test": f"{transformers_source.PACKAGE}.{module}.{test_case}"}
    mixin.tiny_model_summary.update(save_models(folder))
    transformers_source.test_module("pipelines.test_pipelines_token_classification").pipeline = former_pipeline
    images = transformers_source.test_module("pipelines.test_pipelines_image_classification")
    images.ImageClassificationPipelineTests._dataset = pictures(folder)

    class PipelineTest(mixin.PipelineTesterMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
        pipeline_model_mapping = tasks

        def setUp(self) -> None:
            self.addCleanup(os.chdir, Path.cwd())
            os.chdir(folder)
            for place in (
                mock.patch.object(mixin, "transformers_module", PROCESSORS),
                mock.patch("transformers.Pipeline.framework", "pt", create=True),  # until transformers 5
                mock.patch("transformers.pipelines.image_classification.load_image", local_image),
                mock.patch("transformers.pipelines.image_feature_extraction.load_image", local_image),
            ):
                place.start()
                self.addCleanup(place.stop)

    names = {f"test_pipeline_{task.replace('-', '_')}{kind}" for task in tasks for kind in ("", "_fp16")}
    for name in dir(PipelineTest):
        if name.startswith("test_") and name not in names:
            setattr(PipelineTest, name, None)  # of tasks that our models don't have
    return PipelineTest


def image_processor_tests() -> type:
    """transformers' tests of image processors, with that of the image classifier."""
    common = transformers_source.test_module("test_image_processing_common")

    class Tester(common.ImageProcessingTester):  # type: ignore[misc, name-defined]
        def __init__(self, parent: Any):
            super().__init__(
                parent, crop_size={"height": 20, "width": 20}, size={"height": 18, "width": 18}, channels_last=True
            )

        def _get_image_processing_classes(self) -> dict[str, type]:
            return {"pil": PerceiverImageClassifierInputProcessor}

        def expected_output_image_shape(self, images: Any) -> tuple[int, ...]:
            return self.size["height"], self.size["width"], self.num_channels

    class ImageProcessingTest(common.ImageProcessingTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
        image_processor_tester_class = Tester
        test_cast_dtype = True

    return ImageProcessingTest


transformers_source.load()
ImageProcessingTest = image_processor_tests()
for _name, _reason in EXCLUDED_IMAGES.items():
    setattr(ImageProcessingTest, _name, unittest.skip(_reason)(getattr(ImageProcessingTest, _name)))
if transformers_source.CHECKOUT:
    PipelineTest = pipeline_tests()
else:

    @pytest.mark.skip(transformers_source.NEEDS_CHECKOUT)
    def test_pipelines() -> None:
        """See above."""
