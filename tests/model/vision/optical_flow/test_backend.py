"""Optical flow: recorded values, decoding in chunks, frames of other sizes, errors of flow by hand, each field."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core.config import PerceiverIOConfig
from perceiver.model.core.position import FourierPositionEncoding
from perceiver.model.vision.optical_flow.backend import (
    PIXELS_PER_UNIT,
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    end_point_error,
    flow_loss,
    outlier_rate,
    perceiver_io_optical_flow,
)
from perceiver.processing.optical_flow import OpticalFlowProcessor
from tests.model.helpers import alike, assert_close, golden_cases, golden_parameters, gradients, json_copy
from tests.model.vision.helpers import LargestTensor
from tests.model.vision.optical_flow.helpers import HUB, H, W, flow_config, flow_model, frames

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NAN, INF = math.nan, math.inf


# --- recorded values ---


def test_recorded_outputs() -> None:
    checkpoint = read_checkpoint(HUB)
    config = OpticalFlowConfig.from_dict(checkpoint.hyper_parameters)
    model = OpticalFlow(config).eval()
    load_parameters(model, checkpoint.state_dict, HUB)
    (case,) = golden_cases("optical_flow", "forward")
    processor = OpticalFlowProcessor(patch_size=config.encoder.image_shape)
    x = processor.preprocess((case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy()))
    scale = config.decoder.rescale_factor
    torch.testing.assert_close(model(x) * scale, case.outputs["logits"] * scale, atol=1e-4, rtol=0)


def test_parameter_names_are_the_published_ones() -> None:
    config = OpticalFlowConfig.from_dict(read_checkpoint(HUB).hyper_parameters)
    found = {key: value.shape for key, value in OpticalFlow(config).state_dict().items()}
    computed = "0.input_adapter.position_encoding.position_encoding"  # a buffer in published files
    published = golden_parameters("optical_flow")
    assert published.keys() - found.keys() == {computed}
    assert found == {key: value.shape for key, value in published.items() if key != computed}


def test_official_geometry() -> None:
    with torch.device("meta"):
        model = OpticalFlow(perceiver_io_optical_flow())
        x = torch.empty(1, 2, 27, 368, 496)
    assert sum(parameter.numel() for parameter in model.parameters()) == 41_057_134
    assert model.encoder.input_adapter(x).shape == (1, 182_528, 322)


def test_config_survives_its_json() -> None:
    config = flow_config(num_latents=4)
    assert OpticalFlowConfig(**json_copy(config)) == config
    assert config.encoder.image_shape == config.decoder.image_shape == (H, W)


def test_published_defaults() -> None:
    encoder, decoder = OpticalFlowEncoderConfig(), OpticalFlowDecoderConfig()
    assert (encoder.image_shape, encoder.num_patch_input_channels) == ((368, 496), 27)
    assert (encoder.num_patch_hidden_channels, encoder.num_frequency_bands) == (64, 64)
    assert (decoder.image_shape, decoder.rescale_factor) == ((368, 496), 100.0)


# --- the model by hand ---


def test_input_adapter_by_hand() -> None:
    adapter, x = flow_model().encoder.input_adapter, frames()
    pixels = torch.stack([x[:, :, :, i, j].flatten(1) for i in range(H) for j in range(W)], dim=1)  # frame by frame
    codes = FourierPositionEncoding((H, W), 3)().expand(2, -1, -1)
    expected = torch.cat([pixels @ adapter.linear.weight.T + adapter.linear.bias, codes], dim=-1)
    assert expected.shape == (2, H * W, 19)
    torch.testing.assert_close(adapter(x), expected, **CLOSE)


def test_queries_are_the_adapted_inputs() -> None:
    model, x = flow_model(), frames()
    adapted, latents = model.encoder.input_adapter(x), model.encoder(x)
    assert latents.shape == (2, 3, 20)
    hidden = model.decoder.cross_attn(adapted, latents)
    linear = model.decoder.output_adapter.linear
    expected = (hidden @ linear.weight.T + linear.bias).unflatten(1, (H, W)) / 10
    assert expected.shape == (2, H, W, 2)
    torch.testing.assert_close(model(x), expected, **CLOSE)


def test_the_decoder_alone_has_no_queries() -> None:
    model = flow_model()
    with pytest.raises(ValueError, match=r"no queries of its own: give it a query \(B, O, F\)"):
        model.decoder(model.encoder(frames()))


def test_examples_of_a_batch_do_not_depend_on_each_other() -> None:
    model, x = flow_model(), frames(3)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1]), model(x)[i : i + 1], **CLOSE)


@pytest.mark.parametrize("height, width", [(1, 1), (5, 3), (H, 2 * W), (13, 6)])
def test_frames_of_other_sizes(height: int, width: int) -> None:
    model, x = flow_model(), frames(2, height, width)
    codes = model.encoder.input_adapter(x)[0, :, 5:]
    assert torch.equal(codes, FourierPositionEncoding((H, W), 3)(shape=(height, width))[0])
    assert model(x).shape == (2, height, width, 2)


# --- decoding in chunks ---


@given(decode_at_once=st.integers(1, H * W + 3))
@settings(max_examples=25)
def test_chunks_give_what_one_pass_gives(decode_at_once: int) -> None:
    model, x = flow_model(), frames()
    sizes: list[int] = []
    with torch.no_grad():
        expected = model(x)
        handle = model.decoder.register_forward_pre_hook(lambda module, args: sizes.append(args[1].shape[1]))
        found = model(x, decode_at_once=decode_at_once)
        handle.remove()
    torch.testing.assert_close(found, expected, **CLOSE)
    assert sum(sizes) == H * W and set(sizes[:-1]) <= {decode_at_once} and sizes[-1] <= decode_at_once


def test_gradients_of_chunks_are_those_of_one_pass() -> None:
    x, results = frames().double(), []
    for decode_at_once in (H * W, 10):
        model = flow_model().double().train()
        model(x, decode_at_once=decode_at_once).square().sum().backward()
        results.append(gradients(model))
    assert_close(results[1], results[0], atol=1e-9, rtol=1e-9)


def test_chunks_need_less_memory() -> None:
    model = flow_model(flow_config(decoder={"cross_attention_widening_factor": 12}))
    x, sizes = frames(1, 40, 40, 27), []
    for decode_at_once in (2**15, 200):
        with torch.no_grad(), LargestTensor() as largest:
            model(x, decode_at_once=decode_at_once)
        sizes.append(largest.numel)
    assert sizes[0] >= 1600 * 12 * 19 and sizes[1] <= 1600 * 54  # hidden channels of the MLP, features


def test_big_frames_have_no_score_matrix() -> None:
    model = flow_model(flow_config(num_latents=600))
    with torch.no_grad(), LargestTensor() as largest:
        model(frames(1, 130, 130))
    assert largest.numel < 600 * 130 * 130 / 4


# --- training ---


@pytest.mark.parametrize("offloading", [False, True])
def test_checkpointing_changes_no_output_and_no_gradient(offloading: bool) -> None:
    x, results = frames(), []
    config = flow_config({"num_self_attention_blocks": 2, "num_cross_attention_layers": 2})
    for on in (False, True):
        changed = replace(config, activation_checkpointing=on, activation_offloading=on and offloading)
        model = flow_model(changed).train()
        flow = model(x, decode_at_once=30)
        flow.square().sum().backward()
        results.append({"flow": flow.detach()} | gradients(model))
    assert_close(results[1], results[0])


def test_gradients_reach_every_parameter_and_every_pixel() -> None:
    model, x = flow_model().train(), frames().requires_grad_()
    flow_loss(model(x), torch.randn(2, H, W, 2)).backward()
    # the softmax of one score per query and key does not depend on the bias of keys
    names = [name for name, _ in model.named_parameters() if not name.endswith("k_proj.bias")]
    found = gradients(model)
    assert [name for name in names if name not in found or not found[name].any()] == []
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).flatten(3).any(dim=-1).all()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_frozen_parts(part: str) -> None:
    model = OpticalFlow(flow_config(**{part: {"freeze": True}}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for name, _ in model.named_parameters() if name.startswith("1" if part == "encoder" else "0")
    }


def test_bfloat16_is_close_to_float32() -> None:
    model, x = flow_model(), frames()
    expected = model(x)
    flow = model.bfloat16()(x.bfloat16())
    assert flow.dtype == torch.bfloat16
    assert (flow.float() - expected).abs().mean() < 0.03 * expected.abs().mean()


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    model, x = flow_model(), frames()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), **CLOSE)


# --- errors of flow ---


def flow_and_target() -> tuple[Tensor, Tensor]:
    """Five pixels, (1, 1, 5, 2), that are off by 5, 2.5, 0, 4 pixels and unknown; their true flow is 0, 10, 10, 100."""
    target = torch.tensor([[0.0, 0.0], [6.0, 8.0], [-10.0, 0.0], [100.0, 0.0], [NAN, 1.0]])
    offset = torch.tensor([[3.0, -4.0], [1.5, 2.0], [0.0, 0.0], [-4.0, 0.0], [2.0, 2.0]])
    flow = (target.nan_to_num(1.0) + offset) / PIXELS_PER_UNIT
    return flow[None, None], target[None, None]


def test_errors_by_hand() -> None:
    flow, target = flow_and_target()
    errors, known = end_point_error(flow, target)
    torch.testing.assert_close(errors, torch.tensor([[[5.0, 2.5, 0.0, 4.0, 0.0]]]), **CLOSE)
    assert known.tolist() == [[[True, True, True, True, False]]]
    assert flow_loss(flow, target).item() == pytest.approx((5 + 2.5 + 4) / 4, abs=1e-5)
    # off by more than 3 pixels: the first, and the fourth, which is off by 4 % only
    assert outlier_rate(flow, target) == 1 / 4


@pytest.mark.parametrize("unknown", [NAN, INF, -INF])
def test_unknown_flow_has_no_influence(unknown: float) -> None:
    flow, target = torch.randn(2, H, W, 2, requires_grad=True), 20 * torch.randn(2, H, W, 2)
    mask = torch.rand(2, H, W) < 0.4
    target[mask] = torch.tensor([1.0, unknown])  # one of two is enough
    expected = torch.linalg.vector_norm(flow * 20 - target, dim=-1)[~mask]
    loss = flow_loss(flow, target)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(
        outlier_rate(flow, target),
        ((expected > 3) & (expected > 0.05 * target.norm(dim=-1)[~mask])).float().mean(),
    )
    loss.backward()
    assert flow.grad is not None and flow.grad.isfinite().all()
    assert (flow.grad[mask] == 0).all() and (flow.grad[~mask] != 0).any(dim=-1).all()


def test_nothing_known() -> None:
    flow, target = torch.randn(1, H, W, 2, requires_grad=True), torch.full((1, H, W, 2), NAN)
    loss = flow_loss(flow, target)
    loss.backward()
    assert loss == 0 and outlier_rate(flow, target) == 0
    assert flow.grad is not None and (flow.grad == 0).all()


def test_flow_without_error_has_a_gradient_of_zero() -> None:
    flow = torch.randn(1, H, W, 2, requires_grad=True)
    flow_loss(flow, (flow * PIXELS_PER_UNIT).detach()).backward()
    assert flow.grad is not None and (flow.grad == 0).all()


def test_what_a_model_gets_wrong_stays_wrong() -> None:
    """Infinite flow of a model that diverged is no unknown flow."""
    flow, target = torch.full((1, H, W, 2), INF), torch.zeros(1, H, W, 2)
    assert flow_loss(flow, target) == INF and outlier_rate(flow, target) == 1


def test_losses_are_float32() -> None:
    flow, target = torch.randn(1, H, W, 2).bfloat16(), torch.randn(1, H, W, 2)
    loss = flow_loss(flow, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, flow_loss(flow.float(), target))


def test_shapes_of_flow_that_differ() -> None:
    message = r"flow has shape \(1, 2, 3, 2\), its target \(1, 3, 2, 2\): they must be equal"
    for function in (end_point_error, flow_loss, outlier_rate):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(1, 2, 3, 2), torch.zeros(1, 3, 2, 2))


# --- every field of the configuration has an effect ---

# field -> another value, and what else must be set for the field to matter
ENCODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (19, {}),
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
    "num_patch_input_channels": (25, {}),
    "num_patch_hidden_channels": (6, {}),
    "num_frequency_bands": (4, {}),
}
DECODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (1, {}),
    "num_cross_attention_qk_channels": (10, {}),
    "num_cross_attention_v_channels": (8, {}),
    "cross_attention_widening_factor": (3, {}),
    "cross_attention_residual": (True, {}),
    "dropout": (0.3, {}),
    "init_scale": (0.5, {}),
    "freeze": (True, {}),
    "rescale_factor": (20.0, {}),
}
MODEL: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_latents": (5, {}),
    "num_latent_channels": (16, {}),
    "activation_checkpointing": (True, {}),
}
CHANGES = {"encoder": ENCODER, "decoder": DECODER, "model": MODEL}
CLASSES = {"encoder": OpticalFlowEncoderConfig, "decoder": OpticalFlowDecoderConfig, "model": PerceiverIOConfig}
# both `image_shape` together: below; where activations are: tests/model/core/test_layers.py
ELSEWHERE = {
    "encoder": {"image_shape"},
    "decoder": {"image_shape"},
    "model": {"encoder", "decoder", "activation_offloading"},
}


@pytest.mark.parametrize("part", CHANGES)
def test_every_field_is_listed(part: str) -> None:
    assert {field.name for field in fields(CLASSES[part])} == CHANGES[part].keys() | ELSEWHERE[part]


def observed(config: OpticalFlowConfig) -> list[Any]:
    """Parameters, a training step and what it keeps in memory, outputs."""
    torch.manual_seed(0)
    model, kept = OpticalFlow(config), list[int]()
    shapes = [(name, tuple(p.shape), p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()]
    x = frames(features=config.encoder.num_patch_input_channels)
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        training = model.train()(x)
    return [shapes, sum(kept), training.double().sum().item(), model.eval()(x).double().sum().item()]


@pytest.mark.parametrize("part, name", [(part, name) for part in CHANGES for name in CHANGES[part]])
def test_every_field_has_an_effect(part: str, name: str) -> None:
    value, needed = CHANGES[part][name]
    results = []
    for change in (needed, needed, needed | {name: value}):
        results.append(observed(flow_config(**({part: change} if part != "model" else change))))
    assert alike(results[0], results[1])  # nothing else than the field makes the difference
    assert not alike(results[0], results[2])


def test_image_shape_has_an_effect() -> None:
    bigger = {"image_shape": (H, 2 * W)}  # other frequencies
    assert not alike(observed(flow_config()), observed(flow_config(bigger, bigger)))


# --- bad configurations, bad input ---


@pytest.mark.parametrize(
    "encoder, decoder, message",
    [
        ({"image_shape": (H, W + 1)}, {}, r"encoder.image_shape=\(7, 12\) and decoder.image_shape=\(7, 11\) must be"),
        ({"image_shape": (H, W, 3)}, {"image_shape": (H, W, 3)}, r"image_shape=\(7, 11, 3\) .* must be 2 integers"),
        ({"image_shape": (0, W)}, {"image_shape": (0, W)}, r"image_shape=\(0, 11\) .* must be 2 integers, at least 1"),
        ({"num_patch_input_channels": 0}, {}, "num_patch_input_channels=0 .* at least 1"),
        ({"num_patch_hidden_channels": 0}, {}, "num_patch_hidden_channels=0 .* at least 1"),
        ({"num_frequency_bands": 0}, {}, "num_frequency_bands=0 .* at least 1"),
        ({}, {"rescale_factor": 0}, "rescale_factor=0 must be positive"),
        ({"num_cross_attention_heads": 2}, {}, "num_qk_channels=19 must be a positive multiple of num_heads=2"),
    ],
)
def test_what_cannot_be_built(encoder: dict[str, Any], decoder: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpticalFlow(flow_config(encoder, decoder))


@pytest.mark.parametrize(
    "x",
    [
        frames(features=26),
        frames()[:, :1],
        frames()[0],
        frames(height=0),
        torch.zeros(2, 2, 27, H, W, dtype=torch.uint8),
    ],
)
def test_bad_frames(x: Tensor) -> None:
    expected = r", expected floating point \(batch size, 2, 27, height, width\)"
    with pytest.raises(ValueError, match=f"frames are {x.dtype} {re.escape(str(tuple(x.shape)))}{expected}"):
        flow_model()(x)


@pytest.mark.parametrize("decode_at_once", [0, -1])
def test_nothing_decoded_at_once(decode_at_once: int) -> None:
    with pytest.raises(ValueError, match=f"decode_at_once={decode_at_once} must be at least 1"):
        flow_model()(frames(), decode_at_once=decode_at_once)
