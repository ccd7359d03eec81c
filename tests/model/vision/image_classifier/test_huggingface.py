"""The Hugging Face image classifier: folders, names of classes, Auto classes, pipeline, Trainer, conversions."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from perceiver.model.vision import image_classifier
from perceiver.model.vision.image_classifier import (
    ImageClassifierConfig,
    PerceiverImageClassifier,
    PerceiverImageClassifierConfig,
    PerceiverImageClassifierInputProcessor,
    convert_checkpoint,
    convert_mnist_classifier_checkpoint,
)
from tests.model.helpers import (
    GOLDEN,
    assert_close,
    assert_same_parameters,
    golden_cases,
    golden_parameters,
    gradients,
)
from tests.model.vision.image_classifier.helpers import (
    FOURIER,
    KINDS,
    MNIST,
    MODELS,
    SOURCES,
    H,
    W,
    images,
    img_config,
    img_model,
)

every_model = pytest.mark.parametrize("name", MODELS)
CLOSE = {"atol": 5e-5, "rtol": 1e-5}  # logits are of size 10
CKPTS = [source for source in SOURCES if source.suffix == ".ckpt"]
DIGITS = {i: i for i in range(10)}


def hf_model(config: ImageClassifierConfig | None = None, **kwargs: Any) -> PerceiverImageClassifier:
    config = config or img_config()
    model = PerceiverImageClassifier(PerceiverImageClassifierConfig(config, **kwargs)).eval()
    model.backend_model.load_state_dict(img_model(config).state_dict())
    return model


def image_processor(**kwargs: Any) -> PerceiverImageClassifierInputProcessor:
    return PerceiverImageClassifierInputProcessor(do_center_crop=False, size={"height": H, "width": W}, **kwargs)


def recorded_images(name: str) -> list[PIL.Image.Image]:
    (case,) = golden_cases(name, "image_processor")
    return [PIL.Image.fromarray(case.inputs[key].numpy()) for key in sorted(case.inputs)]


def test_public_names() -> None:
    for name in image_classifier.__all__:
        found = getattr(importlib.import_module("perceiver.model.vision.image_classifier"), name)
        assert callable(found) and found.__name__ == name and found.__doc__
    # import paths of published checkpoints
    assert hasattr(importlib.import_module("perceiver.model.vision.image_classifier.backend"), "ImageEncoderConfig")


# --- folders ---


@every_model
def test_published_folder_gives_the_recorded_outputs(name: str, tmp_path: Path) -> None:
    hub = GOLDEN / name / "hub"
    model = AutoModelForImageClassification.from_pretrained(hub)
    assert type(model) is PerceiverImageClassifier and not model.training
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_same_parameters(again.state_dict(), model.state_dict())
    for case in golden_cases(name, "forward"):
        for loaded in (model, again):
            logits = loaded(pixel_values=case.inputs["inputs"]).logits
            torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=0)
    published, saved = (json.loads((folder / "config.json").read_text()) for folder in (hub, tmp_path))
    for key in ("model_config", "model_type", "architectures", "id2label", "label2id"):
        assert saved[key] == published[key]
    computed = "0.input_adapter.position_encoding.position_encoding"
    assert load_file(tmp_path / "model.safetensors").keys() == {
        f"backend_model.{name}" for name in golden_parameters(name) if name != computed
    }


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    model, x = hf_model(img_config({"adapter": kind})), images()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.backend_model.config == model.backend_model.config == loaded.config.backend_config
    assert_same_parameters(loaded.state_dict(), model.state_dict())
    torch.testing.assert_close(loaded(x).logits, model.backend_model(x), **CLOSE)
    assert AutoConfig.from_pretrained(tmp_path).backend_config.encoder.adapter == kind


@pytest.mark.parametrize(
    "encoder, written",
    [
        ({"num_adapter_channels": 256}, {}),
        ({}, {"num_adapter_channels": 9}),
        ({"adapter": "conv"}, {"adapter": "conv", "num_adapter_channels": 9}),
        ({"adapter": "learned", "num_adapter_channels": 256}, {"adapter": "learned"}),
    ],
)
def test_files_name_new_fields_only_where_they_say_something(
    encoder: dict[str, Any], written: dict[str, Any], tmp_path: Path
) -> None:
    """So perceiver-io 0.11, which does not know them, reads what it can read."""
    config = PerceiverImageClassifierConfig(img_config(encoder))
    config.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())["model_config"]["encoder"]
    assert {name: values[name] for name in ("adapter", "num_adapter_channels") if name in values} == written
    assert AutoConfig.from_pretrained(tmp_path).backend_config == config.backend_config == img_config(encoder)


def test_other_pixels_get_new_parameters(tmp_path: Path) -> None:
    """What does not fit is initialised: the convolution of a model of other channels, and all that follows from it."""
    model = hf_model(img_config({"adapter": "conv"}))
    model.save_pretrained(tmp_path)
    config = PerceiverImageClassifierConfig(img_config({"adapter": "conv", "num_adapter_channels": 101}))
    loaded = PerceiverImageClassifier.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    adapter = loaded.backend_model.encoder.input_adapter
    assert adapter.conv.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert (adapter.norm.weight == 1).all() and not adapter.norm.bias.any()
    assert not adapter.norm.running_mean.any() and (adapter.norm.running_var == 1).all()
    assert_same_parameters(
        loaded.backend_model.decoder.state_dict(), model.backend_model.decoder.state_dict()
    )  # fits, and stays


# --- names of classes ---


def test_published_names_are_numbers() -> None:
    config = AutoConfig.from_pretrained(MNIST / "hub")
    assert config.id2label == config.label2id == DIGITS or config.label2id == {str(i): i for i in range(10)}


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_names_come_from_the_number_of_classes(tmp_path: Path, classes: int) -> None:
    names = {i: f"LABEL_{i}" for i in range(classes)}
    model = hf_model(img_config(decoder={"num_classes": classes}))
    model.save_pretrained(tmp_path)
    for found in (model.config, AutoConfig.from_pretrained(tmp_path)):
        assert found.id2label == names and found.label2id == {name: i for i, name in names.items()}
        assert found.num_labels == classes


def test_given_names(tmp_path: Path) -> None:
    names = dict(enumerate("abcde"))
    hf_model(id2label=names).save_pretrained(tmp_path)
    config = PerceiverImageClassifier.from_pretrained(tmp_path).config
    assert config.id2label == names and config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}


def test_more_or_fewer_names_than_classes(tmp_path: Path) -> None:
    message = r"id2label names 3 classes, \[0, 1, 2\], the model has 5"
    with pytest.raises(ValueError, match=message):
        hf_model(id2label=dict(enumerate("abc")))
    hf_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # as transformers' models do
        AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3)


# --- forward ---


@pytest.mark.parametrize(
    "problem_type, labels",
    [
        ("single_label_classification", torch.tensor([0, 4, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])),
        ("regression", torch.randn(3, 5)),
    ],
)
def test_labels_give_the_loss(problem_type: Any, labels: torch.Tensor) -> None:
    x, model = images(3), hf_model(problem_type=problem_type)
    output = model(x, labels=labels)
    losses: dict[str, Any] = {
        "single_label_classification": F.cross_entropy,
        "multi_label_classification": F.binary_cross_entropy_with_logits,
        "regression": F.mse_loss,
    }
    torch.testing.assert_close(output.logits, model.backend_model(x), **CLOSE)
    torch.testing.assert_close(output.loss, losses[problem_type](output.logits, labels))
    loss, logits = model(pixel_values=x, labels=labels, return_dict=False)
    torch.testing.assert_close((loss, logits), (output.loss, output.logits), **CLOSE)
    assert model(x).loss is None and len(model(x, return_dict=False)) == 1
    if problem_type != "regression":  # the labels say it themselves
        inferring = hf_model()
        torch.testing.assert_close(inferring(x, labels=labels).loss, output.loss)
        assert inferring.config.problem_type == problem_type


@every_model
def test_recorded_loss(name: str) -> None:
    (case,) = golden_cases(name, "lit_step")
    model = AutoModelForImageClassification.from_pretrained(GOLDEN / name / "hub")
    loss = model(pixel_values=case.inputs["image"], labels=case.inputs["label"]).loss
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=0)


def test_wrong_labels() -> None:
    with pytest.raises(ValueError, match=r"labels span \[5, 5\], allowed is \[0, 4\]"):
        hf_model()(images(2), labels=torch.tensor([5, 5]))
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), expected \(2,\)"):
        hf_model()(images(2), labels=torch.tensor([1, 2, 3]))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able.* is deprecated:FutureWarning")
def test_checkpointing_changes_no_gradient() -> None:
    x, labels, results = images(3), torch.tensor([0, 4, 2]), []
    for on in (False, True):
        model = hf_model(img_config({"adapter": "conv"})).train()
        if on:
            model.gradient_checkpointing_enable()  # its name before transformers 5.23, too
        model(x, labels=labels).loss.backward()
        results.append(gradients(model))
    assert_close(results[1], results[0])


# --- image processor and pipeline ---


@every_model
def test_recorded_image_processor_and_pipeline(name: str) -> None:
    hub, pictures = GOLDEN / name / "hub", recorded_images(name)
    processor = AutoImageProcessor.from_pretrained(hub)
    assert type(processor) is PerceiverImageClassifierInputProcessor
    (case,) = golden_cases(name, "image_processor")
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values, case.outputs["pixel_values"], atol=1e-4, rtol=0)
    (case,) = golden_cases(name, "pipeline")
    results = pipeline("image-classification", model=str(hub))(pictures, top_k=3)
    for result, expected in zip(results, case.data["result"], strict=True):
        assert [str(found["label"]) for found in result] == [str(entry["label"]) for entry in expected]
        scores = [entry["score"] for entry in expected]
        assert [found["score"] for found in result] == pytest.approx(scores, abs=1e-4)


def test_pipeline_takes_what_people_have(tmp_path: Path) -> None:
    model = hf_model(id2label=dict(enumerate("abcde")))
    model.save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    pixels = torch.randint(0, 256, (20, 31, 3), dtype=torch.uint8).numpy()
    picture = PIL.Image.fromarray(pixels)
    picture.save(tmp_path / "picture.png")
    expected = model(**image_processor()(picture, return_tensors="pt")).logits[0].softmax(dim=-1)
    for image in (picture, str(tmp_path / "picture.png")):
        scores = {result["label"]: result["score"] for result in classify(image, top_k=5)}
        assert [scores[name] for name in "abcde"] == pytest.approx(expected.tolist(), abs=1e-5)
    grey = picture.convert("L")
    results = classify([picture, grey, picture], top_k=1, batch_size=2)
    assert [result[0]["score"] for result in results[::2]] == pytest.approx([expected.max().item()] * 2, abs=1e-5)
    assert len(results) == 3 and results[1] != results[0]


def test_trainer(tmp_path: Path) -> None:
    x = images(6)
    examples: Any = [{"pixel_values": image, "labels": torch.tensor(i % 5)} for i, image in enumerate(x)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    model = hf_model(img_config({"adapter": "conv"}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples)
    training.train()
    assert not torch.equal(
        model.state_dict()["backend_model.0.input_adapter.conv.weight"],
        before["backend_model.0.input_adapter.conv.weight"],
    )
    with torch.no_grad():
        expected = training.model.eval()(x, labels=torch.arange(6) % 5)
    assert training.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(training.predict(examples).predictions), expected.logits, **CLOSE)
    training.save_model(str(tmp_path / "saved"))
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert_same_parameters(again.state_dict(), training.model.state_dict())
    assert isinstance(again.backend_model.encoder.input_adapter.norm, nn.BatchNorm2d)


# --- conversion of checkpoints; of transformers' models: tests/parity ---


@pytest.mark.parametrize("file", CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_convert_checkpoint(tmp_path: Path, file: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(file.parent / "hub")
    given: Any = processor if file.name == "lit.ckpt" else str(file.parent / "hub")  # itself, or where it is
    convert_checkpoint(save_dir=tmp_path / "out", ckpt_url=str(file), image_processor=given)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    found, published = model.backend_model.state_dict(), golden_parameters(file.parent.name)
    assert_same_parameters(found, {name: value for name, value in published.items() if name in found})
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").to_dict() == processor.to_dict()
    assert model.config.id2label == {i: f"LABEL_{i}" for i in range(model.config.num_labels)}
    (case,) = golden_cases(file.parent.name, "forward")
    torch.testing.assert_close(model(case.inputs["inputs"]).logits, case.outputs["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("file", ["lit.ckpt", "lit_080.ckpt"])
def test_convert_mnist_classifier_checkpoint(tmp_path: Path, file: str) -> None:
    convert_mnist_classifier_checkpoint(save_dir=tmp_path / "out", ckpt_url=str(MNIST / file))
    written = [
        json.loads((tmp_path / "out" / name).read_text()) for name in ("config.json", "preprocessor_config.json")
    ]
    published = [json.loads((MNIST / "hub" / name).read_text()) for name in ("config.json", "preprocessor_config.json")]
    for key in ("id2label", "label2id", "model_type", "model_config"):
        assert written[0][key] == published[0][key]
    for key, value in published[1].items():
        if key not in ("crop_size", "size", "resample"):  # of steps that are off
            assert written[1][key] == pytest.approx(value), key
    (case,) = golden_cases("img_clf_mnist", "pipeline")
    results = pipeline("image-classification", model=str(tmp_path / "out"))(recorded_images("img_clf_mnist"), top_k=3)
    assert [[r["label"] for r in result] for result in results] == [
        [r["label"] for r in result] for result in case.data["result"]
    ]
    assert type(results[0][0]["label"]) is int


def test_own_names(tmp_path: Path) -> None:
    names = dict(enumerate("abcdefg"))
    convert_checkpoint(tmp_path / "out", FOURIER / "lit.ckpt", str(FOURIER / "hub"), id2label=names)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == names and config.label2id == {name: i for i, name in names.items()}


def test_failed_conversions_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    hub = str(FOURIER / "hub")
    with pytest.raises(ValueError, match=r"id2label names 3 classes, .* the model has 7"):
        convert_checkpoint(tmp_path / "out", FOURIER / "lit.ckpt", hub, id2label=dict(enumerate("abc")))
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        convert_checkpoint(tmp_path / "out", tmp_path / "none.ckpt", hub)
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        convert_checkpoint(tmp_path / "out", FOURIER / "lit.ckpt", str(tmp_path))
    with pytest.raises(ValueError, match="has no field"):
        convert_checkpoint(tmp_path / "out", GOLDEN / "txt_clf" / "lit.ckpt", hub)
    with pytest.raises(ValueError, match=r"id2label names 10 classes, .* the model has 7"):
        convert_mnist_classifier_checkpoint(tmp_path / "out", FOURIER / "lit.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"config.json": "mine"}
