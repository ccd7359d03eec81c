"""The multimodal autoencoder: inputs and queries by hand, masks, chosen points, decoding in chunks, losses, each field.

Its values are compared with an independent implementation in tests/parity/test_transformers_multimodal.py.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from perceiver.model.core.config import PerceiverIOConfig
from perceiver.model.multimodal.autoencoder.backend import (
    MultimodalAutoencoder,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    MultimodalOutput,
    autoencoder_loss,
    mean_over_examples,
    perceiver_io_multimodal,
    psnr,
)
from tests.model.helpers import alike, assert_close, gradients, json_copy
from tests.model.multimodal.autoencoder.helpers import (
    AUDIO_PATCH,
    CHANNELS,
    CLASSES,
    CLOSE,
    SAMPLES,
    H,
    T,
    W,
    clips,
    mm_config,
    mm_model,
)
from tests.model.vision.helpers import LargestTensor

NUM_PIXELS, NUM_PATCHES = T * H * W, SAMPLES // AUDIO_PATCH


def values_of(output: MultimodalOutput) -> dict[str, Tensor]:
    return dict(vars(output))


# --- sizes ---


def test_official_geometry() -> None:
    with torch.device("meta"):
        model = MultimodalAutoencoder(perceiver_io_multimodal())
        latents = model.encode(torch.empty(1, 16, 224, 224, 3), torch.empty(1, 30720))
        output = model.decode(latents, video_points=torch.empty(1, 512, dtype=torch.long), decode_at_once=600)
    assert sum(parameter.numel() for parameter in model.parameters()) == 19_858_855
    assert model.encoder.input_adapter.num_input_channels == 704
    assert model.decoder.output_query_provider.num_query_channels == 1026
    assert model.num_points == {"audio": 1920, "video": 802_816, "label": 1}
    shapes = {name: tuple(value.shape) for name, value in values_of(output).items()}
    assert latents.shape == (1, 784, 512)
    assert shapes == {"video": (1, 512, 3), "audio": (1, 30720), "label": (1, 700)}


def test_config_survives_its_json() -> None:
    config = mm_config(num_latents=4)
    assert MultimodalAutoencoderConfig(**json_copy(config)) == config


def test_defaults_are_official() -> None:
    official = perceiver_io_multimodal()
    sizes = {"num_latents": 784, "num_latent_channels": 512}
    default = MultimodalAutoencoderConfig(official.encoder, official.decoder, **sizes)
    assert default == official
    assert official.encoder == MultimodalEncoderConfig(num_cross_attention_heads=1)


# --- the model by hand ---


def fourier_code(position: list[float], resolution: list[int], bands: int) -> list[float]:
    """Of a position with a coordinate per dimension, as the paper has it."""
    frequencies = [
        [1 + i * (n / 2 - 1) / (bands - 1) for i in range(bands)] for n in resolution
    ]  # from 1 to the Nyquist frequency
    angles = [math.pi * f * x for x, dimension in zip(position, frequencies, strict=True) for f in dimension]
    return [*position, *map(math.sin, angles), *map(math.cos, angles)]


def test_inputs_by_hand() -> None:
    adapter, x = mm_model().encoder.input_adapter, clips()
    padding = {name: vector._query[0].tolist() for name, vector in adapter.padding.items()}
    assert {name: len(vector) for name, vector in padding.items()} == {"audio": 17, "video": 2, "label": 18}
    for example in range(2):
        rows = []
        for m in range(7):
            patch = x["audio"][example, 3 * m : 3 * m + 3].tolist()
            rows.append(patch + fourier_code([-1 + m / 3], [21], 4) + padding["audio"])
        for t in range(5):
            for i in range(2):
                for j in range(3):
                    patch = x["video"][example, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
                    position = [-1 + t / 2, -1 + 2 * i, -1.0 + j]
                    rows.append(patch + fourier_code(position, [5, 2, 3], 2) + padding["video"])
        rows.append(x["label"][example].tolist() + padding["label"])
        torch.testing.assert_close(adapter(**x)[example], torch.tensor(rows), **CLOSE)


def test_queries_by_hand() -> None:
    provider = mm_model().decoder.output_query_provider
    padding = {name: vector._query[0].tolist() for name, vector in provider.padding.items()}
    points = torch.arange(NUM_PIXELS)[None]
    expected = [
        fourier_code([-1 + 2 * t / 5, -1 + 2 * y / 4, -1 + 2 * x / 6], [5, 2, 3], 2) + padding["video"]
        for t in range(5)
        for y in range(4)
        for x in range(6)
    ]
    torch.testing.assert_close(provider("video", points), torch.tensor([expected]), **CLOSE)
    points = torch.tensor([[6, 0], [3, 3]])
    expected_audio = [[fourier_code([-1 + 2 * m / 7], [21], 4) + padding["audio"] for m in row] for row in points]
    torch.testing.assert_close(provider("audio", points), torch.tensor(expected_audio), **CLOSE)
    query = provider.label_query._query[0].tolist() + padding["label"]
    torch.testing.assert_close(provider("label", torch.zeros(1, 1).long()), torch.tensor([[query]]), **CLOSE)


def test_outputs_by_hand() -> None:
    model, x = mm_model(), clips()
    latents = model.encoder(model.encoder.input_adapter(**x), adapted=True)
    provider, adapter = model.decoder.output_query_provider, model.decoder.output_adapter
    everything = {"audio": torch.arange(7), "video": torch.arange(NUM_PIXELS), "label": torch.zeros(1).long()}
    # one cross-attention of all queries
    queries = torch.cat([provider(name, points[None]) for name, points in everything.items()], dim=1)
    hidden = adapter.linear(model.decoder.cross_attn(queries, latents))
    audio, video, label = torch.split(hidden, [7, NUM_PIXELS, 1], dim=1)
    output = model(**x)
    torch.testing.assert_close(output.audio, adapter.heads["audio"](audio).flatten(1), **CLOSE)
    torch.testing.assert_close(output.video, adapter.heads["video"](video).unflatten(1, (T, H, W)), **CLOSE)
    torch.testing.assert_close(output.label, adapter.heads["label"](label)[:, 0], **CLOSE)
    assert output.audio.shape == x["audio"].shape and output.video.shape == x["video"].shape
    assert output.label.shape == (2, CLASSES)


def test_examples_of_a_batch_do_not_depend_on_each_other() -> None:
    model, x = mm_model(), clips(3)
    together = values_of(model(**x))
    for i in range(3):
        alone = values_of(model(**{name: value[i : i + 1] for name, value in x.items()}))
        assert_close(alone, {name: value[i : i + 1] for name, value in together.items()}, **CLOSE)


# --- masks ---


@pytest.mark.parametrize("missing", [["label"], ["video"], ["audio"], ["audio", "label"], ["video", "audio"]])
def test_what_is_not_given_is_masked(missing: list[str]) -> None:
    model, x = mm_model(), clips()
    adapter = model.encoder.input_adapter
    spans = {"audio": slice(0, 7), "video": slice(7, 37), "label": slice(37, 38)}
    expected = adapter(**x)
    for modality in missing:
        expected[:, spans[modality]] = adapter.mask[modality]()
    given = {name: None if name in missing else value for name, value in x.items()}
    torch.testing.assert_close(adapter(**given), expected, **CLOSE)
    output = model(**{name: value for name, value in given.items() if value is not None})
    torch.testing.assert_close(output.video, model.decode(model.encoder(expected, adapted=True)).video, **CLOSE)


def test_labels_of_some_examples_are_masked() -> None:
    model, x = mm_model(), clips(3)
    mask = torch.tensor([True, False, True])
    output = model(**x, label_mask=mask)
    masked, given = model(x["video"], x["audio"]), model(**x)
    for name, value in values_of(output).items():
        expected = torch.where(mask.view(-1, *[1] * (value.ndim - 1)), getattr(masked, name), getattr(given, name))
        torch.testing.assert_close(value, expected, **CLOSE)
    assert not torch.allclose(masked.label, given.label, atol=1e-2)
    changed = x | {"label": torch.rand(3, CLASSES)}
    torch.testing.assert_close(model(**changed, label_mask=mask).label[mask], output.label[mask], **CLOSE)


def test_nothing_is_random() -> None:
    """transformers draws which inputs it masks, even at inference."""
    model, x = mm_model().train(), clips()
    state = torch.get_rng_state()
    first, second = model(x["video"], x["audio"]), model(x["video"], x["audio"])
    assert_close(values_of(first), values_of(second), **CLOSE)
    assert torch.equal(torch.get_rng_state(), state)


# --- chosen points, decoding in chunks ---


@given(st.data(), st.integers(1, NUM_PIXELS + 3), st.booleans())
@settings(max_examples=20)
def test_chosen_points_and_chunks_give_what_a_whole_pass_gives(
    data: st.DataObject, decode_at_once: int, of_each_example: bool
) -> None:
    model, x = mm_model(), clips()
    points = {}
    for name, size in (("video", NUM_PIXELS), ("audio", NUM_PATCHES)):
        number = data.draw(st.integers(0, 9))
        shape = (2, number) if of_each_example else (number,)
        points[f"{name}_points"] = torch.randint(size, shape)
    with torch.no_grad():
        whole, output = model(**x), model(**x, **points, decode_at_once=decode_at_once)
        in_chunks = model(**x, decode_at_once=decode_at_once)
        video, audio = model.targets(whole.video, whole.audio, **points)
    expected = {"video": video, "audio": audio, "label": whole.label}
    assert_close(values_of(output), expected, **CLOSE)
    assert_close(values_of(in_chunks), values_of(whole), **CLOSE)


def test_targets_by_hand() -> None:
    model, x = mm_model(), clips()
    points = {"video_points": torch.tensor([[119, 31], [0, 6]]), "audio_points": torch.tensor([5, 0])}
    video, audio = model.targets(x["video"], x["audio"], **points)
    places = [[(4, 3, 5), (1, 1, 1)], [(0, 0, 0), (0, 1, 0)]]
    expected = [[x["video"][b, t, i, j] for t, i, j in row] for b, row in enumerate(places)]
    assert torch.equal(video, torch.stack([torch.stack(row) for row in expected]))
    assert torch.equal(audio, torch.stack([x["audio"][:, 15:18], x["audio"][:, 0:3]], dim=1))
    whole = model.targets(x["video"], x["audio"])
    assert whole[0] is x["video"] and whole[1] is x["audio"]


def test_chunks_have_bounded_size() -> None:
    sizes: list[tuple[int, ...]] = []
    model, x = mm_model(), clips()
    model.decoder.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[1].shape)))
    model(**x, decode_at_once=50)
    assert sizes == [(1, 50, 16), (1, 50, 16), (1, 20, 16), (1, 7, 16), (1, 1, 16)]


def test_chunks_need_less_memory() -> None:
    config = mm_config(video_shape=(T, 40, 60, CHANNELS), decoder={"cross_attention_widening_factor": 12})
    model, sizes = mm_model(config), []
    with torch.no_grad():
        latents = model.encode(torch.rand(1, T, 40, 60, CHANNELS))
        for decode_at_once in (2**14, 200):
            with LargestTensor() as largest:
                model.decode(latents, decode_at_once=decode_at_once)
            sizes.append(largest.numel)
    assert sizes[0] >= 12_000 * 12 * 16 and sizes[1] <= max(12_000 * 3, 200 * 12 * 16)


def test_gradients_of_chunks_are_those_of_one_pass() -> None:
    x, results = {name: value.double() for name, value in clips().items()}, []
    for decode_at_once in (NUM_PIXELS, 50):
        model = mm_model().double().train()
        output = model(**x, decode_at_once=decode_at_once)
        sum(value.square().sum() for value in values_of(output).values()).backward()
        results.append(gradients(model))
    assert_close(results[1], results[0], atol=1e-9, rtol=1e-9)


# --- training ---


@pytest.mark.parametrize("offloading", [False, True])
def test_checkpointing_changes_no_output_and_no_gradient(offloading: bool) -> None:
    x, results = clips(), []
    for on in (False, True):
        config = replace(mm_config(), activation_checkpointing=on, activation_offloading=on and offloading)
        model = mm_model(config).train()
        output = model(**x, decode_at_once=50)
        sum(value.square().sum() for value in values_of(output).values()).backward()
        results.append(values_of(output) | gradients(model))
    assert_close(results[1], results[0])


def test_gradients_reach_every_parameter_and_every_input() -> None:
    model, x = mm_model().train(), {name: value.requires_grad_() for name, value in clips(3).items()}
    output = model(**x, label_mask=torch.tensor([True, False, False]))
    targets = {name: x[name].detach() for name in ("video", "audio")}
    autoencoder_loss(output, **targets, labels=torch.arange(3)).backward()
    found = gradients(model)
    # the softmax of one score per query and key does not depend on the bias of keys; nothing but the label is masked
    names = {name for name, _ in model.named_parameters() if not name.endswith("k_proj.bias")}
    idle = {name for name in names if name not in found or not found[name].any()}
    assert idle == {f"0.input_adapter.mask.{modality}._query" for modality in ("video", "audio")}
    assert all(value.grad is not None and (value.grad[1:] != 0).all() for value in x.values())
    assert not x["label"].grad[0].any()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_frozen_parts(part: str) -> None:
    model = MultimodalAutoencoder(mm_config(**{part: {"freeze": True}}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for name, _ in model.named_parameters() if name.startswith("1" if part == "encoder" else "0")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_is_close_to_float32(dtype: torch.dtype) -> None:
    """Also for inputs that are still float32."""
    model, x = mm_model(), clips()
    expected = values_of(model(**x))
    output = values_of(model.bfloat16()(**{name: value.to(dtype) for name, value in x.items()}))
    for name, value in output.items():
        assert value.dtype == torch.bfloat16
        assert (value.float() - expected[name]).abs().mean() < 0.05 * expected[name].abs().mean()


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    model, x = mm_model(), clips()
    points = {"video_points": torch.tensor([[3, 5], [119, 0]]), "audio_points": torch.tensor([6])}
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(values_of(compiled(**x, **points)), values_of(model(**x, **points)), **CLOSE)
    assert_close(values_of(compiled(**x)), values_of(model(**x)), **CLOSE)


# --- losses ---


def an_output() -> tuple[MultimodalOutput, Tensor, Tensor]:
    video, audio = torch.zeros(2, 1, 2, 2, 1), torch.zeros(2, 4)
    video[0, 0, 0, 0] = 0.8
    audio[0] = torch.tensor([0.5, -0.5, 1.0, 0.0])
    label = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    return MultimodalOutput(torch.zeros_like(video), torch.zeros_like(audio), label), video, audio


def test_loss_by_hand() -> None:
    output, video, audio = an_output()
    cross_entropy = math.log(1 + 2 * math.exp(-2.0)), math.log(3.0)
    first, second = 0.03 * 0.2 + 0.5 + 1e-4 * cross_entropy[0], 1e-4 * cross_entropy[1]
    loss = autoencoder_loss(output, video, audio, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)
    counted_once = autoencoder_loss(output, video, audio, torch.tensor([0, -100]))
    assert counted_once.item() == pytest.approx(first, abs=1e-6)
    weights = {"video_weight": 3.0, "audio_weight": 0.0, "label_weight": 0.5}
    loss = autoencoder_loss(output, video, audio, torch.tensor([0, 2]), **weights)
    assert loss.item() == pytest.approx((0.6 + 0.5 * sum(cross_entropy)) / 2, abs=1e-6)


def test_examples_that_do_not_count_have_no_gradient() -> None:
    model, x = mm_model().train(), {name: value.requires_grad_() for name, value in clips().items()}
    output = model(**x)
    autoencoder_loss(output, x["video"].detach(), x["audio"].detach(), torch.tensor([-100, 4])).backward()
    assert x["video"].grad is not None and not x["video"].grad[0].any() and x["video"].grad[1].all()
    gradients(model)
    nothing = autoencoder_loss(model(**x), x["video"].detach(), x["audio"].detach(), torch.tensor([-100, -100]))
    nothing.backward()
    assert nothing == 0 and not any(value.any() for value in gradients(model).values())


def test_losses_are_float32() -> None:
    output, video, audio = an_output()
    half = MultimodalOutput(*(value.bfloat16() for value in (output.video, output.audio, output.label)))
    loss = autoencoder_loss(half, video, audio, torch.tensor([0, 2]))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, autoencoder_loss(output, video, audio, torch.tensor([0, 2])))


def test_signal_to_noise_ratio() -> None:
    target = torch.zeros(3, 2, 5)
    x = target + torch.tensor([1.0, 0.1, 0.0])[:, None, None]
    torch.testing.assert_close(psnr(x, target), torch.tensor([0.0, 20.0, 100.0]), atol=1e-4, rtol=0)


def test_mean_over_examples() -> None:
    values = torch.tensor([1.0, math.nan, 3.0])
    assert mean_over_examples(values, torch.tensor([0, -100, 5])) == pytest.approx(2)
    assert mean_over_examples(values, torch.tensor([-100, -100, -100])) == 0


def test_what_a_loss_does_not_take() -> None:
    output, video, audio = an_output()
    labels = torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"video has shape \(2, 1, 2, 2, 1\), its target \(2, 1, 2, 2\): they must be"):
        autoencoder_loss(output, video[..., 0], audio, labels)
    with pytest.raises(ValueError, match=r"audio has shape \(2, 4\), its target \(2, 3\)"):
        autoencoder_loss(output, video, audio[:, 1:], labels)
    with pytest.raises(ValueError, match=r"labels have shape \(2, 3\), expected \(2,\)"):
        autoencoder_loss(output, video, audio, F.one_hot(labels, 3))
    with pytest.raises(ValueError, match=r"labels span \[0, 3\], allowed is \[0, 2\]"):
        autoencoder_loss(output, video, audio, torch.tensor([0, 3]))


# --- every field of the configuration has an effect ---

# field -> another value, and what else must be set for the field to matter
ENCODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (29, {}),
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
    "num_modality_channels": (3, {}),
}
DECODER: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_cross_attention_heads": (1, {}),
    "num_cross_attention_qk_channels": (12, {}),
    "num_cross_attention_v_channels": (8, {}),
    "cross_attention_widening_factor": (3, {}),
    "cross_attention_residual": (True, {}),
    "dropout": (0.3, {}),
    "init_scale": (0.5, {}),
    "freeze": (True, {}),
    "num_classes": (7, {}),
    "num_label_query_channels": (14, {}),
    "num_modality_channels": (2, {}),
    "num_output_channels": (18, {}),
}
MODEL: dict[str, tuple[Any, dict[str, Any]]] = {
    "num_latents": (5, {}),
    "num_latent_channels": (16, {}),
    "activation_checkpointing": (True, {}),
    "video_shape": ((T, H, 2 * W, CHANNELS), {}),
    "video_patch_size": (1, {}),
    "num_video_frequency_bands": (3, {}),
    "num_audio_samples": (24, {}),
    "audio_patch_size": (7, {}),
    "num_audio_frequency_bands": (5, {}),
}
CHANGES = {"encoder": ENCODER, "decoder": DECODER, "model": MODEL}
CLASSES_OF = {
    "encoder": MultimodalEncoderConfig,
    "decoder": MultimodalDecoderConfig,
    "model": MultimodalAutoencoderConfig,
}
# where activations are: tests/model/core/test_layers.py
ELSEWHERE: dict[str, set[str]] = {
    "encoder": set(),
    "decoder": set(),
    "model": {"encoder", "decoder", "activation_offloading"},
}


@pytest.mark.parametrize("part", CHANGES)
def test_every_field_is_listed(part: str) -> None:
    assert {field.name for field in fields(CLASSES_OF[part])} == CHANGES[part].keys() | ELSEWHERE[part]
    assert issubclass(MultimodalAutoencoderConfig, PerceiverIOConfig)


def observed(config: MultimodalAutoencoderConfig) -> list[Any]:
    """Parameters, a training step and what it keeps in memory, outputs."""
    torch.manual_seed(0)
    model, kept = MultimodalAutoencoder(config), list[int]()
    shapes = [(name, tuple(p.shape), p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()]
    x = {
        "video": torch.rand(2, *config.video_shape),
        "audio": torch.rand(2, config.num_audio_samples),
        "label": torch.rand(2, config.decoder.num_classes),
    }
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        training = model.train()(**x)
    outputs = [*values_of(training).values(), *values_of(model.eval()(**x)).values()]
    return [shapes, sum(kept), *((tuple(value.shape), value.double().sum().item()) for value in outputs)]


@pytest.mark.parametrize("part, name", [(part, name) for part in CHANGES for name in CHANGES[part]])
def test_every_field_has_an_effect(part: str, name: str) -> None:
    value, needed = CHANGES[part][name]
    results = []
    for change in (needed, needed, needed | {name: value}):
        results.append(observed(mm_config(**({part: change} if part != "model" else change))))
    assert alike(results[0], results[1])  # nothing else than the field makes the difference
    assert not alike(results[0], results[2])


# --- bad configurations, bad input ---


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"video_shape": (T, H, W)}, r"video_shape=\(5, 4, 6\) .* must be 4 integers, at least 1"),
        ({"video_shape": (0, H, W, 3)}, r"video_shape=\(0, 4, 6, 3\) .* must be 4 integers, at least 1"),
        ({"video_patch_size": 3}, "video_patch_size=3 must divide height and width"),
        ({"video_patch_size": 0}, "video_patch_size=0 .* at least 1"),
        ({"audio_patch_size": 4}, "audio_patch_size=4 must divide num_audio_samples=21"),
        ({"num_audio_samples": 0}, "num_audio_samples=0 .* at least 1"),
        ({"num_audio_frequency_bands": 0}, "num_audio_frequency_bands=0 .* at least 1"),
        (
            {"encoder": {"num_modality_channels": 0}},
            "num_modality_channels=0 of MultimodalEncoderConfig must be",
        ),
        ({"decoder": {"num_classes": 0}}, "num_classes=0 of MultimodalDecoderConfig must be an integer, at least 1"),
        (
            {"encoder": {"num_cross_attention_heads": 2}},
            "num_qk_channels=29 must be a .* multiple of num_heads=2",
        ),
    ],
)
def test_what_cannot_be_built(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultimodalAutoencoder(mm_config(**kwargs))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video": None, "audio": None, "label": None}, "there must be video, audio or label"),
        ({"video": torch.rand(2, T, H, W + 2, 3)}, r"video is .* expected floating point \(batch size, 5, 4, 6, 3\)"),
        ({"video": torch.zeros(2, T, H, W, 3, dtype=torch.uint8)}, r"video is torch.uint8 \(2, 5, 4, 6, 3\), expected"),
        ({"audio": torch.rand(2, SAMPLES, 1)}, r"audio is .* expected floating point \(batch size, 21\)"),
        ({"audio": torch.rand(3, SAMPLES)}, r"audio is torch.float32 \(3, 21\), expected .* the batch size of video"),
        ({"label": torch.tensor([1, 2])}, r"label is torch.int64 \(2,\), expected floating point \(batch size, 11\)"),
        ({"label": torch.tensor(1.0)}, r"label is torch.float32 \(\), expected floating point"),
        ({"label_mask": torch.zeros(2)}, r"label_mask is torch.float32 \(2,\), expected torch.bool \(2,\)"),
        ({"label_mask": torch.zeros(3).bool()}, r"label_mask is torch.bool \(3,\), expected"),
        ({"label": None, "label_mask": torch.zeros(2).bool()}, "together with a label"),
    ],
)
def test_bad_inputs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mm_model().encode(**(clips() | change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"decode_at_once": 0}, "decode_at_once=0 must be at least 1"),
        ({"video_points": torch.tensor([0, NUM_PIXELS])}, r"video_points span \[0, 120\], allowed is \[0, 119\]"),
        ({"audio_points": torch.tensor([-1])}, r"audio_points span \[-1, -1\], allowed is \[0, 6\]"),
        ({"video_points": torch.rand(3)}, r"video_points are torch.float32 \(3,\), expected integers \(points,\) or"),
        ({"video_points": torch.tensor(3)}, r"video_points are torch.int64 \(\), expected"),
        ({"audio_points": torch.zeros(3, 1).long()}, r"audio_points are torch.int64 \(3, 1\), .* or \(2, points\)"),
    ],
)
def test_bad_points(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mm_model().decode(torch.randn(2, 8, 20), **change)
