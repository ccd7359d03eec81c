"""The image classifier: recorded values, the three adapters by hand, images of other sizes, each field, errors."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core.config import ClassificationDecoderConfig, PerceiverIOConfig
from perceiver.model.core.position import FourierPositionEncoding
from perceiver.model.vision.image_classifier.backend import (
    ImageClassifier,
    ImageClassifierConfig,
    ImageEncoderConfig,
    pad_same,
    perceiver_io_conv,
    perceiver_io_fourier,
    perceiver_io_learned,
)
from tests.model.helpers import alike, assert_close, golden_cases, golden_parameters, gradients, json_copy
from tests.model.vision.helpers import LargestTensor
from tests.model.vision.image_classifier.helpers import KINDS, MODELS, SOURCES, H, W, images, img_config, img_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
every_kind = pytest.mark.parametrize("kind", KINDS)


def adapter_of(model: ImageClassifier) -> Any:
    return model.encoder.input_adapter


# --- recorded values ---


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.parent.name}/{source.name}")
def test_recorded_outputs(source: Any) -> None:
    checkpoint = read_checkpoint(source)
    model = ImageClassifier(ImageClassifierConfig.of_hyper_parameters(checkpoint.hyper_parameters)).eval()
    load_parameters(model, checkpoint.state_dict, source)
    (case,) = golden_cases(source.parent.name, "forward")
    torch.testing.assert_close(model(case.inputs["inputs"]), case.outputs["logits"], atol=1e-4, rtol=0)
    latents = model.encoder(case.inputs["inputs"])
    torch.testing.assert_close(latents, case.outputs["encoder_latents"], atol=1e-4, rtol=0)
    (case,) = golden_cases(source.parent.name, "backend_forward")  # masked pixels
    logits = model.decoder(model.encoder(case.inputs["inputs"], case.inputs["pad_mask"]))
    torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_names_are_the_published_ones(name: str) -> None:
    source = next(source for source in SOURCES if source.parent.name == name)
    config = ImageClassifierConfig.from_dict(read_checkpoint(source).hyper_parameters)
    found = {key: value.shape for key, value in ImageClassifier(config).state_dict().items()}
    computed = "0.input_adapter.position_encoding.position_encoding"  # a buffer in published files
    published = golden_parameters(name)
    assert published.keys() - found.keys() == {computed}
    assert found == {key: value.shape for key, value in published.items() if key != computed}


@pytest.mark.parametrize(
    "config, num_parameters",
    [
        (perceiver_io_fourier(), 48_440_627),
        (perceiver_io_learned(), 62_255_848),
        (perceiver_io_conv(), 48_646_522),
    ],
    ids=KINDS,
)
def test_official_geometries(config: ImageClassifierConfig, num_parameters: int) -> None:
    with torch.device("meta"):
        model = ImageClassifier(config)
        x = torch.empty(2, 224, 224, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    inputs = {"fourier": (50176, 261), "learned": (50176, 512), "conv": (3025, 322)}[config.encoder.adapter]
    assert adapter_of(model)(x).shape == (2, *inputs)


def test_config_survives_its_json() -> None:
    config = img_config({"adapter": "conv", "num_adapter_channels": 3}, num_latents=4)
    assert ImageClassifierConfig(**json_copy(config)) == config
    assert config.encoder.image_shape == (H, W, 3)


def test_published_defaults() -> None:
    config = ImageEncoderConfig()
    assert (config.image_shape, config.num_frequency_bands, config.adapter) == ((224, 224, 3), 32, "fourier")


# --- shapes ---


@every_kind
def test_shapes(kind: str) -> None:
    model, x = img_model(img_config({"adapter": kind})), images()
    inputs = {"fourier": (H * W, 17), "learned": (H * W, 18), "conv": (2 * 3, 23)}[kind]
    assert adapter_of(model)(x).shape == (2, *inputs) and adapter_of(model).num_input_channels == inputs[1]
    assert model.encoder(x).shape == (2, 6, 20)
    assert model(x).shape == (2, 5)


def test_output_queries_give_logits_of_their_own() -> None:
    model, x = img_model(img_config(decoder={"num_output_queries": 3})), images()
    logits, latents = model(x), model.encoder(x)
    assert logits.shape == (2, 3, 5)
    for i in range(3):
        query = model.decoder.output_query_provider()[:, i : i + 1]
        torch.testing.assert_close(model.decoder(latents, query), logits[:, i], **CLOSE)


@every_kind
def test_examples_of_a_batch_do_not_depend_on_each_other(kind: str) -> None:
    model, x = img_model(img_config({"adapter": kind})), images(3)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1]), model(x)[i : i + 1], **CLOSE)


# --- the adapters by hand ---


def test_fourier_adapter_by_hand() -> None:
    result, x = adapter_of(img_model()), images()
    codes = FourierPositionEncoding((H, W), 3)()
    expected = torch.cat([x.reshape(2, H * W, 3), codes.expand(2, -1, -1)], dim=-1)
    assert torch.equal(result(x), expected)


def test_learned_adapter_by_hand() -> None:
    adapter, x = adapter_of(img_model(img_config({"adapter": "learned"}))), images()
    pixels = F.conv2d(x.movedim(-1, 1), adapter.linear.weight[:, :, None, None], adapter.linear.bias)
    positions = adapter.pos_embedding.weight @ adapter.pos_projection.weight.T + adapter.pos_projection.bias
    expected = torch.cat([pixels.flatten(2).mT, positions.expand(2, -1, -1)], dim=-1)
    torch.testing.assert_close(adapter(x), expected, **CLOSE)


def test_conv_adapter_by_hand() -> None:
    adapter, x = adapter_of(img_model(img_config({"adapter": "conv"}))), images()
    y = F.conv2d(x.movedim(-1, 1), adapter.conv.weight, stride=2, padding=3)
    y = (y - adapter.norm.running_mean[:, None, None]) / (adapter.norm.running_var[:, None, None] + 1e-5).sqrt()
    y = F.relu(y * adapter.norm.weight[:, None, None] + adapter.norm.bias[:, None, None])
    y = F.max_pool2d(y, 3, 2)
    assert y.shape == (2, 9, 2, 3)
    codes = FourierPositionEncoding((H // 4, W // 4), 3)(shape=(2, 3))
    expected = torch.cat([y.flatten(2).mT, codes.expand(2, -1, -1)], dim=-1)
    torch.testing.assert_close(adapter(x), expected, **CLOSE)


@pytest.mark.parametrize("shape", [(24, 18), (23, 17), (5, 8)])
def test_conv_same_halves_every_size_as_xla_does(shape: tuple[int, int]) -> None:
    """Windows of stride 2 are every second one of those of stride 1: from the second on if the size is even."""
    x, kernel = torch.randn(2, 3, *shape), torch.randn(4, 3, 7, 7)
    halved = F.conv2d(pad_same(x, 7), kernel, stride=2)
    first = [1 - size % 2 for size in shape]
    expected = F.conv2d(x, kernel, padding=3)[:, :, first[0] :: 2, first[1] :: 2]
    assert halved.shape[2:] == tuple(-(-size // 2) for size in shape)
    torch.testing.assert_close(halved, expected, atol=1e-4, rtol=1e-4)


def test_conv_same_adapter_halves_twice() -> None:
    adapter, x = adapter_of(img_model(img_config({"adapter": "conv_same"}))), images()
    assert adapter(x).shape[1] == -(-H // 4) * -(-W // 4)


# --- images of other sizes ---

SIZES = [(5, 5), (6, 9), (23, 7), (H, 2 * W)]


@every_kind
@pytest.mark.parametrize("height, width", SIZES)
def test_other_sizes_are_classified(kind: str, height: int, width: int) -> None:
    model, x = img_model(img_config({"adapter": kind})), images(3, height, width)
    num_inputs = ((height - 1) // 4) * ((width - 1) // 4) if kind == "conv" else height * width
    assert adapter_of(model)(x).shape[:2] == (3, num_inputs)
    logits = model(x)
    assert logits.shape == (3, 5) and logits.isfinite().all() and (logits[0] - logits[1]).abs().max() > 1e-4


def test_pixels_and_positions_are_in_the_same_order() -> None:
    """Each pixel of an image that shows its own coordinates has the channels of that position, whatever the size."""
    for height, width in [(H, W), *SIZES]:
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        inputs = adapter_of(img_model())(torch.stack([y, x, y], dim=-1)[None])
        torch.testing.assert_close(inputs[..., 3:5], inputs[..., :2])


def test_learned_positions_are_interpolated() -> None:
    adapter = adapter_of(img_model(img_config({"adapter": "learned"})))
    torch.nn.init.eye_(adapter.pos_projection.weight)
    torch.nn.init.zeros_(adapter.pos_projection.bias)
    # a ramp along the height, one along the width, and a constant
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    with torch.no_grad():
        for channel, values in enumerate((y / H, x / W, torch.full((H, W), 3.0))):
            adapter.pos_embedding.weight[:, channel] = values.flatten()

    def positions(height: int, width: int) -> Tensor:
        return adapter(images(1, height, width))[0, :, 9:].unflatten(0, (height, width))

    for height, width in SIZES:
        found = positions(height, width)
        torch.testing.assert_close(found[..., 2], torch.full((height, width), 3.0))
        torch.testing.assert_close(found[:, :1, 0].expand(-1, width), found[..., 0])
        torch.testing.assert_close(found[:1, :, 1].expand(height, -1), found[..., 1])
        assert (found[..., 0].diff(dim=0) > 0).all() and (found[..., 1].diff(dim=1) > 0).all()
    # away from the border, a ramp of twice the cells is the same ramp, up to what bicubic makes of it
    found = positions(2 * H, 2 * W)[6:-6, 6:-6]
    torch.testing.assert_close(found[:, 0, 0], ((torch.arange(2 * H) + 0.5) / (2 * H))[6:-6], atol=0.008, rtol=0)
    torch.testing.assert_close(found[0, :, 1], ((torch.arange(2 * W) + 0.5) / (2 * W))[6:-6], atol=0.008, rtol=0)


@given(height=st.integers(5, 29), width=st.integers(5, 29))
@settings(max_examples=20)
def test_conv_adapter_has_as_many_positions_as_outputs(height: int, width: int) -> None:
    adapter = adapter_of(img_model(img_config({"adapter": "conv"})))
    rows, columns = (height - 1) // 4, (width - 1) // 4
    x = adapter(images(1, height, width))
    assert x.shape == (1, rows * columns, 23)
    assert torch.equal(x[0, :, 9:], FourierPositionEncoding((2, 3), 3)(shape=(rows, columns))[0])


# --- training ---


@pytest.mark.parametrize("offloading", [False, True])
@every_kind
def test_checkpointing_changes_no_output_and_no_gradient(kind: str, offloading: bool) -> None:
    x, results = images(), []
    config = img_config({"adapter": kind, "num_self_attention_blocks": 2, "num_cross_attention_layers": 2})
    for on in (False, True):
        model = img_model(replace(config, activation_checkpointing=on, activation_offloading=on and offloading)).train()
        logits = model(x)
        logits.square().sum().backward()
        results.append({"logits": logits.detach()} | gradients(model))
    assert_close(results[1], results[0])


@every_kind
def test_gradients_reach_every_parameter_and_every_pixel(kind: str) -> None:
    model, x = img_model(img_config({"adapter": kind})).train(), images().requires_grad_()
    model(x).square().sum().backward()
    # the softmax of one score per query and key does not depend on the bias of keys
    names = [name for name, _ in model.named_parameters() if not name.endswith("k_proj.bias")]
    found = gradients(model)
    assert [name for name in names if name not in found or not found[name].any()] == []
    assert x.grad is not None and x.grad.isfinite().all()
    assert (x.grad[:, 0] != 0).any() and (x.grad[:, -1] != 0).any() and (x.grad[:, :, -1] != 0).any()


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = ImageClassifier(img_config({"adapter": "conv", "num_adapter_channels": 101}, {"init_scale": 0.01}))
    adapter, linear = adapter_of(model), model.decoder.output_adapter.linear
    assert adapter.conv.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.3) and not linear.bias.any()
    for value in (adapter.norm.weight, adapter.norm.running_var):
        assert (value == 1).all()
    for value in (adapter.norm.bias, adapter.norm.running_mean):
        assert (value == 0).all()
    model.train()(images())
    assert adapter.norm.running_mean.any()
    model.init_parameters()
    assert not adapter.norm.running_mean.any() and (adapter.norm.running_var == 1).all()


@pytest.mark.parametrize("freeze", [False, True])
@every_kind
def test_a_frozen_encoder_stays_as_it_is(kind: str, freeze: bool) -> None:
    """A batch norm has statistics, too, which are no parameters."""
    model = ImageClassifier(img_config({"adapter": kind, "freeze": freeze})).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    loss = model(images()).square().sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    same = {name for name, value in model.encoder.state_dict().items() if torch.equal(value, before[name])}
    assert (same == before.keys()) == freeze
    assert ("input_adapter.norm.running_mean" in before) == (kind == "conv")
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())


def test_a_frozen_conv_adapter_gives_the_same_in_training() -> None:
    model, x = img_model(img_config({"adapter": "conv", "freeze": True})), images()
    expected = model(x)
    torch.testing.assert_close(model.train()(x), expected, **CLOSE)


def test_evaluation_is_deterministic_and_dropout_is_not() -> None:
    model, x = img_model(img_config({"dropout": 0.3}, {"dropout": 0.3})), images()
    torch.testing.assert_close(model(x), model(x), **CLOSE)
    model.train()
    assert not torch.allclose(model(x), model(x), atol=1e-3)


# --- precision, memory, compiler ---


@every_kind
def test_bfloat16_is_close_to_float32(kind: str) -> None:
    model, x = img_model(img_config({"adapter": kind})), images(height=2 * H)
    expected = model(x)
    logits = model.bfloat16()(x.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_big_images_have_no_score_matrix() -> None:
    model = img_model(img_config({"num_frequency_bands": 1}, num_latents=600))  # C = 9
    with LargestTensor() as largest:
        model(images(1, 130, 130)).sum().backward()
    assert largest.numel < 600 * 130 * 130 / 4


@pytest.mark.slow
@every_kind
def test_compiles_to_one_graph(kind: str) -> None:
    model, x = img_model(img_config({"adapter": kind})), images()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), **CLOSE)


# --- every field of the configuration has an effect ---

# field -> another value, and what else must be set for the field to matter
ENCODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (17, {}),
    "num_cross_attention_qk_channels": (8, {}),
    "num_cross_attention_v_channels": (12, {}),
    "num_cross_attention_layers": (2, {"num_self_attention_blocks": 2}),
    "first_cross_attention_layer_shared": (True, {"num_self_attention_blocks": 2, "num_cross_attention_layers": 2}),
    "cross_attention_widening_factor": (2, {}),
    "num_self_attention_heads": (2, {}),
    "num_self_attention_qk_channels": (8, {}),
    "num_self_attention_v_channels": (16, {}),
    "num_self_attention_layers_per_block": (3, {}),
    "num_self_attention_blocks": (2, {}),
    "first_self_attention_block_shared": (False, {"num_self_attention_blocks": 2}),
    "self_attention_widening_factor": (2, {}),
    "dropout": (0.3, {}),
    "init_scale": (0.5, {}),
    "freeze": (True, {}),
    "cross_attention_residual": (False, {}),
    "image_shape": ((H, 2 * W, 3), {}),
    "num_frequency_bands": (4, {}),
    "adapter": ("learned", {}),
    "num_adapter_channels": (8, {"adapter": "learned"}),
}
DECODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (7, {}),
    "num_cross_attention_qk_channels": (8, {}),
    "num_cross_attention_v_channels": (8, {}),
    "cross_attention_widening_factor": (3, {}),
    "cross_attention_residual": (False, {}),
    "dropout": (0.3, {}),
    "init_scale": (0.5, {}),
    "freeze": (True, {}),
    "num_output_queries": (3, {}),
    "num_output_query_channels": (16, {}),
    "num_classes": (7, {}),
}
MODEL: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_latents": (5, {}),
    "num_latent_channels": (16, {}),
    "activation_checkpointing": (True, {}),
}
CHANGES = {"encoder": ENCODER, "decoder": DECODER, "model": MODEL}
CLASSES = {"encoder": ImageEncoderConfig, "decoder": ClassificationDecoderConfig, "model": PerceiverIOConfig}
# where activations are: tests/model/core/test_layers.py
ELSEWHERE = {"encoder": set(), "decoder": set(), "model": {"encoder", "decoder", "activation_offloading"}}


@pytest.mark.parametrize("part", CHANGES)
def test_every_field_is_listed(part: str) -> None:
    assert {field.name for field in fields(CLASSES[part])} == CHANGES[part].keys() | ELSEWHERE[part]


def observed(config: ImageClassifierConfig) -> list[Any]:
    """Parameters, a training step and what it keeps in memory, outputs."""
    torch.manual_seed(0)
    model, kept = ImageClassifier(config), list[int]()
    shapes = [(name, tuple(p.shape), p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()]
    x = images()
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        training = model.train()(x)
    return [shapes, sum(kept), training.double().sum().item(), model.eval()(x).double().sum().item()]


@pytest.mark.parametrize("part, name", [(part, name) for part in CHANGES for name in CHANGES[part]])
def test_every_field_has_an_effect(part: str, name: str) -> None:
    value, needed = CHANGES[part][name]
    configs = []
    for change in (needed, needed, needed | {name: value}):
        config = img_config(**({part: change} if part != "model" else change))
        configs.append(observed(config))
    assert alike(configs[0], configs[1])  # nothing else than the field makes the difference
    assert not alike(configs[0], configs[2])


# --- errors ---


@pytest.mark.parametrize(
    "encoder, message",
    [
        ({"adapter": "patches"}, "adapter='patches' .* must be one of 'fourier', 'learned', 'conv'"),
        ({"image_shape": (H, W)}, r"image_shape=\(11, 13\) .* must be 3 integers"),
        ({"image_shape": (0, W, 3)}, r"image_shape=\(0, 13, 3\) .* must be 3 integers, at least 1"),
        ({"adapter": "learned", "num_adapter_channels": 0}, "num_adapter_channels=0 .* at least 1"),
        ({"adapter": "conv", "image_shape": (4, 9, 3)}, "images of 4 x 9 pixels are too small, at least 5 x 5"),
        ({"num_frequency_bands": 0}, "num_frequency_bands=0 .* at least 1"),
        ({"num_cross_attention_heads": 2}, "num_qk_channels=17 must be a positive multiple of num_heads=2"),
    ],
)
def test_what_cannot_be_built(encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageClassifier(img_config(encoder))


@pytest.mark.parametrize("name", ["num_classes", "num_output_queries"])
def test_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0 of ClassificationDecoderConfig must be an integer, at least 1"):
        ImageClassifier(img_config(decoder={name: 0}))


@pytest.mark.parametrize(
    "x",
    [
        images(channels=1),
        images().movedim(-1, 1),
        images()[0],
        images(height=0),
        torch.zeros(2, H, W, 3, dtype=torch.uint8),
    ],
)
@every_kind
def test_bad_images(kind: str, x: Tensor) -> None:
    expected = r", expected floating point \(batch size, height, width, 3\)"
    with pytest.raises(ValueError, match=f"images are {x.dtype} {re.escape(str(tuple(x.shape)))}{expected}"):
        img_model(img_config({"adapter": kind}))(x)


@pytest.mark.parametrize("height, width", [(4, 5), (5, 4), (1, 1)])
def test_images_that_are_too_small_for_the_convolution(height: int, width: int) -> None:
    model = img_model(img_config({"adapter": "conv"}))
    assert model(images(2, 5, 5)).shape == (2, 5)
    with pytest.raises(ValueError, match=f"images of {height} x {width} pixels are too small, at least 5 x 5"):
        model(images(2, height, width))
