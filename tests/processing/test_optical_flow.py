"""Features, tiles, blending and colours of optical flow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor, nn

from perceiver.processing.optical_flow import OpticalFlowProcessor, pixel_features, render_optical_flow
from tests.model.helpers import golden_cases

# size of a tile, overlap, size of a frame
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 11)).flatmap(
    lambda patch: st.tuples(
        st.just(patch),
        st.integers(0, min(patch) - 1),
        st.tuples(*(st.integers(size, size + 40) for size in patch)),
    )
)


def frames(shape: tuple[int, int] = (14, 18), count: int = 2, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), dtype=np.uint8))


class PixelModel(nn.Module):
    """The red of a pixel in the first frame, the green in the second one: no tile differs from another about it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batch_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.scale.dtype
        self.batch_sizes.append(len(x))
        return torch.stack([x[:, 0, 12], x[:, 1, 13]], dim=-1) * self.scale

    @staticmethod
    def flow(pair: list[np.ndarray]) -> Tensor:
        colors = np.stack([pair[0][..., 0], pair[1][..., 1]], axis=-1)
        return torch.from_numpy(colors).float() / 255 * 2 - 1


class TileModel(PixelModel):
    """Depends on the whole tile."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(x) * x.mean(dim=(1, 2, 3, 4))[:, None, None, None])


def test_recorded_features_and_flow() -> None:
    (case,) = golden_cases("optical_flow", "optical_flow_processor")
    processor = OpticalFlowProcessor(**case.kwargs)
    pair = [case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy()]
    features = processor.preprocess(pair)
    assert features.shape == (9, 2, 27, 8, 10) and features.dtype == torch.float32
    assert torch.equal(features[[0, 4, 8]], case.outputs["features_of_kept_patches"])
    torch.testing.assert_close(features.sum(dim=(1, 2, 3, 4)), case.outputs["features_sum_per_patch"])

    predictions = case.inputs["predictions"]
    flow = processor.postprocess(predictions, (14, 18, 3))
    assert flow.shape == (1, 14, 18, 2)
    torch.testing.assert_close(flow, case.outputs["flow"])
    batch = processor.postprocess(torch.stack([predictions, -predictions]), (14, 18))
    torch.testing.assert_close(batch, torch.cat([case.outputs["flow"], case.outputs["flow_batch_1"]]))


def test_recorded_grids() -> None:
    """Without the tiles that the format has twice."""
    (case,) = golden_cases("optical_flow", "patch_grids")
    assert len(case.data) == 6
    for name, positions in case.data.items():
        height, width, patch_height, patch_width, overlap = map(int, re.findall(r"\d+", name))
        grid = OpticalFlowProcessor((patch_height, patch_width), overlap).grid((height, width))
        assert grid == list(dict.fromkeys(map(tuple, positions))), name


@given(SIZES)
@settings(max_examples=100)
def test_tiles_cover_every_pixel_and_overlap_enough(sizes: Any) -> None:
    patch_size, overlap, image_shape = sizes
    grid = OpticalFlowProcessor(patch_size, overlap).grid(image_shape)
    assert len(set(grid)) == len(grid) and grid == sorted(grid)
    for axis, (patch, size) in enumerate(zip(patch_size, image_shape, strict=True)):
        starts = sorted({position[axis] for position in grid})
        assert starts[0] == 0 and starts[-1] == size - patch
        assert all(a + patch - b >= overlap for a, b in pairwise(starts))
        assert len(starts) == 1 + math.ceil((size - patch) / (patch - overlap))  # no more than needed
    covered = np.zeros(image_shape, int)
    for y, x in grid:
        covered[y : y + patch_size[0], x : x + patch_size[1]] += 1
    assert covered.min() >= 1


def test_widths_that_the_format_could_not_do() -> None:
    for width in range(953, 972):
        assert OpticalFlowProcessor().grid((368, width)) == [(0, 0), (0, width - 496)]


@given(SIZES, st.integers(1, 5))
@settings(max_examples=40)
def test_tiles_that_agree_give_what_they_say(sizes: Any, batch_size: int) -> None:
    """Whatever the size: features are of the right pixels, and blending is a mean."""
    patch_size, overlap, image_shape = sizes
    processor, model, pair = OpticalFlowProcessor(patch_size, overlap, 3), PixelModel(), frames(image_shape)
    expected = 3 * PixelModel.flow(pair)
    (flow,) = processor.process(model, [pair], batch_size)
    torch.testing.assert_close(flow, expected)
    predictions = model(processor.preprocess(pair)).detach()
    torch.testing.assert_close(processor.postprocess(predictions, image_shape)[0], expected)


def test_tiles_that_differ_are_blended_by_their_distance_from_the_border() -> None:
    """Two tiles of 3x4 pixels beside each other, by hand."""
    processor = OpticalFlowProcessor((3, 4), 2, flow_scale_factor=1)
    predictions = torch.stack([torch.zeros(3, 4, 2), torch.ones(3, 4, 2)])
    flow = processor.postprocess(predictions, (3, 6))[0, ..., 0]
    assert flow[0].tolist() == [0, 0, 0.5, 0.5, 1, 1]  # weights 1 1 1 1
    torch.testing.assert_close(flow[1], torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1]))  # weights 1 2 2 1


def test_a_feature_is_a_neighbour() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    features = pixel_features(torch.from_numpy(image)) + 1  # 27 H W, 1 stands for 0
    middle = (features[:, 0, 1] * 255 / 2).round().reshape(3, 3, 3)
    assert (features[:9, 0] == 1).all()  # above the image
    assert middle[1:].tolist() == image.tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_process_equals_preprocess_model_postprocess(batch_size: int) -> None:
    """Also where a batch has tiles of several pairs, and pairs differ in size."""
    processor, model = OpticalFlowProcessor((8, 10), 3), TileModel()
    pairs = [frames(shape, seed=seed) for seed, shape in enumerate([(14, 18), (8, 10), (9, 25)])]
    flows = list(processor.process(model, iter(pairs), batch_size))
    num_tiles = 9 + 1 + 2 * 4
    assert [len(processor.grid(pair[0].shape)) for pair in pairs] == [9, 1, 8]
    assert sum(model.batch_sizes) == num_tiles and max(model.batch_sizes) == min(batch_size, num_tiles)
    for flow, pair in zip(flows, pairs, strict=True):
        predictions = model(processor.preprocess(pair)).logits
        torch.testing.assert_close(flow, processor.postprocess(predictions, pair[0].shape)[0])
        assert not flow.requires_grad


def test_process_takes_pairs_when_it_needs_them() -> None:
    taken = []

    def video() -> Iterator[list[np.ndarray]]:
        for i in range(4):
            taken.append(i)
            yield frames((8, 20), seed=i)  # 3 tiles

    flows = OpticalFlowProcessor((8, 10), 3).process(PixelModel(), video(), batch_size=2)
    assert taken == []
    taken_at = []
    for _ in flows:
        assert torch.is_grad_enabled()  # of the caller
        taken_at.append(len(taken))
    assert taken_at == [2, 2, 4, 4]


def test_process_with_a_model_in_bfloat16() -> None:
    pair = frames((8, 10))
    (flow,) = OpticalFlowProcessor((8, 10), 3).process(PixelModel().to(torch.bfloat16), [pair])
    assert flow.dtype == torch.float32
    torch.testing.assert_close(flow, 20 * PixelModel.flow(pair), atol=0.1, rtol=0.01)


def test_batches_of_pairs() -> None:
    processor, pairs = OpticalFlowProcessor((8, 10), 3), [frames(seed=1), frames(seed=2)]
    features = processor.preprocess_batch(pairs)
    assert features.shape == (2, 9, 2, 27, 8, 10)
    assert torch.equal(features[1], processor.preprocess(pairs[1]))
    with pytest.raises(ValueError, match=r"differ in size: \[\(9, 10\), \(14, 18\)\]"):
        processor.preprocess_batch([frames(), frames((9, 10))])


def test_pairs_of_other_types() -> None:
    """Tensors, Pillow images, which are read-only, and views."""
    processor, pair = OpticalFlowProcessor((8, 10), 3), frames()
    expected = processor.preprocess(pair)
    flipped = [frame[::-1] for frame in [np.ascontiguousarray(frame[::-1]) for frame in pair]]
    for same in ([torch.from_numpy(f) for f in pair], tuple(Image.fromarray(f) for f in pair), np.stack(pair), flipped):
        assert torch.equal(processor.preprocess(same), expected)


def test_pairs_of_files_and_with_transparency(tmp_path: Path) -> None:
    processor, pair = OpticalFlowProcessor((8, 10), 3), frames()
    rgba = [np.concatenate([frame, np.full((14, 18, 1), 9, np.uint8)], axis=-1) for frame in pair]
    Image.fromarray(pair[0]).save(tmp_path / "a.png")
    Image.fromarray(rgba[1]).save(tmp_path / "b.png")
    files = tmp_path / "a.png", str(tmp_path / "b.png")
    for same in (rgba, [torch.from_numpy(rgba[0]), Image.fromarray(rgba[1])], files):
        assert torch.equal(processor.preprocess(same), processor.preprocess(pair))
    grey = [np.repeat(frame[..., :1], 3, axis=-1) for frame in pair]
    expected = processor.preprocess(grey)
    assert torch.equal(processor.preprocess([Image.fromarray(frame[..., 0]) for frame in pair]), expected)
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(OSError, match=r"c\.png"):
        processor.preprocess((files[0], tmp_path / "c.png"))


FLOAT = [frame.astype(np.float32) for frame in frames()]
WRONG_PAIRS = {
    "an image pair has two frames, not 1": frames()[:1],
    r"frames of a pair differ in size: \(14, 18\) and \(14, 17\)": [frames()[0], frames((14, 17))[0]],
    "an image pair has two frames, and is not a str: 'a.png'": "a.png",
    "an image pair has two frames, and is not a int: 7": 7,
    "a frame is a float, and must be a path, an array or a Pillow image": (0.5, frames()[0]),
    r"shape \(14, 18\), and must have \(H, W, 3\)": [frame[..., 0] for frame in frames()],
    r"shape \(14, 18, 2\), and must have \(H, W, 3\) or \(H, W, 4\)": [frame[..., :2] for frame in frames()],
    "image has mode I;16": [Image.fromarray(frame[..., 0].astype(np.uint16)) for frame in frames()],
    "dtype float32, and must have uint8": FLOAT,
    "frames of 7x18 pixels are smaller than patch_size, 8x10": frames((7, 18)),
}


@pytest.mark.parametrize("message", WRONG_PAIRS)
def test_wrong_pairs(message: str) -> None:
    processor = OpticalFlowProcessor((8, 10), 3)
    with pytest.raises(ValueError, match=message):
        processor.preprocess(WRONG_PAIRS[message])
    with pytest.raises(ValueError, match=message):
        next(processor.process(PixelModel(), [WRONG_PAIRS[message]]))


def test_wrong_arguments() -> None:
    for patch_size in ((0, 4), (4,)):
        with pytest.raises(ValueError, match="must be a height and a width"):
            OpticalFlowProcessor(patch_size)  # type: ignore[arg-type]
    for overlap in (-1, 8):
        with pytest.raises(ValueError, match=rf"patch_min_overlap={overlap} must be in \[0, 7\]"):
            OpticalFlowProcessor((8, 10), overlap)
    processor = OpticalFlowProcessor((8, 10), 3)
    with pytest.raises(ValueError, match=r"image_shape=\(9,\) must be a height and a width"):
        processor.grid((9,))
    with pytest.raises(ValueError, match="there is no image pair"):
        processor.preprocess_batch([])
    with pytest.raises(ValueError, match="there is no image pair"):
        next(processor.process(PixelModel(), []))
    with pytest.raises(ValueError, match="batch_size=0"):
        next(processor.process(PixelModel(), [frames()], batch_size=0))
    with pytest.raises(ValueError, match=r"shape \(8, 8, 10, 2\).*\(9, 8, 10\)"):
        processor.postprocess(torch.zeros(8, 8, 10, 2), (14, 18))


def test_recorded_colors() -> None:
    """OpenCV rounds its own way."""
    (case,) = golden_cases("optical_flow", "render_optical_flow")
    difference = np.abs(render_optical_flow(case.inputs["flow"].numpy()).astype(int) - case.outputs["rgb"].numpy())
    assert difference.max() <= 1


def test_colors_of_directions_and_lengths() -> None:
    flow = 24 * np.array([[[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0], [0.5, 0], [9, 0], [1, -1e-9]]])
    red, green, cyan, violet, white, pink = (
        [255, 0, 0],
        [128, 255, 0],
        [0, 255, 255],
        [128, 0, 255],
        [255, 255, 255],
        [255, 128, 128],
    )
    assert render_optical_flow(flow)[0, :7].tolist() == [red, green, cyan, violet, white, pink, red]
    assert np.abs(render_optical_flow(flow)[0, 7].astype(int) - red).max() <= 9  # two degrees before red


def test_flow_that_is_not_finite_is_black() -> None:
    flow = np.zeros((2, 3, 4, 2), np.float32)
    flow[1, 2, 3, 0], flow[0, 0, 0, 1] = np.nan, np.inf
    rgb = render_optical_flow(flow)
    assert rgb.shape == (2, 3, 4, 3) and rgb.dtype == np.uint8
    black = (rgb == 0).all(axis=-1)
    assert black.sum() == 2 and black[1, 2, 3] and black[0, 0, 0]
    assert (rgb[~black] == 255).all()


def test_rendering_a_batch_is_rendering_each() -> None:
    flow = torch.randn(3, 5, 7, 2) * 20
    assert np.array_equal(render_optical_flow(flow), np.stack([render_optical_flow(f) for f in flow.numpy()]))
    with pytest.raises(ValueError, match=r"flow has shape \(5, 7, 3\)"):
        render_optical_flow(np.zeros((5, 7, 3)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frame() -> None:
    """4K: features of 63 tiles are 2.4 GB, those of one 38 MB. The flow is 63 MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("reads the peak of memory from Linux")

    def peak() -> float:
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1024  # MB

    pair = frames((2160, 3840))
    processor, model = OpticalFlowProcessor(), PixelModel()
    list(processor.process(model, [frames((368, 496))]))
    before = peak()
    (flow,) = processor.process(model, [pair])
    assert flow.shape == (2160, 3840, 2) and peak() - before < 300
