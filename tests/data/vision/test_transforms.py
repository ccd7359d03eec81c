"""Crops lie within images, operations do what they are called after, mixtures add up; all of it by the generator."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from PIL import Image

from perceiver.data.vision.transforms import (
    IMAGENET_AUGMENTATION,
    IMAGENET_MIXING,
    OPERATIONS,
    Augmentation,
    Mixing,
    RandAugment,
    cutmix_weights,
    mixup_weights,
    random_crop_box,
    random_flip,
    random_resized_crop,
    random_shift,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_image(height: int, width: int, channels: int = 3) -> Image.Image:
    array = rng().integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def gradient(mode: str = "RGB") -> Image.Image:
    """16 x 16 pixels, values 0, 1, ..., 255."""
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 1000))
@example(1, 300, 0.5, 0)
@example(300, 1, 0.5, 0)
@settings(max_examples=300)
def test_crop_boxes_lie_within_the_image(width, height, min_area, seed):
    left, top, right, bottom = random_crop_box(width, height, min_area, rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_crop_boxes_have_the_areas_and_aspect_ratios_asked_for():
    random = rng()
    boxes = np.array([random_crop_box(1000, 1000, 0.08, random) for _ in range(2000)])
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas, ratios = sizes.prod(axis=1) / 1e6, sizes[:, 0] / sizes[:, 1]
    assert 0.079 < areas.min() < 0.09 and areas.max() > 0.95
    always_fit = areas[areas < 0.75]
    assert always_fit.mean() == pytest.approx((0.08 + 0.75) / 2, abs=0.01)
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.34
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("size, box", [((90, 10), (38, 0, 51, 10)), ((10, 90), (0, 38, 10, 51))])
def test_where_no_box_fits_it_is_the_middle(size, box):
    """The whole image, 1:9 and 9:1, can't have an aspect ratio between 3:4 and 4:3."""
    assert random_crop_box(*size, 1.0, rng()) == box


def test_a_resized_crop_is_that_part_of_the_image():
    image = random_image(40, 60)
    box = random_crop_box(60, 40, 0.3, rng(3))
    expected = image.crop(box).resize((11, 7), Image.Resampling.BICUBIC)
    assert random_resized_crop(image, (7, 11), 0.3, rng(3)).tobytes() == expected.tobytes()


def test_shifts_move_in_zeros():
    array = np.arange(1, 31, dtype=np.uint8).reshape(5, 6)
    padded, offsets = np.pad(array, 2), set()
    random = rng()
    for _ in range(200):
        shifted = np.asarray(random_shift(Image.fromarray(array), 2, random))
        found = [(y, x) for y in range(5) for x in range(5) if (padded[y : y + 5, x : x + 6] == shifted).all()]
        assert len(found) == 1
        offsets |= set(found)
    assert len(offsets) == 25


def test_flips():
    image, random = random_image(4, 5), rng()
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert mirrored.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes() == image.tobytes() != mirrored.tobytes()
    flips = [random_flip(image, random).tobytes() for _ in range(400)]
    assert set(flips) == {image.tobytes(), mirrored.tobytes()}
    assert 160 < flips.count(mirrored.tobytes()) < 240


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_size_and_mode_and_do_nothing_without_strength(name, mode):
    image = random_image(9, 13, 1 if mode == "L" else 3)
    for strength in (-1.0, -0.5, 0.5, 1.0):
        changed = OPERATIONS[name](image, strength)
        assert (changed.size, changed.mode) == (image.size, mode)
    if name not in ("autocontrast", "equalize"):
        assert OPERATIONS[name](image, 0.0).tobytes() == image.tobytes()


def test_what_operations_do():
    def values(name: str, strength: float) -> np.ndarray:
        return np.asarray(OPERATIONS[name](gradient("L"), strength)).astype(int)

    x = np.arange(256).reshape(16, 16)
    assert (values("solarize", 0.5) == np.where(x < 128, x, 255 - x)).all()
    assert (values("solarize", 1.0) == 255 - x).all()
    assert (values("posterize", -0.5) == x // 4 * 4).all()  # 6 bits
    assert (values("posterize", 1.0) == x // 16 * 16).all()  # 4 bits
    assert (values("brightness", -1.0) == x * 0.1 // 1).all()
    assert abs(values("brightness", 0.5) - np.minimum(x * 1.45, 255)).max() <= 1
    assert abs(values("contrast", -1.0) - (128 + (x - 128) * 0.1)).max() <= 1
    moved = values("translate_x", 0.625)  # 0.45 * 0.625 * 16 = 4.5 pixels to the left, grey comes after
    assert (moved[:, :11] == (x[:, 4:15] + x[:, 5:16]) // 2).all() and (moved[:, 11:] == 128).all()
    for name in ("translate", "shear"):
        across = OPERATIONS[f"{name}_x"](gradient("L"), 0.5)
        down = OPERATIONS[f"{name}_y"](gradient("L").transpose(Image.Transpose.TRANSPOSE), 0.5)
        assert np.array_equal(np.asarray(across).T, np.asarray(down))
    flat = Image.new("L", (16, 16), 7)
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert set(np.unique(np.asarray(OPERATIONS[name](flat, 1.0)))) <= set(range(7, 129))
    dull = Image.fromarray(np.linspace(100, 150, 256).astype(np.uint8).reshape(16, 16))
    for name in ("autocontrast", "equalize"):
        assert OPERATIONS[name](dull, 0.3).getextrema() == (0, 255)


def test_colour_becomes_grey():
    image = Image.new("RGB", (1, 1), (200, 100, 0))
    grey = image.convert("L").getpixel((0, 0))
    colour = OPERATIONS["color"](image, -1.0).getpixel((0, 0))
    assert np.allclose(colour, [grey + 0.1 * (c - grey) for c in (200, 100, 0)], atol=1)


def test_rand_augment_applies_as_many_operations_with_both_directions(monkeypatch):
    calls: list[tuple[str, float]] = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, s, name=name: calls.append((name, s)) or image)
    random = rng()
    for _ in range(500):
        RandAugment(num_ops=4, magnitude=3)(gradient(), random)
    assert len(calls) == 2000
    assert {s for _, s in calls} == {-0.3, 0.3}
    counts = [sum(name == other for other, _ in calls) for name in OPERATIONS]
    assert len(counts) == 14 and min(counts) > 100 and max(counts) < 190


@given(st.integers(0, 2**32), st.integers(5, 40), st.integers(5, 40))
@settings(max_examples=30)
def test_augmentation_is_a_function_of_its_generator(seed, height, width):
    image = random_image(height, width)
    first, second = (IMAGENET_AUGMENTATION(image, (8, 9), rng(seed)) for _ in range(2))
    assert first.size == (9, 8) and first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


def test_augmentation_by_default_does_nothing():
    image = random_image(5, 6)
    assert Augmentation()(image, (2, 2), rng()) is image
    shifted = Augmentation(max_shift=2)(image, (2, 2), rng(1))
    assert shifted.tobytes() == random_shift(image, 2, rng(1)).tobytes()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"min_crop_area": 0.0}, r"min_crop_area=0.0 must be in \(0, 1\]"),
        ({"max_shift": -1}, "max_shift=-1 must be at least 0"),
        ({"num_ops": -1}, "num_ops=-1 must be at least 0"),
        ({"magnitude": 11}, r"magnitude=11 must be in \[0, 10\]"),
    ],
)
def test_wrong_augmentation(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**kwargs)


@pytest.mark.parametrize("alphas", [(0, 0), (-0.1, 1), (0.2, -1), (math.nan, 1), (0.2, math.inf)])
def test_wrong_mixing(alphas):
    with pytest.raises(ValueError, match=rf"mixup_alpha={alphas[0]} and cutmix_alpha={alphas[1]} must be finite"):
        Mixing(*alphas)


def batch(size: int, height: int = 5, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Image i is i everywhere, and its label i: an image's mean says what its label must be."""
    images = np.broadcast_to(np.arange(size, dtype=np.float32)[:, None, None, None], (size, height, width, 3))
    return images.copy(), np.eye(size, dtype=np.float32)


@given(st.integers(1, 9), st.integers(0, 1000), st.sampled_from([(0.2, 1.0), (0.2, 0.0), (0.0, 1.0)]))
@settings(max_examples=100)
def test_labels_are_mixed_as_images_are(size, seed, alphas):
    images, labels = batch(size)
    mixed, probabilities = Mixing(*alphas)(images, labels, rng(seed))
    assert mixed.dtype == probabilities.dtype == np.float32
    assert mixed.shape == images.shape and probabilities.shape == (size, size)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities >= 0).all() and ((probabilities > 0).sum(axis=1) <= 2).all()
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), probabilities @ np.arange(size), rtol=1e-4, atol=1e-5)
    again = Mixing(*alphas)(images, labels, rng(seed))
    assert np.array_equal(mixed, again[0]) and np.array_equal(probabilities, again[1])


def test_examples_without_a_label_bring_none():
    images, labels = batch(4)
    labels[2] = 0
    _, probabilities = Mixing(0.5, 0.0)(images, labels, rng())
    assert (probabilities[:, 2] == 0).all() and (probabilities.sum(axis=1) <= 1 + 1e-6).all()


def test_with_both_an_image_gets_one_of_them():
    """MixUp gives one value for all pixels, CutMix the values of both images."""
    images, labels = batch(400, 8, 8)
    mixed, _ = IMAGENET_MIXING(images, labels, rng())
    values = [len(np.unique(image)) for image in mixed]
    assert set(values) == {1, 2}
    assert 140 < values.count(2) < 220  # some boxes are empty or everything
    whole = np.array([np.isin(image[0, 0, 0], np.arange(400)) for image in mixed])
    assert not whole[np.array(values) == 1].all()


def test_mixup_weights():
    weights = mixup_weights((5000, 2, 3), 0.2, rng())
    assert weights.shape == (5000, 2, 3) and (weights == weights[:, :1, :1]).all()
    share = weights[:, 0, 0]
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)  # of Beta(0.2, 0.2)


def test_cutmix_boxes():
    weights = cutmix_weights((3000, 20, 30), 1.0, rng())
    assert set(np.unique(weights)) == {0, 1}
    for removed in 1 - weights[:100]:
        rows, columns = removed.any(axis=1), removed.any(axis=0)
        assert (removed == np.outer(rows, columns)).all()  # a box
        assert (np.diff(np.flatnonzero(rows)) == 1).all() and (np.diff(np.flatnonzero(columns)) == 1).all()
    # E (1 - share) of a box whose relative side is s, cut off at the border: s - s^2 / 4 in each dimension
    side = np.sqrt(rng().random(100_000))
    assert (1 - weights).mean() == pytest.approx(((side - side**2 / 4) ** 2).mean(), abs=0.01)
