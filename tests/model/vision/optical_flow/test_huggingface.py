"""Hugging Face optical flow: folders, labels, pipeline, Trainer, conversions."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments, pipeline

from perceiver.model.vision import optical_flow
from perceiver.model.vision.optical_flow import (
    LitOpticalFlow,
    OpticalFlowConfig,
    OpticalFlowPerceiver,
    OpticalFlowPerceiverConfig,
    OpticalFlowPipeline,
    convert_checkpoint,
)
from perceiver.model.vision.optical_flow.backend import flow_loss
from perceiver.processing.optical_flow import OpticalFlowProcessor, render_optical_flow
from tests.model.helpers import (
    GOLDEN,
    assert_close,
    assert_same_parameters,
    golden_cases,
    golden_parameters,
    gradients,
)
from tests.model.trainers import trainer
from tests.model.vision.optical_flow.helpers import HUB, H, W, flow_config, flow_model, frames

CLOSE = {"atol": 3e-5, "rtol": 1e-5}  # outputs are of size 10 before they are scaled
Frame = npt.NDArray[np.uint8]


def hf_model(config: OpticalFlowConfig | None = None) -> OpticalFlowPerceiver:
    config = config or flow_config()
    model = OpticalFlowPerceiver(OpticalFlowPerceiverConfig(config)).eval()
    model.backend_model.load_state_dict(flow_model(config).state_dict())
    return model


def frame_pair(height: int = H, width: int = W) -> tuple[Frame, Frame]:
    first, second = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8).numpy()
    return first, second


@pytest.fixture(scope="module")
def tiny() -> OpticalFlowPipeline:
    return OpticalFlowPipeline(model=hf_model())


def test_public_names() -> None:
    for name in optical_flow.__all__:
        found = getattr(importlib.import_module("perceiver.model.vision.optical_flow"), name)
        assert callable(found) and found.__name__ == name and found.__doc__


# --- folders ---


def test_published_folder_gives_the_recorded_outputs(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(HUB)
    assert type(model) is OpticalFlowPerceiver and not model.training
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert_same_parameters(again.state_dict(), model.state_dict())
    (case,) = golden_cases("optical_flow", "forward")
    processor = OpticalFlowProcessor(patch_size=model.backend_model.config.encoder.image_shape)
    inputs = processor.preprocess((case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy()))
    scale = model.backend_model.config.decoder.rescale_factor
    for loaded in (model, again):
        logits = loaded(inputs).logits
        torch.testing.assert_close(logits * scale, case.outputs["logits"] * scale, atol=1e-4, rtol=0)
    published, saved = (json.loads((folder / "config.json").read_text()) for folder in (HUB, tmp_path))
    for key in ("model_config", "model_type", "architectures"):
        assert saved[key] == published[key]
    computed = "0.input_adapter.position_encoding.position_encoding"
    assert load_file(tmp_path / "model.safetensors").keys() == {
        f"backend_model.{name}" for name in golden_parameters("optical_flow") if name != computed
    }


def test_save_and_load(tmp_path: Path) -> None:
    model, x = hf_model(), frames()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path).backend_config
    assert config == loaded.backend_model.config == model.backend_model.config == flow_config()
    torch.testing.assert_close(loaded(x).logits, model.backend_model(x), **CLOSE)


# --- forward ---


def test_labels_give_the_loss() -> None:
    model, x = hf_model(), frames()
    labels = 5 * torch.randn(2, H, W, 2)
    labels[0, 2:4] = float("nan")
    output = model(x, labels=labels)
    torch.testing.assert_close(output.logits, model.backend_model(x), **CLOSE)
    torch.testing.assert_close(output.loss, flow_loss(output.logits, labels))
    loss, logits = model(inputs=x, labels=labels, return_dict=False)
    torch.testing.assert_close((loss, logits), (output.loss, output.logits), **CLOSE)
    assert model(x).loss is None and len(model(x, return_dict=False)) == 1
    with pytest.raises(ValueError, match=r"flow has shape \(2, 7, 11, 2\), its target \(2, 11, 7, 2\)"):
        model(x, labels=torch.zeros(2, W, H, 2))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able.* is deprecated:FutureWarning")
def test_checkpointing_changes_no_gradient() -> None:
    x, labels, results = frames(), torch.randn(2, H, W, 2), []
    for on in (False, True):
        model = hf_model().train()
        if on:
            model.gradient_checkpointing_enable()  # its name before transformers 5.23, too
        model(x, labels=labels).loss.backward()
        results.append(gradients(model))
    assert_close(results[1], results[0])


def test_trainer(tmp_path: Path) -> None:
    x, flow = frames(4), 5 * torch.randn(4, H, W, 2)
    examples: Any = [{"inputs": x[i], "labels": flow[i]} for i in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    model = hf_model()
    before = model.backend_model.decoder.output_adapter.linear.weight.clone()
    training = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples)
    training.train()
    assert not torch.equal(model.backend_model.decoder.output_adapter.linear.weight, before)
    with torch.no_grad():
        expected = training.model.eval()(x, labels=flow)
    assert training.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(training.predict(examples).predictions), expected.logits, **CLOSE)
    training.save_model(str(tmp_path / "saved"))
    assert_same_parameters(AutoModel.from_pretrained(tmp_path / "saved").state_dict(), training.model.state_dict())


# --- pipeline ---


def test_recorded_pipeline() -> None:
    (case,) = golden_cases("optical_flow", "pipeline")
    estimate = pipeline("optical-flow", model=str(HUB))
    assert type(estimate) is OpticalFlowPipeline
    pair = (case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy())
    flow = estimate(pair)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, case.outputs["flow"], atol=1e-3)
    difference = np.abs(estimate(pair, render=True).astype(int) - case.outputs["rendered"].numpy())
    assert difference.max() <= 8 and difference.mean() < 0.5


def test_kinds_of_pairs(tiny: OpticalFlowPipeline, tmp_path: Path) -> None:
    """Files, transparency; a list of two frames is a pair, a list of pairs gives a list."""
    pair = frame_pair()
    expected = tiny(tuple(pair))
    for i, frame in enumerate(pair):
        Image.fromarray(frame).convert("RGBA").save(tmp_path / f"{i}.png")
    files = [str(tmp_path / "0.png"), tmp_path / "1.png"]
    for same in (files, tuple(files), list(pair), [Image.open(file) for file in files], np.stack(pair)):
        np.testing.assert_allclose(tiny(same), expected, atol=1e-4)
    flows = tiny([files, list(pair), tuple(pair)])
    assert len(flows) == 3
    for flow in flows:
        np.testing.assert_allclose(flow, expected, atol=1e-4)
    for wrong, message in (
        ("0.png", "is not a str: '0.png'"),
        ([files[0]], "two frames, not 1"),
        ([7], "is not a int"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(wrong)


def test_a_frame_of_the_size_of_the_model(tiny: OpticalFlowPipeline) -> None:
    pair = frame_pair()
    inputs = OpticalFlowProcessor(patch_size=(H, W), patch_min_overlap=0).preprocess(pair)
    expected = 20 * tiny.model(inputs).logits[0]
    np.testing.assert_allclose(tiny(pair), expected.detach().numpy(), atol=1e-4)


def test_bigger_frames_are_blended(tiny: OpticalFlowPipeline) -> None:
    pair = frame_pair(H + 4, W + 9)
    processor = OpticalFlowProcessor(patch_size=(H, W), patch_min_overlap=H - 1)
    with torch.no_grad():
        predictions = tiny.model(processor.preprocess(pair)).logits
    expected = processor.postprocess(predictions, (H + 4, W + 9))[0]
    for size in (1, 3, 100):
        np.testing.assert_allclose(tiny(pair, micro_batch_size=size), expected.numpy(), atol=1e-4)


def test_micro_batches_are_as_big_as_asked_for(tiny: OpticalFlowPipeline) -> None:
    sizes: list[int] = []
    handle = tiny.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    tiny(frame_pair(H + 1, W + 1), micro_batch_size=3)  # four tiles
    tiny(frame_pair(H + 1, W + 1))
    handle.remove()
    assert sizes == [3, 1, 1, 1, 1, 1]


def test_pictures_of_flow(tiny: OpticalFlowPipeline) -> None:
    pair = frame_pair(H + 1, W + 2)
    picture = tiny(pair, render=True)
    assert picture.shape == (H + 1, W + 2, 3) and picture.dtype == np.uint8
    difference = picture.astype(int) - render_optical_flow(tiny(pair))
    assert np.abs(difference).max() <= 1


def test_arguments_of_the_pipeline_hold_for_its_calls() -> None:
    sizes: list[int] = []
    rendering = OpticalFlowPipeline(model=hf_model(), render=True, micro_batch_size=2)
    rendering.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    pair = frame_pair(H + 1, W + 1)
    assert rendering(pair).dtype == np.uint8 and sizes == [2, 2]
    assert rendering(pair, render=False).dtype == np.float32
    assert rendering([pair])[0].dtype == np.uint8


def test_device_of_a_call() -> None:
    """As README of 0.11 has it. The meta device has shapes but no values, so that nothing comes back from there."""
    pipeline = OpticalFlowPipeline(model=hf_model())
    pair = frame_pair(H + 1, W)
    np.testing.assert_allclose(pipeline(pair, device="cpu"), pipeline(pair), atol=1e-5)
    with pytest.raises(NotImplementedError, match="meta"):
        pipeline(pair, device="meta")
    assert pipeline.device.type == next(pipeline.model.parameters()).device.type == "meta"


def test_many_pairs(tiny: OpticalFlowPipeline) -> None:
    pairs = [frame_pair(), frame_pair(H + 1, W), frame_pair(H, W + 3)]  # of any sizes
    expected = [tiny(pair) for pair in pairs]
    results = tiny(pairs)
    assert isinstance(results, list) and len(results) == 3
    for found, flow in zip(results, expected, strict=True):
        np.testing.assert_allclose(found, flow, atol=3e-4)


@pytest.mark.parametrize("kind", ["generator", "iterator"])
def test_frames_of_a_video_are_read_as_they_are_needed(tiny: OpticalFlowPipeline, kind: str) -> None:
    video = [frame_pair()[0] for _ in range(5)]
    read: list[int] = []

    def numbered() -> Iterator[Frame]:
        for i, frame in enumerate(video):
            read.append(i)
            yield frame

    pairs: Any = zip(numbered(), video[1:], strict=False)
    results = iter(tiny((pair for pair in pairs) if kind == "generator" else pairs))
    np.testing.assert_allclose(next(results), tiny((video[0], video[1])), atol=3e-4)
    assert len(read) < 4  # one ahead, and one that transformers looks at to know what it is
    assert len(list(results)) == 3


def test_frames_of_other_types(tiny: OpticalFlowPipeline) -> None:
    pair = frame_pair()
    expected = tiny(pair)
    np.testing.assert_allclose(tiny(tuple(PIL.Image.fromarray(frame) for frame in pair)), expected, atol=3e-4)
    np.testing.assert_allclose(tiny(tuple(torch.from_numpy(frame) for frame in pair)), expected, atol=3e-4)


@pytest.mark.parametrize(
    "pair, message",
    [
        (frame_pair()[:1], "an image pair has two frames, not 1"),
        (frame_pair(H - 1, W), r"frames of 6x11 pixels are smaller than patch_size, 7x11"),
        ((frame_pair()[0], frame_pair(H, W + 1)[1]), r"differ in size: \(7, 11\) and \(7, 12\)"),
        (tuple(frame.astype(np.float32) for frame in frame_pair()), "dtype float32, and must have uint8"),
        (tuple(frame[..., 0] for frame in frame_pair()), r"shape \(7, 11\), and must have \(H, W, 3\)"),
    ],
)
def test_bad_pairs(tiny: OpticalFlowPipeline, pair: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(pair)


def test_bad_arguments(tiny: OpticalFlowPipeline) -> None:
    with pytest.raises(ValueError, match="micro_batch_size=0 must be at least 1"):
        tiny(frame_pair(), micro_batch_size=0)
    with pytest.raises(ValueError, match="micro_batch_size=-1 must be at least 1"):
        OpticalFlowPipeline(model=tiny.model, micro_batch_size=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rendered'"):
        tiny(frame_pair(), rendered=True)


# --- conversion of checkpoints; of transformers' models: tests/parity ---


def test_convert_checkpoint(tmp_path: Path) -> None:
    lit_model = LitOpticalFlow.create(flow_config())
    saving = trainer(tmp_path)
    saving.strategy.connect(lit_model)
    saving.save_checkpoint(tmp_path / "a.ckpt")
    convert_checkpoint(save_dir=tmp_path / "out", ckpt_url=str(tmp_path / "a.ckpt"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    estimate = pipeline("optical-flow", model=str(tmp_path / "out"))
    assert_same_parameters(estimate.model.backend_model.state_dict(), lit_model.model.state_dict())
    assert estimate(frame_pair()).shape == (H, W, 2)


def test_failed_conversions_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        convert_checkpoint(tmp_path / "out", tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="must be 2 integers"):
        convert_checkpoint(tmp_path / "out", GOLDEN / "img_clf_mnist" / "lit.ckpt")
    assert list(tmp_path.iterdir()) == []
