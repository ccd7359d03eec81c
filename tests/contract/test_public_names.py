"""Contract 1: the names that README and docs use, and the short programs that they show."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.model.helpers import GOLDEN, TIED

MLM = [
    "LitMaskedLanguageModel",
    "MaskedLanguageModel",
    "MaskedLanguageModelConfig",
    "PerceiverMaskedLanguageModel",
    "PerceiverMaskedLanguageModelConfig",
    "TextDecoderConfig",
    "TextEncoderConfig",
    "convert_checkpoint",
    "convert_model",
    "fill_masks",
    "perceiver_io_language_base",
]
IMAGE_CLASSIFIER = [
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
    "perceiver_io_mnist",
]
OPTICAL_FLOW = [
    "LitOpticalFlow",
    "OpticalFlow",
    "OpticalFlowConfig",
    "OpticalFlowDecoderConfig",
    "OpticalFlowEncoderConfig",
    "OpticalFlowPerceiver",
    "OpticalFlowPerceiverConfig",
    "OpticalFlowPipeline",
    "convert_checkpoint",
    "convert_model",
    "perceiver_io_optical_flow",
]
TASKS = {
    "perceiver.model.text.mlm": MLM,
    "perceiver.model.vision.image_classifier": IMAGE_CLASSIFIER,
    "perceiver.model.vision.optical_flow": OPTICAL_FLOW,
}
MODULES = [
    "InputAdapter",
    "MultiHeadAttention",
    "CrossAttention",
    "SelfAttention",
    "SelfAttentionBlock",
    "MLP",
    "TrainableQueryProvider",
    "PerceiverEncoder",
    "PerceiverDecoder",
    "PerceiverIO",
    "FourierPositionEncoding",
    "CoordinateInputAdapter",
    "FourierQueryProvider",
    "PerceiverResampler",
]
CONFIGS = ["EncoderConfig", "DecoderConfig", "PerceiverIOConfig"]
NAMES = [(task, name) for task, names in TASKS.items() for name in names]
NAMES += [("perceiver.model.core.modules", name) for name in MODULES]
NAMES += [("perceiver.model.core.config", name) for name in CONFIGS]
NAMES += [("perceiver.model.core.checkpoint", "read_checkpoint")]


@pytest.mark.parametrize("module, name", NAMES)
def test_name_exists(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert callable(found) and found.__name__ == name and found.__doc__


@pytest.mark.parametrize("task", TASKS)
def test_all_lists_what_a_task_offers(task: str) -> None:
    assert sorted(importlib.import_module(task).__all__) == sorted(TASKS[task])


def test_unknown_name() -> None:
    from perceiver.model.text import mlm

    with pytest.raises(AttributeError, match=r"'perceiver.model.text.mlm' has no attribute 'MaskedModel'"):
        _ = mlm.MaskedModel  # type: ignore[attr-defined]


def test_the_program_of_the_readme(tmp_path: Path) -> None:
    """With a folder in place of the hub id."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    from perceiver.model.text import mlm

    repo_id = str(TIED / "hub")
    model = AutoModelForMaskedLM.from_pretrained(repo_id)
    tokenizer = AutoTokenizer.from_pretrained(repo_id)
    assert type(model) is mlm.PerceiverMaskedLanguageModel
    encoding = tokenizer("words are[MASK][MASK][MASK]", return_tensors="pt")
    assert model(**encoding).logits.shape[:2] == encoding["input_ids"].shape
    assert len(pipeline("fill-mask", model=repo_id)("words are[MASK][MASK][MASK]")) == 3

    backend_model = model.backend_model
    assert type(backend_model) is mlm.MaskedLanguageModel
    backend_config = backend_model.config
    assert backend_config == model.config.backend_config
    lit_model = mlm.LitMaskedLanguageModel.create(backend_config, params=repo_id)
    assert type(lit_model.backend_model) is mlm.MaskedLanguageModel
    mlm.MaskedLanguageModel(backend_config)
    mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(backend_config))
    mlm.LitMaskedLanguageModel.create(backend_config)
    mlm.convert_checkpoint(save_dir=str(tmp_path / "a"), ckpt_url=str(TIED / "lit.ckpt"), tokenizer_name=repo_id)
    source = str(TIED.parent / "hf_mlm" / "hf_src")
    mlm.convert_model(save_dir=str(tmp_path / "b"), source_repo_id=source)
    assert (tmp_path / "a" / "model.safetensors").exists() and (tmp_path / "b" / "model.safetensors").exists()


def test_the_same_program_for_images(tmp_path: Path) -> None:
    import PIL.Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from perceiver.model.vision import image_classifier

    repo_id, checkpoint = str(GOLDEN / "img_clf_mnist" / "hub"), str(GOLDEN / "img_clf_mnist" / "lit.ckpt")
    model = AutoModelForImageClassification.from_pretrained(repo_id)
    processor = AutoImageProcessor.from_pretrained(repo_id)
    assert type(model) is image_classifier.PerceiverImageClassifier
    assert type(processor) is image_classifier.PerceiverImageClassifierInputProcessor
    digit = PIL.Image.new("L", (12, 10))
    assert model(**processor(digit, return_tensors="pt")).logits.shape == (1, 10)
    assert pipeline("image-classification", model=repo_id)(digit, top_k=1)[0]["label"] in range(10)

    backend_config = model.backend_model.config
    assert type(model.backend_model) is image_classifier.ImageClassifier
    assert backend_config == model.config.backend_config
    lit_model = image_classifier.LitImageClassifier.create(backend_config, params=repo_id)
    assert type(lit_model.backend_model) is image_classifier.ImageClassifier
    image_classifier.convert_checkpoint(save_dir=str(tmp_path / "a"), ckpt_url=checkpoint, image_processor=processor)
    image_classifier.convert_mnist_classifier_checkpoint(save_dir=str(tmp_path / "b"), ckpt_url=checkpoint)
    for name in "ab":
        assert {file.name for file in (tmp_path / name).iterdir()} == {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }


def test_the_same_program_for_optical_flow() -> None:
    import numpy as np
    from transformers import AutoModel, pipeline

    from perceiver.model.vision import optical_flow
    from perceiver.processing.optical_flow import OpticalFlowProcessor

    repo_id = str(GOLDEN / "optical_flow" / "hub")
    model = AutoModel.from_pretrained(repo_id)
    assert type(model) is optical_flow.OpticalFlowPerceiver
    assert type(model.backend_model) is optical_flow.OpticalFlow
    assert model.backend_model.config == model.config.backend_config
    frames = np.zeros((44, 48, 3), np.uint8), np.zeros((44, 48, 3), np.uint8)
    processor = OpticalFlowProcessor(patch_size=(44, 48))
    flow = processor.postprocess(model(processor.preprocess(frames)).logits, (44, 48))
    assert flow.shape == (1, 44, 48, 2)
    assert pipeline("optical-flow", model=repo_id)(frames, render=True).shape == (44, 48, 3)
    optical_flow.LitOpticalFlow.create(model.backend_model.config, params=repo_id)
