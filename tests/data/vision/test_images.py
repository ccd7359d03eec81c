"""Files are read or refused by name; examples are functions of seed, epoch and index; batches; data sets and splits."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from perceiver.data.vision.folder import ImageFolderDataModule
from perceiver.data.vision.images import (
    ImageCollator,
    ImageExamples,
    check_images,
    image_dataset,
    read_image,
    stratified_splits,
)
from perceiver.data.vision.transforms import Augmentation, Mixing
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from tests.data.vision.image_data import arrays, pictures, prepared

NAMES = ["a", "b", "c"]


def examples(number: int = 7, **kwargs: object) -> ImageExamples:
    rows = image_dataset(arrays(number), np.arange(number) % 3, NAMES)
    options = {"split": "train", "size": (6, 9), "fixed_size": True, "single_channel": True, **kwargs}
    return ImageExamples(rows, NAMES, **options)


def saved(image: Image.Image, format: str, **kwargs: object) -> dict[str, object]:
    file = io.BytesIO()
    image.save(file, format, **kwargs)
    return {"bytes": file.getvalue(), "path": None}


def test_a_file_is_read_from_its_path_or_its_bytes(tmp_path):
    pictures(tmp_path / "a", ["0.png"])
    expected = np.asarray(Image.open(tmp_path / "a" / "0.png"))
    for file in (
        {"bytes": None, "path": str(tmp_path / "a" / "0.png")},
        {"bytes": (tmp_path / "a" / "0.png").read_bytes(), "path": "elsewhere.png"},
    ):
        assert np.array_equal(np.asarray(read_image(file, single_channel=False)), expected)
        assert read_image(file, single_channel=True).mode == "L"


def test_cameras_that_were_held_sideways():
    image = Image.fromarray(arrays(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    turned = read_image(saved(image, "PNG", exif=exif), single_channel=True)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("format, mode", [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("TIFF", "CMYK"), ("PNG", "LA")])
def test_modes(format, mode):
    image = Image.fromarray(arrays(1)[0]).convert("RGB").convert("L" if mode == "LA" else "RGB").convert(mode)
    for single_channel, expected in ((True, "L"), (False, "RGB")):
        read = read_image(saved(image, format), single_channel=single_channel)
        assert read.mode == expected
        assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB").convert(expected)))


def png(image: Image.Image) -> bytes:
    return saved(image, "PNG")["bytes"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"not an image", "cannot identify image file"),
        (b"", "cannot identify image file"),
        (png(Image.fromarray(arrays(1)[0]))[:-30], "truncated|incomplete|broken"),
        (png(Image.new("I;16", (5, 6))), "mode I;16, more than 8 bits per channel"),
    ],
    ids=["text", "empty", "cut off", "16 bits"],
)
def test_unreadable_files_are_named(tmp_path, content, message):
    pictures(tmp_path, ["0.png"])
    (tmp_path / "1.png").write_bytes(content)
    rows = image_dataset([str(tmp_path / "0.png"), str(tmp_path / "1.png")], [0, 1], NAMES)
    images = ImageExamples(rows, NAMES, split="train", size=(12, 16), fixed_size=False, single_channel=True)
    assert images[0]["image"].size == (16, 12)
    with pytest.raises(ValueError, match=rf"cannot read image 1 of split 'train', \S+1\.png: .*({message})"):
        images[1]


def test_missing_files_are_named(tmp_path):
    rows = image_dataset([str(tmp_path / "gone.png")], [0], NAMES)
    images = ImageExamples(rows, NAMES, split="valid", size=(6, 9), fixed_size=False, single_channel=True)
    with pytest.raises(ValueError, match=r"cannot read image 0 of split 'valid', \S+gone\.png: .*No such file"):
        images[0]
    nothing = datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=rows.features)
    images = ImageExamples(nothing, NAMES, split="valid", size=(6, 9), fixed_size=False, single_channel=True)
    with pytest.raises(ValueError, match=r"cannot read image 0 of split 'valid': it is missing"):
        images[0]


def test_images_of_another_size():
    with pytest.raises(ValueError, match="image 0 of split 'train' has 6 x 9 pixels, expected 9 x 6"):
        examples(size=(9, 6))[0]
    assert examples(size=(9, 6), fixed_size=False)[0]["image"].size == (9, 6)


def test_items():
    images = examples(4)
    assert len(images) == 4
    item = images[2]
    assert np.array_equal(np.asarray(item.pop("image")), arrays(4)[2])
    assert item == {"label": 2, "index": 2, "epoch": 0}
    assert images[(5, 1)]["epoch"] == 5
    assert images[(5, 1, False)]["label"] == 1 and images[(5, 1, True)]["label"] == -100
    for index in (-1, 4):
        with pytest.raises(IndexError, match=rf"example {index} is not in \[0, 4\)"):
            images[index]


def test_random_changes_depend_on_seed_epoch_and_index():
    images = examples(augmentation=Augmentation(max_shift=3, num_ops=2, magnitude=9), seed=1)

    def example(key: tuple[int, int], images: ImageExamples = images) -> bytes:
        return images[key]["image"].tobytes()

    assert example((4, 2)) == example((4, 2))
    assert len({example((epoch, 2)) for epoch in range(8)}) > 4
    other = examples(augmentation=images.augmentation, seed=2)
    assert [example((epoch, 2), other) for epoch in range(8)] != [example((epoch, 2)) for epoch in range(8)]


def test_labels_out_of_range():
    rows = datasets.Dataset.from_dict({"image": [None, None], "label": [0, 3]})
    with pytest.raises(ValueError, match=r"label 3 in column 'label' must be in \[0, 3\), one of \['a', 'b', 'c'\]"):
        ImageExamples(rows, NAMES, split="train", size=(6, 9), fixed_size=True, single_channel=True)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"image": [], "label": []}, "split 'valid' is empty"),
        ({"picture": [1], "label": [0]}, r"split 'valid' has no column 'image', only \['picture', 'label'\]"),
        ({"image": [[1, 2]], "label": [0]}, r"column 'image' of split 'valid' must hold images, not List"),
    ],
)
def test_splits_without_images(columns, message):
    good = image_dataset(arrays(2), [0, 1], NAMES)
    check_images({"train": good})
    with pytest.raises(ValueError, match=message):
        check_images({"train": good, "valid": datasets.Dataset.from_dict(columns)})


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3)])
def test_a_data_set_of_arrays(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows = image_dataset(images, [0, 1, 2, 0], NAMES)
    assert rows.features["label"].names == NAMES
    assert np.array_equal(np.stack([np.asarray(image) for image in rows["image"]]), images)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((2, 5, 6)), [0, 1], r"images are float64 of shape \(2, 5, 6\), they must be uint8"),
        (np.zeros((2, 5), np.uint8), [0, 1], r"images are uint8 of shape \(2, 5\), they must be uint8 of \(N, H, W\)"),
        (np.zeros((2, 5, 6, 1), np.uint8), [0, 1], r"images are uint8 of shape \(2, 5, 6, 1\), they must be uint8"),
        (np.zeros((2, 5, 6), np.uint8), [0], "there are 2 images and 1 labels"),
        (np.zeros((2, 5, 6), np.uint8), [0, 3], "3"),
    ],
)
def test_wrong_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message):
        image_dataset(images, labels, NAMES)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.floats(0, 0.5), st.floats(0, 0.4))
@settings(max_examples=30)
def test_splits_have_each_image_once_and_each_class_in_proportion(counts, valid_fraction, test_fraction):
    fractions = {"valid_fraction": valid_fraction, "test_fraction": test_fraction}
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = datasets.Dataset.from_dict({"image": np.arange(len(labels)), "label": labels})
    splits = stratified_splits(rows, **fractions)
    assert set(splits) == {"train"} | {name for name in ("valid", "test") if fractions[f"{name}_fraction"] > 0}
    assert sorted(sum((list(part["image"]) for part in splits.values()), [])) == list(range(len(labels)))
    for part in splits.values():
        assert list(part["image"]) == sorted(part["image"])
        assert list(part["label"]) == [labels[i] for i in part["image"]]
    for name in splits.keys() - {"train"}:
        for label, count in enumerate(counts):
            found = sum(n == label for n in splits[name]["label"])
            assert abs(found - fractions[f"{name}_fraction"] * count) <= (0.5 if name == "valid" else 1) + 1e-6
    again = stratified_splits(rows, **fractions)
    assert all(list(again[name]["image"]) == list(splits[name]["image"]) for name in splits)


@pytest.mark.parametrize("fractions", [(-0.1, 0.2), (0.5, 0.5)])
def test_wrong_fractions(fractions):
    rows = image_dataset(arrays(4), [0, 0, 1, 1], NAMES[:2])
    with pytest.raises(ValueError, match=rf"valid_fraction={fractions[0]} and test_fraction={fractions[1]} must be at"):
        stratified_splits(rows, valid_fraction=fractions[0], test_fraction=fractions[1])


def collator(channels_last: bool = True, **kwargs: object) -> ImageCollator:
    steps = {"do_center_crop": False, "do_resize": False, "do_normalize": False}
    processor = PerceiverImageClassifierInputProcessor(single_channel=True, channels_last=channels_last, **steps)
    return ImageCollator(processor, 3, **kwargs)


def test_a_batch():
    images = examples(5)
    batch = collator()([images[i] for i in range(4)] + [images[(0, 4, True)]])
    assert batch["label"].tolist() == [0, 1, 2, 0, -100] and batch["label"].dtype == torch.int64
    torch.testing.assert_close(batch["image"], torch.from_numpy(arrays(5))[..., None] / 255)
    first = collator(channels_last=False)([images[i] for i in range(5)])["image"]
    assert torch.equal(first, batch["image"].movedim(-1, 1)) and first.is_contiguous()


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_mixed_batch(channels_last):
    images = examples(6)
    plain = collator()([images[i] for i in range(6)])
    mixed = collator(channels_last, mixing=Mixing(), seed=3)([images[i] for i in range(6)])
    label = mixed["label"]
    assert label.shape == (6, 3) and label.dtype == torch.float32
    torch.testing.assert_close(label.sum(dim=1), torch.ones(6))
    image = mixed["image"] if channels_last else mixed["image"].movedim(1, -1)
    assert image.dtype == torch.float32 and image.shape == plain["image"].shape
    assert not torch.equal(image, plain["image"])
    assert image.sum().item() == pytest.approx(plain["image"].sum().item(), rel=0.2)
    again = collator(channels_last, mixing=Mixing(), seed=3)([images[i] for i in range(6)])
    assert all(torch.equal(mixed[name], again[name]) for name in mixed)
    for other in (
        collator(channels_last, mixing=Mixing(), seed=4)([images[i] for i in range(6)]),
        collator(channels_last, mixing=Mixing(), seed=3)([images[(1, i)] for i in range(6)]),
    ):
        assert not torch.equal(mixed["image"], other["image"])


def test_an_example_that_does_not_count_has_no_class_in_a_mixed_batch():
    images = examples(2)
    label = collator(mixing=Mixing())([images[0], images[(0, 1, True)]])["label"]
    assert (label[:, 1:] == 0).all() and ((label[:, 0] > 0) & (label[:, 0] <= 1)).all()


def test_data_sets_of_files_are_not_read_before_they_are_used(tmp_path: Path):
    rows = image_dataset([str(tmp_path / "missing.png")], [0], NAMES)
    assert len(ImageExamples(rows, NAMES, split="train", size=(6, 9), fixed_size=True, single_channel=True)) == 1


def png(height: int, width: int) -> bytes:
    """A grayscale image of zeros, one byte for about a thousand pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes((width + 1) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pixels_have_a_limit(tmp_path, monkeypatch):
    """A small file may have very many; nothing of them is read."""
    file = {"path": None, "bytes": png(300, 500)}
    assert read_image(file, single_channel=True, max_pixels=150_000).size == (500, 300)
    with pytest.raises(ValueError, match="image has 300 x 500 pixels, more than 149,999"):
        read_image(file, single_channel=True, max_pixels=149_999)
    large = {"path": None, "bytes": png(10_000, 9_000)}
    tracemalloc.start()
    with pytest.raises(ValueError, match="image has 10000 x 9000 pixels, more than 89,478,485"):
        read_image(large, single_channel=True)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)  # in place of a really large image
    with pytest.raises(ValueError, match="image has more than 1,000 pixels: Image size"):
        read_image(file, single_channel=True, max_pixels=1000)
    assert read_image(file, single_channel=True, max_pixels=150_000).size == (500, 300)


def test_a_data_module_raises_the_limit(tmp_path):
    for name in "ab":
        pictures(tmp_path / name, ["0.png", "1.png", "2.png"], (12, 16))
    options = {"image_shape": (8, 8, 3), "num_workers": 0, "valid_fraction": 0.4}
    with pytest.raises(ValueError, match=r"cannot read image .*png: image has 12 x 16 pixels, more than 191"):
        next(iter(prepared(ImageFolderDataModule(str(tmp_path), max_pixels=191, **options)).val_dataloader()))
    data = prepared(ImageFolderDataModule(str(tmp_path), max_pixels=192, **options))
    assert next(iter(data.val_dataloader()))["image"].shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="max_pixels=0 must be at least 1"):
        ImageFolderDataModule(str(tmp_path), max_pixels=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it could read
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_images_are_one_error(format):
    """An image, or a ValueError that says why."""
    content = saved(Image.fromarray(arrays(1, 20, 30, 3)[0]), format)["bytes"]
    random = np.random.default_rng(0)
    errors = 0
    for _ in range(150):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = random.integers(min(len(damaged), 200), size=random.integers(1, 4))
        damaged[places] = random.integers(256, size=len(places))
        file = {"path": None, "bytes": damaged[: random.integers(1, len(damaged) + 1)].tobytes()}
        try:
            read_image(file, single_channel=False, max_pixels=1 << 20)
        except ValueError as error:
            assert str(error)
            errors += 1
    assert errors > 20
