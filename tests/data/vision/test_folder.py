"""Folders of classes, with and without folders of splits."""

import numpy as np
import pytest
import torch
from PIL import Image

from perceiver.data.vision import Augmentation, ImageFolderDataModule
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from tests.data.vision.image_data import pictures, prepared


def folder(path, **kwargs):
    return prepared(ImageFolderDataModule(str(path), **{"image_shape": (8, 10, 3), "num_workers": 0, **kwargs}))


def found(data, split):
    """Names of files and of their classes."""
    files = [row["image"]["path"].split("/") for row in data.examples[split].files]
    labels = [data.label_names[label] for label in data.examples[split].labels]
    return sorted(("/".join(file[-2:]), label) for file, label in zip(files, labels, strict=True))


def test_classes_are_split_at_random(tmp_path):
    for name in ("train", "bus"):  # a class may be called so
        pictures(tmp_path / name, [f"{i}.PNG" for i in range(10)])
    (tmp_path / "bus" / "notes.txt").write_text("no image")
    pictures(tmp_path / ".cache", ["0.png"])
    data = folder(tmp_path, valid_fraction=0.2, test_fraction=0.1)
    assert data.label_names == ["bus", "train"]
    assert [len(data.examples[split]) for split in ("train", "valid", "test")] == [14, 4, 2]
    files = sum([found(data, split) for split in data.examples], [])
    assert sorted(files) == sorted((f"{name}/{i}.PNG", name) for name in ("bus", "train") for i in range(10))
    assert {label for _, label in found(data, "test")} == {"bus", "train"}
    assert found(folder(tmp_path, valid_fraction=0.2, test_fraction=0.1, seed=3), "valid") == found(data, "valid")


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_folders_of_splits(tmp_path, valid):
    for split in ("train", valid, "test"):
        for name in ("b", "a") if split != "test" else ("b",):
            pictures(tmp_path / split / name, [f"{split}-0.png", f"{split}-1.jpg"])
    pictures(tmp_path / "train" / "a" / "more" / ".hidden", ["0.png"])
    (tmp_path / "train" / "a" / "more" / ".hidden" / "0.png").rename(tmp_path / "train" / "a" / "more" / "2.png")
    pictures(tmp_path / "train" / "a" / ".checkpoints", ["0.png"])
    data = folder(tmp_path)
    assert data.label_names == ["a", "b"]
    files = [("a/train-0.png", "a"), ("a/train-1.jpg", "a"), ("b/train-0.png", "b"), ("b/train-1.jpg", "b")]
    assert found(data, "train") == sorted([*files, ("more/2.png", "a")])
    assert len(found(data, "valid")) == 4
    assert found(data, "test") == [("b/test-0.png", "b"), ("b/test-1.jpg", "b")]


def test_validation_images_are_split_off_where_there_is_no_folder_for_them(tmp_path):
    for split, size in (("train", 10), ("test", 3)):
        for name in ("a", "b"):
            pictures(tmp_path / split / name, [f"{i}.png" for i in range(size)])
    data = folder(tmp_path, valid_fraction=0.3, test_fraction=0.5)
    assert {split: len(examples) for split, examples in data.examples.items()} == {"train": 14, "test": 6, "valid": 6}


@pytest.mark.parametrize("center_crop", [False, True])
def test_images_of_any_size_are_processed_as_for_inference(tmp_path, center_crop):
    """With the center crop, as in transformers (see the tests of the image processor)."""
    sizes = [(20, 31), (9, 8), (70, 33), (8, 10)]
    for i, size in enumerate(sizes):
        pictures(tmp_path / "valid" / "a", [f"{i}.png"], size)
        pictures(tmp_path / "train" / "a", [f"{i}.png"], size)
    data = folder(tmp_path, center_crop=center_crop, image_mean=[0.1, 0.2, 0.3])
    (batch,) = data.val_dataloader()
    processor = PerceiverImageClassifierInputProcessor(
        do_center_crop=center_crop,
        size={"height": 8, "width": 10},
        crop_size={"height": 9, "width": 11},
        image_mean=[0.1, 0.2, 0.3],
        image_std=0.5,
    )
    images = [Image.open(tmp_path / "valid" / "a" / f"{i}.png") for i in range(4)]
    assert torch.equal(batch["image"], processor(images, return_tensors="pt")["pixel_values"])
    assert torch.equal(batch["image"], data.image_processor(images, return_tensors="pt")["pixel_values"])


def test_training_images_of_any_size(tmp_path):
    for i, size in enumerate([(20, 31), (9, 8), (70, 33)]):
        pictures(tmp_path / "train" / "a", [f"{i}.png"], size)
        pictures(tmp_path / "valid" / "a", [f"{i}.png"], size)
    for augmentation in (Augmentation(flip=True, num_ops=1), Augmentation(min_crop_area=0.2, num_ops=1)):
        data = folder(tmp_path, image_shape=(7, 5, 1), augmentation=augmentation)
        assert data.image_shape == (7, 5, 1)
        assert next(iter(data.train_dataloader()))["image"].shape == (3, 7, 5, 1)
    cropped = folder(tmp_path, augmentation=Augmentation(min_crop_area=0.2))
    batch = cropped.train_dataloader().collate_fn([cropped.examples["train"][i] for i in range(3)])
    crops = [np.asarray(cropped.examples["train"][i]["image"]) for i in range(3)]
    torch.testing.assert_close(batch["image"], torch.from_numpy(np.stack(crops)) / 255 * 2 - 1)


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match=r"image_shape=\(8, 10, 4\) must be height, width and 1 or 3 channels"):
        ImageFolderDataModule("x", image_shape=(8, 10, 4))
    with pytest.raises(ValueError, match=r"image_shape=\(8, 10\) must be height, width and 1 or 3 channels"):
        ImageFolderDataModule("x", image_shape=(8, 10))
    with pytest.raises(ValueError, match=r"missing has no folders with images in them, one per class"):
        folder(tmp_path / "missing")
    pictures(tmp_path / "a" / "train" / "x", ["0.png"])
    (tmp_path / "a" / "train" / "y").mkdir()
    with pytest.raises(ValueError, match=r"a/train/y has no images: no files with one of the suffixes \.bmp, "):
        folder(tmp_path / "a")
    pictures(tmp_path / "b" / "train" / "x", ["0.png"])
    pictures(tmp_path / "b" / "valid" / "z", ["0.png"])
    with pytest.raises(ValueError, match=r"b/valid/z is no class to train, which are x"):
        folder(tmp_path / "b")
    pictures(tmp_path / "c" / "x", ["0.png", "1.png"])
    with pytest.raises(ValueError, match="split 'valid' is empty: it must have at least 1 image"):
        folder(tmp_path / "c")
