"""transformers' own test configurations of its Perceiver, through `convert_model`: a part of `transformers_mixins.py`.

The configuration and the inputs are those of `PerceiverModelTester`, which needs a checkout, with variants of what a
configuration can say. A model that is converted gives the outputs of the original. One that is not is refused with a
reason, in `REFUSED`.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PerceiverImageProcessorPil, PerceiverTokenizer

from perceiver.model.multimodal import autoencoder
from perceiver.model.text import classifier, mlm
from perceiver.model.vision import image_classifier, optical_flow
from tests.peers import transformers_source

VARIANTS: dict[str, dict[str, Any]] = {
    "the test's own": {},
    "blocks": {"num_blocks": 3},
    "one layer": {"num_self_attends_per_block": 1},
    "heads": {"num_self_attention_heads": 4, "num_cross_attention_heads": 2},
    "widening": {"self_attention_widening_factor": 2, "cross_attention_widening_factor": 1},
    "channels of inputs": {"qk_channels": None, "v_channels": None},
    "channels of latents": {"qk_channels": None, "v_channels": None, "cross_attention_shape_for_attention": "q"},
    "fewer channels of keys": {"qk_channels": 8},
    "no query residual": {"use_query_residual": False},
    "labels": {"num_labels": 6},
    "d_model": {"d_model": 32},
    "latents": {"num_latents": 7, "d_latents": 24, "qk_channels": 24, "v_channels": 24},
    "relu": {"hidden_act": "relu"},
    "values unlike latents": {"v_channels": 40},
}
REFUSED = {
    "relu": r"hidden_act='relu' can't be converted, only 'gelu' \(exact\)",
    # transformers' own model of it fails: the residual of its self-attention adds 40 channels to 20
    "values unlike latents": "v_channels=40 of the self-attention must equal d_latents=20, its residual",
}
OTHER_VIDEO = r"output_shape=\(1, 16, 224, 224\) can't be converted: .* make videos of \(5, 128, 128\)"
MODELS: dict[str, types.ModuleType] = {
    "PerceiverForMaskedLM": mlm,
    "PerceiverForSequenceClassification": classifier,
    "PerceiverForImageClassificationLearned": image_classifier,
    "PerceiverForImageClassificationFourier": image_classifier,
    "PerceiverForImageClassificationConvProcessing": image_classifier,
    "PerceiverForOpticalFlow": optical_flow,
    "PerceiverForMultimodalAutoencoding": autoencoder,
}
CLASSES: dict[types.ModuleType, Any] = {
    mlm: mlm.PerceiverMaskedLanguageModel,
    classifier: classifier.PerceiverTextClassifier,
    image_classifier: image_classifier.PerceiverImageClassifier,
    optical_flow: optical_flow.OpticalFlowPerceiver,
    autoencoder: autoencoder.PerceiverMultimodalAutoencoder,
}


def save_original(folder: Path, name: str, **kwargs: Any) -> tuple[Any, Any]:
    """A folder of transformers, and the model in it, with random parameters; the test's inputs, two of them."""
    tester = transformers_source.test_module("models.perceiver.test_modeling_perceiver").PerceiverModelTester(None)
    tester.vocab_size = 262  # of the byte tokenizer, which a conversion wants beside the model
    tester.num_labels = kwargs.get("num_labels", tester.num_labels)
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    config, inputs, mask, *_ = tester.prepare_config_and_inputs(model_class)
    for key, value in kwargs.items():
        setattr(config, key, value)
    model = model_class(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    PerceiverTokenizer().save_pretrained(folder)
    PerceiverImageProcessorPil().save_pretrained(folder)
    if name.endswith(("Fourier", "ConvProcessing")):  # whose size no configuration says
        inputs = torch.randn(2, 3, 224, 224)
    if isinstance(inputs, dict):
        return model, {key: x[:2] for key, x in inputs.items()}
    return model, {"inputs": inputs[:2], "attention_mask": None if mask is None else mask[:2]}


def autoencoder_outputs(theirs: Any, ours: Any, inputs: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs at some points of the video, and all of the audio. Ours has channels last, and no label as an input."""
    points = {"image": torch.tensor([100, 0, 5119]), "audio": torch.arange(50), "label": None}
    expected = theirs({**inputs}, subsampled_output_points=points).logits
    found = ours(
        inputs["image"].movedim(2, -1),
        inputs["audio"][..., 0],
        video_points=points["image"],
        audio_points=points["audio"],
    )
    return [expected["image"], expected["audio"], expected["label"]], [found.video, found.audio, found.logits]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_converted_models_are_equal(name: str, variant: str, tmp_path: Path) -> None:
    package, kwargs = MODELS[name], VARIANTS[variant]
    if package is autoencoder:  # one that decodes the video which it encodes, of the size of the test's inputs
        kwargs = {**kwargs, "image_size": 8, "output_shape": [1, 5, 32, 32]}
    theirs, inputs = save_original(tmp_path / "theirs", name, **kwargs)
    if variant in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[variant]):
            package.convert_model(tmp_path / "ours", tmp_path / "theirs")
        return
    package.convert_model(tmp_path / "ours", tmp_path / "theirs")
    ours = CLASSES[package].from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        if package is autoencoder:
            expected, found = autoencoder_outputs(theirs, ours, inputs)
        else:
            expected, x = [theirs(**inputs).logits], inputs["inputs"]
            kwargs = {"attention_mask": inputs["attention_mask"]} if package in (mlm, classifier) else {}
            found = [ours(x.movedim(1, -1) if package is image_classifier else x, **kwargs).logits]
    for one, other in zip(expected, found, strict=True):
        assert one.std() > 1e-4  # flow is in units of 100 pixels
        torch.testing.assert_close(other.reshape(one.shape), one, atol=1e-4 * one.std().item(), rtol=1e-4)


def test_a_decoder_of_another_video_is_refused(tmp_path: Path) -> None:
    """The configuration as the test has it: it encodes 5 frames of 32 x 32 pixels, and decodes 16 of 224 x 224."""
    save_original(tmp_path / "theirs", "PerceiverForMultimodalAutoencoding")
    with pytest.raises(ValueError, match=OTHER_VIDEO):
        autoencoder.convert_model(tmp_path / "ours", tmp_path / "theirs")


if not transformers_source.CHECKOUT:
    pytestmark = pytest.mark.skip(transformers_source.NEEDS_CHECKOUT)
transformers_source.load()
