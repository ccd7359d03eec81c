"""Published files give the recorded pixels; official preprocessing; every kind of image, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from transformers import AutoImageProcessor, PerceiverImageProcessorPil

import perceiver.model.vision.image_classifier  # noqa: F401  # registers the image processor
from perceiver.processing.image import PerceiverImageClassifierInputProcessor, image_array
from tests.model.helpers import GOLDEN, golden_cases

RAW = {"do_center_crop": False, "do_resize": False, "do_rescale": False, "do_normalize": False}


def pixels(images: Any, **kwargs: Any) -> torch.Tensor:
    return PerceiverImageClassifierInputProcessor(**kwargs)(images, return_tensors="pt")["pixel_values"]


def random_array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["img_clf_mnist", "img_clf_fourier"])
def test_published_files_give_the_recorded_pixels(name, tmp_path):
    processor = AutoImageProcessor.from_pretrained(GOLDEN / name / "hub")
    assert type(processor) is PerceiverImageClassifierInputProcessor
    assert processor.backend == "pil"
    (case,) = golden_cases(name, "image_processor")
    images = [Image.fromarray(image.numpy()) for image in case.inputs.values()]
    values = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(values, case.outputs["pixel_values"], atol=1e-6, rtol=0)

    processor.save_pretrained(tmp_path)
    files = [folder / "preprocessor_config.json" for folder in (tmp_path, GOLDEN / name / "hub")]
    assert len({json.dumps(json.loads(file.read_text()), sort_keys=True) for file in files}) == 1
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(images, return_tensors="pt")["pixel_values"], values)


@pytest.mark.parametrize("shape", [(300, 411), (257, 190), (224, 224)])
def test_without_arguments_it_is_the_official_preprocessing(shape):
    image = Image.fromarray(random_array(*shape, 3))
    official = PerceiverImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels(image), official.movedim(1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(pixels(image, channels_last=False), official, atol=1e-6, rtol=0)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 17), st.integers(1, 17), st.booleans(), st.booleans())
@settings(max_examples=50)
def test_any_size_is_processed_as_in_transformers(height, width, out_height, out_width, crop, floating):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = (image / 255).astype(np.float32) if floating else image
    kwargs = {"do_center_crop": crop, "size": {"height": out_height, "width": out_width}}
    kwargs["crop_size"] = {"height": out_height + 1, "width": out_width + 2}
    kwargs |= {"input_data_format": "channels_last", "do_rescale": not floating}
    side = min(height, width)
    if crop and min(out_height * side // (out_height + 1), out_width * side // (out_width + 2)) == 0:
        with pytest.raises(ValueError, match=rf"an image of {height} x {width} pixels is too small for a center crop"):
            pixels(image, **kwargs)
    else:
        expected = PerceiverImageProcessorPil(**kwargs)(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels(image, **kwargs), expected.movedim(1, -1), atol=1e-6, rtol=0)


def test_one_image_in_every_form_gives_the_same_pixels():
    array = random_array(5, 7, 3)
    expected = torch.from_numpy(array)[None]
    forms = [array, array.transpose(2, 0, 1), torch.from_numpy(array), torch.from_numpy(array).movedim(-1, 0)]
    forms += [array.astype(np.float64), torch.from_numpy(array).half(), Image.fromarray(array)]
    for form in forms:
        for images in (form, [form], (form,)):
            assert torch.equal(pixels(images, **RAW), expected)
    for form in forms[:-1]:
        assert torch.equal(pixels(form[None], **RAW), expected)
    assert torch.equal(pixels(forms, **RAW), expected.expand(7, -1, -1, -1))
    assert torch.equal(pixels(array, **RAW, channels_last=False), expected.movedim(-1, 1))
    assert torch.equal(pixels(forms[1], **RAW, input_data_format="channels_first"), expected)


def test_one_grayscale_image_in_every_form_gives_the_same_pixels():
    array = random_array(5, 7)
    expected = torch.from_numpy(array)[None, ..., None]
    forms = [array, array[..., None], array[None], torch.from_numpy(array), array.astype(np.float32)]
    forms.append(Image.fromarray(array))
    for form in forms:
        assert torch.equal(pixels(form, **RAW, single_channel=True), expected)
        assert torch.equal(pixels([form], **RAW), expected.expand(-1, -1, -1, 3))
    assert pixels(np.stack([array[..., None]] * 2), **RAW, single_channel=True).shape == (2, 5, 7, 1)


def test_rgb_to_grayscale():
    array = random_array(5, 7, 3)
    expected = torch.from_numpy(np.array(Image.fromarray(array).convert("L")))[None, ..., None]
    assert torch.equal(pixels(array, **RAW, single_channel=True), expected)
    assert torch.equal(pixels(Image.fromarray(array), **RAW, single_channel=True), expected)
    exact = pixels(array.astype(np.float32), **RAW, single_channel=True)
    assert exact[0, 2, 3, 0].item() == pytest.approx(array[2, 3] @ [0.299, 0.587, 0.114], rel=1e-6)
    assert (exact - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_of_8_bits(mode):
    image = Image.fromarray(random_array(5, 7, 3)).convert("L" if mode in ("LA", "PA") else "RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))  # Pillow warns of that
    rgb, gray = np.array(image.convert("RGBA").convert("RGB")), np.array(image.convert("RGBA").convert("L"))
    if mode not in ("P", "PA", "LA", "RGBA"):
        rgb, gray = np.array(image.convert("RGB")), np.array(image.convert("L"))
    assert np.array_equal(pixels(image, **RAW)[0], rgb)
    assert np.array_equal(pixels(image, **RAW, single_channel=True)[0, ..., 0], gray)


def test_mean_and_standard_deviation_are_numbers_or_lists():
    array = random_array(5, 7, 3)
    x = torch.from_numpy(array)[None] / 255
    kwargs = {"do_center_crop": False, "do_resize": False}
    torch.testing.assert_close(pixels(array, **kwargs, image_mean=0.5, image_std=0.25), (x - 0.5) / 0.25)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    expected = (x - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(pixels(array, **kwargs, image_mean=mean, image_std=std), expected)


@pytest.mark.parametrize("std", [0.0, -0.5, float("nan"), [0.5, 0.0, 0.5]], ids=str)
def test_images_are_not_divided_by_0(std):
    with pytest.raises(ValueError, match=r"image_std=.* must be positive"):
        PerceiverImageClassifierInputProcessor(image_std=std)
    with pytest.raises(ValueError, match=r"image_std=.* must be positive"):
        PerceiverImageClassifierInputProcessor()(np.zeros((5, 7, 3), np.uint8), image_std=std)  # of this call


def test_a_crop_size_of_0():
    with pytest.raises(ValueError, match=r"crop_size=.'height': 0, 'width': 0. must not be 0"):
        pixels(np.zeros((5, 7, 3), np.uint8), crop_size={"height": 0, "width": 0})


def test_arguments_of_a_call_are_for_this_call():
    processor = PerceiverImageClassifierInputProcessor(**RAW)
    image = Image.fromarray(random_array(5, 7, 3))
    shapes = [
        processor(image, return_tensors="np", **kwargs)["pixel_values"].shape
        for kwargs in ({"single_channel": True, "channels_last": False}, {})
    ]
    assert shapes == [(1, 1, 5, 7), (1, 5, 7, 3)]


SHAPES = r"it must be \(H, W\), \(H, W, C\) or \(C, H, W\) with C = 1 or 3 channels and at least 1 x 1 pixels"
WRONG = {
    "nothing": ([], "there are no images"),
    "4 channels": (np.zeros((5, 7, 4), np.uint8), rf"shape \(5, 7, 4\), {SHAPES}"),
    "2 channels": (torch.zeros(2, 5, 7), rf"shape \(2, 5, 7\), {SHAPES}"),
    "no pixels": (np.zeros((0, 7, 3), np.uint8), rf"shape \(0, 7, 3\), {SHAPES}"),
    "no PIL pixels": (Image.new("RGB", (0, 7)), "image has 7 x 0 pixels, it must have at least 1 x 1"),
    "16 bits": (np.zeros((5, 7), np.uint16), "dtype uint16, it must be uint8 or a floating point type"),
    "integers": (torch.zeros(5, 7, dtype=torch.int64), "dtype int64, it must be uint8 or a floating point type"),
    "16 bits in PIL": (Image.new("I;16", (5, 7)), "image has mode I;16, more than 8 bits per channel"),
    "floats in PIL": (Image.new("F", (5, 7)), "image has mode F, more than 8 bits per channel"),
    "sizes": ([np.zeros((5, 7), np.uint8), np.zeros((5, 6), np.uint8)], r"sizes \[\(5, 6\), \(5, 7\)\] can't be one"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_images(what):
    image, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        pixels(image, do_resize=False, do_center_crop=False)


def test_declared_channels_are_checked():
    with pytest.raises(ValueError, match=r"image has shape \(3, 7, 5\)"):
        pixels(np.zeros((3, 7, 5), np.uint8), input_data_format="channels_last")
    with pytest.raises(ValueError, match=r"image has shape \(2, 5, 7, 3\)"):
        image_array(np.zeros((2, 5, 7, 3), np.uint8))


def test_an_image_too_small_for_the_center_crop():
    message = "an image of 1 x 90 pixels is too small for a center crop of 224/256 of its height and 224/256 of its"
    with pytest.raises(ValueError, match=message):
        pixels(Image.new("RGB", (90, 1)))
    assert pixels(Image.new("RGB", (90, 2))).shape == (1, 224, 224, 3)
