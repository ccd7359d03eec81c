"""Parity with transformers' image classifiers and its optical flow, with random weights, converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PerceiverConfig,
    PerceiverForImageClassificationConvProcessing,
    PerceiverForImageClassificationFourier,
    PerceiverForImageClassificationLearned,
    PerceiverForOpticalFlow,
    PerceiverImageProcessorPil,
    PreTrainedModel,
    pipeline,
)

from perceiver.model.vision import image_classifier, optical_flow
from perceiver.model.vision.image_classifier import (
    PerceiverImageClassifierInputProcessor,
    huggingface as image_huggingface,
)
from perceiver.model.vision.optical_flow import huggingface as flow_huggingface
from tests.model.helpers import GOLDEN

TINY: dict[str, Any] = {
    "num_latents": 5,
    "d_latents": 24,
    "d_model": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 1,
    "num_labels": 7,
    "image_size": 6,
    "train_size": [6, 9],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shape of q": {"cross_attention_shape_for_attention": "q"},
    "channels given": {"qk_channels": 12, "v_channels": 24, "num_cross_attention_heads": 2},
    "two blocks": {"num_blocks": 2},
    "wide": {"self_attention_widening_factor": 3, "cross_attention_widening_factor": 2},
    "other sizes": {"d_latents": 12, "num_latents": 7, "num_labels": 1, "image_size": 7, "train_size": [5, 8]},
    "gelu_python": {"hidden_act": "gelu_python"},
}
every_variant = pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)

IMAGE_CLASSES: dict[str, type[PreTrainedModel]] = {
    "fourier": PerceiverForImageClassificationFourier,
    "learned": PerceiverForImageClassificationLearned,
    "conv": PerceiverForImageClassificationConvProcessing,
}
every_kind = pytest.mark.parametrize("kind", IMAGE_CLASSES)


def randomised(model: nn.Module) -> Any:
    """All parameters are random, biases and norms, too, and so are the statistics of a batch norm."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def source_model(folder: Path, model_class: type[PreTrainedModel], **kwargs: Any) -> Any:
    """Saved with the official image processor."""
    torch.manual_seed(0)
    config = TINY | kwargs if "id2label" not in kwargs else {**TINY, **kwargs, "num_labels": len(kwargs["id2label"])}
    model = randomised(model_class(PerceiverConfig(**config)))
    model.save_pretrained(folder)
    PerceiverImageProcessorPil().save_pretrained(folder)
    return model


# --- image classifiers ---


def converted_pair(folder: Path, kind: str, **kwargs: Any) -> tuple[Any, Any]:
    theirs = source_model(folder / "source", IMAGE_CLASSES[kind], **kwargs)
    image_classifier.convert_model(save_dir=folder / "out", source_repo_id=str(folder / "source"))
    ours = AutoModelForImageClassification.from_pretrained(folder / "out")
    assert type(ours) is image_classifier.PerceiverImageClassifier
    return ours, theirs


def their_logits(theirs: Any, x: Tensor) -> Tensor:
    """Theirs takes channels first, and interpolates learned positions if asked to."""
    interpolation = {"interpolate_pos_encoding": True} if type(theirs) is IMAGE_CLASSES["learned"] else {}
    with torch.no_grad():
        logits: Tensor = theirs(inputs=x.movedim(-1, 1), **interpolation).logits
    return logits


# the adapters differ in their channels, the rest is the same
IMAGE_VARIANTS = [
    (kind, name) for kind in IMAGE_CLASSES for name in VARIANTS if kind == "fourier" or name in ("plain", "other sizes")
]


@pytest.mark.parametrize("kind, name", IMAGE_VARIANTS)
def test_converted_image_classifier_is_equal(tmp_path: Path, kind: str, name: str) -> None:
    ours, theirs = converted_pair(tmp_path, kind, **VARIANTS[name])
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.config.id2label == theirs.config.id2label and ours.config.label2id == theirs.config.label2id
    assert ours.backend_model.config.encoder.adapter == kind
    size = theirs.config.image_size
    for height, width in ((size, size), (13, 9), (8, 21)):
        x = torch.randn(2, height, width, 3)
        expected = their_logits(theirs, x)
        with torch.no_grad():
            torch.testing.assert_close(ours(x).logits, expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.01


@every_kind
def test_image_classifiers_in_double_precision_do_not_differ(tmp_path: Path, kind: str) -> None:
    ours, theirs = converted_pair(tmp_path, kind)
    x = torch.randn(2, 13, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(ours.double()(x).logits, their_logits(theirs.double(), x), atol=1e-12, rtol=0)


@every_kind
def test_losses_gradients_and_statistics_are_equal(tmp_path: Path, kind: str) -> None:
    """In training mode, in which a batch norm takes the statistics of the batch and counts."""
    models = converted_pair(tmp_path, kind, attention_probs_dropout_prob=0.0)
    x, labels = torch.randn(4, 6, 6, 3), torch.tensor([0, 3, 6, 2])
    inputs = [{"pixel_values": x}, {"inputs": x.movedim(-1, 1)}]
    losses = [model.train()(**values, labels=labels).loss for model, values in zip(models, inputs, strict=True)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert models[0].config.problem_type == models[1].config.problem_type == "single_label_classification"
    for loss in losses:
        loss.backward()
    ours, theirs = models
    name = {"fourier": None, "learned": "position_embeddings.position_embeddings", "conv": "convnet.conv.weight"}[kind]
    own_name = {"fourier": None, "learned": "pos_embedding.weight", "conv": "conv.weight"}[kind]
    found = ours.backend_model.encoder
    gradients = [found.latent_provider._query.grad, theirs.perceiver.embeddings.latents.grad]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    if name is not None:
        gradient = found.input_adapter.get_parameter(own_name).grad
        expected = theirs.perceiver.input_preprocessor.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    if kind == "conv":
        torch.testing.assert_close(
            found.input_adapter.norm.running_var, theirs.perceiver.input_preprocessor.convnet.batchnorm.running_var
        )


def test_names_and_problem_type_come_along(tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "ant"}
    label2id = {name: i for i, name in names.items()}
    ours, _ = converted_pair(
        tmp_path, "fourier", id2label=names, label2id=label2id, problem_type="multi_label_classification"
    )
    assert ours.config.id2label == names and ours.config.problem_type == "multi_label_classification"
    pixels = torch.randint(0, 256, (30, 41, 3), dtype=torch.uint8).numpy()
    results = [
        pipeline("image-classification", model=str(tmp_path / name))(PIL.Image.fromarray(pixels), top_k=3)
        for name in ("source", "out")
    ]
    for found, expected in zip(results[1], results[0], strict=True):
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


PUBLISHED_PROCESSOR = {
    "crop_size": 200,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "PerceiverFeatureExtractor",
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.1],
    "resample": 3,
    "size": 96,
}


@pytest.mark.parametrize("settings", [PUBLISHED_PROCESSOR, {"size": {"height": 64, "width": 48}, "resample": 2}])
def test_image_processor_comes_along(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With the settings of the source, also in the form of 2022, in which they were published."""
    source_model(tmp_path / "source", IMAGE_CLASSES["conv"])
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(settings))
    image_classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert type(ours) is PerceiverImageClassifierInputProcessor
    theirs = PerceiverImageProcessorPil.from_pretrained(tmp_path / "source")
    pixels = torch.randint(0, 256, (120, 140, 3), dtype=torch.uint8).numpy()
    expected = theirs(PIL.Image.fromarray(pixels), return_tensors="pt")["pixel_values"].movedim(1, -1)
    found = ours(PIL.Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_image_classifiers_that_cannot_be_converted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")

    def convert(folder: Path) -> None:
        image_classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(folder))

    source_model(tmp_path / "flow", PerceiverForOpticalFlow)
    with pytest.raises(ValueError, match=r"architecture 'PerceiverForOpticalFlow', expected one of .*Fourier, .*Conv"):
        convert(tmp_path / "flow")
    source = tmp_path / "source"
    source_model(source, IMAGE_CLASSES["fourier"])
    config = json.loads((source / "config.json").read_text())
    for architectures, message in (
        (None, "has the architecture 'unknown', expected one of"),
        (
            ["PerceiverForImageClassificationLearned"],
            "is no PerceiverForImageClassificationLearned, it lacks",
        ),
    ):
        (source / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
        with pytest.raises(ValueError, match=message):
            convert(source)
    (source / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a"}, "label2id": {"a": 0}}))
    with pytest.raises(ValueError, match=r"is no PerceiverForImageClassificationFourier, it lacks .*final_layer"):
        convert(source)
    (source / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match="hidden_act='relu' can't be converted"):
        convert(source)
    (source / "config.json").write_text(json.dumps(config))
    (source / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        convert(source)
    with pytest.raises(ValueError, match="is a 'perceiver-io-image-classifier' model, expected 'perceiver'"):
        convert(GOLDEN / "img_clf_mnist" / "hub")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"config.json": "mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"flow", "out", "source"}


# --- optical flow ---


@every_variant
def test_converted_optical_flow_is_equal(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    theirs = source_model(tmp_path / "source", PerceiverForOpticalFlow, **kwargs)
    optical_flow.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModel.from_pretrained(tmp_path / "out")
    assert type(ours) is optical_flow.OpticalFlowPerceiver
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = torch.randn(2, 2, 27, *theirs.config.train_size)
    with torch.no_grad():
        expected, flow = theirs(inputs=x).logits, ours(x).logits
        torch.testing.assert_close(flow, expected, atol=3e-5, rtol=1e-5)
        assert expected.std() > 0.1
        expected, flow = theirs.double()(inputs=x.double()).logits, ours.double()(x.double()).logits
        torch.testing.assert_close(flow, expected, atol=1e-12, rtol=0)


def test_optical_flow_pipeline_of_a_converted_model(tmp_path: Path) -> None:
    theirs = source_model(tmp_path / "source", PerceiverForOpticalFlow)
    optical_flow.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    estimate = pipeline("optical-flow", model=str(tmp_path / "out"))
    pair = tuple(torch.randint(0, 256, (2, 6, 9, 3), dtype=torch.uint8).numpy())
    x = estimate.flow_processor.preprocess(pair)
    with torch.no_grad():
        expected = 20 * theirs(inputs=x).logits[0]
    torch.testing.assert_close(torch.from_numpy(estimate(pair)), expected, atol=1e-4, rtol=1e-5)


def test_optical_flow_that_cannot_be_converted(tmp_path: Path) -> None:
    source_model(tmp_path / "image", IMAGE_CLASSES["fourier"])
    with pytest.raises(ValueError, match=r"image is no PerceiverForOpticalFlow, it lacks perceiver"):
        optical_flow.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "image"))
    source_model(tmp_path / "relu", PerceiverForOpticalFlow, hidden_act="relu")
    with pytest.raises(ValueError, match="hidden_act='relu' can't be converted"):
        optical_flow.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "relu"))
    with pytest.raises(ValueError, match="is a 'perceiver-io-optical-flow' model, expected 'perceiver'"):
        optical_flow.convert_model(tmp_path / "out", str(GOLDEN / "optical_flow" / "hub"))
    assert not (tmp_path / "out").exists()


# --- the official geometries ---

IMAGENET = PerceiverConfig(
    num_latents=512,
    d_latents=1024,
    num_blocks=8,
    num_self_attends_per_block=6,
    num_self_attention_heads=8,
    num_cross_attention_heads=1,
    num_labels=1000,
    image_size=224,
)
FLOW = PerceiverConfig(
    num_latents=2048,
    d_latents=512,
    num_blocks=1,
    num_self_attends_per_block=24,
    num_self_attention_heads=16,
    num_cross_attention_heads=1,
    train_size=[368, 496],
)
OFFICIAL: dict[str, Any] = {
    "fourier": image_classifier.perceiver_io_fourier(),
    "learned": image_classifier.perceiver_io_learned(),
    "conv": image_classifier.perceiver_io_conv(),
    "flow": optical_flow.perceiver_io_optical_flow(),
}


@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_configurations(kind: str) -> None:
    """The functions that the paper's variants have here are what is converted, but for channels that are defaults."""
    if kind == "flow":
        config, model_class = flow_huggingface.official_backend_config(FLOW), optical_flow.OpticalFlow
    else:
        official = {weights.model_class: weights for weights in image_huggingface.OFFICIAL}
        config = official[IMAGE_CLASSES[kind]].config(IMAGENET)
        model_class = image_classifier.ImageClassifier
    with torch.device("meta"):
        shapes = [
            {name: value.shape for name, value in model_class(values).state_dict().items()}
            for values in (config, OFFICIAL[kind])
        ]
    assert shapes[0] == shapes[1]
    for part in ("encoder", "decoder"):
        found, named = vars(getattr(config, part)), vars(getattr(OFFICIAL[kind], part))
        different = {name for name in found if found[name] != named[name]}
        assert {name for name in different if "_channels" not in name} == set()
    assert (config.num_latents, config.num_latent_channels) == (OFFICIAL[kind].num_latents, config.num_latent_channels)


@pytest.mark.slow
@every_kind
def test_official_image_classifier(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    theirs = randomised_norms(IMAGE_CLASSES[kind](IMAGENET))
    theirs.save_pretrained(tmp_path / "source")
    PerceiverImageProcessorPil().save_pretrained(tmp_path / "source")
    image_classifier.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    pixels = torch.randint(0, 256, (300, 260, 3), dtype=torch.uint8).numpy()
    x = AutoImageProcessor.from_pretrained(tmp_path / "out")(PIL.Image.fromarray(pixels), return_tensors="pt")
    with torch.no_grad():
        expected = theirs(inputs=x["pixel_values"].movedim(-1, 1)).logits
        torch.testing.assert_close(ours(**x).logits, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.slow
def test_official_optical_flow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomised_norms(PerceiverForOpticalFlow(FLOW))
    theirs.save_pretrained(tmp_path / "source")
    optical_flow.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModel.from_pretrained(tmp_path / "out")
    x = torch.rand(1, 2, 27, 368, 496) * 2 - 1
    with torch.no_grad():
        expected, flow = 100 * theirs(inputs=x).logits, 100 * ours(x).logits
    torch.testing.assert_close(flow, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


def randomised_norms(model: Any) -> Any:
    """Vectors get random values; matrices have those of the initialisation, for which a deep model is well-behaved."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
