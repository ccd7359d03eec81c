"""A local folder in the layout of the hub in place of ImageNet."""

import pytest
import torch
from PIL import Image
from transformers import PerceiverImageProcessorPil

from perceiver.data.vision import ImageNetDataModule
from perceiver.data.vision.transforms import IMAGENET_AUGMENTATION, IMAGENET_MIXING
from tests.data.vision.image_data import pictures, prepared

NAMES = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture
def imagenet(tmp_path):
    for split in ("train", "validation"):
        for i, name in enumerate(NAMES):
            pictures(tmp_path / "hub" / split / name, [f"{split}{j}.jpeg" for j in range(2)], (40 + 9 * i, 60))
    options = {"source": str(tmp_path / "hub"), "num_workers": 0}

    def make(**kwargs):
        return prepared(ImageNetDataModule(str(tmp_path / "cache"), **options, **kwargs))

    return make


def test_validation_images_are_processed_as_in_transformers(imagenet, tmp_path):
    data = imagenet()
    assert (data.image_shape, data.label_names, data.num_classes) == ((224, 224, 3), NAMES, 3)
    official = PerceiverImageProcessorPil()
    files = [tmp_path / "hub" / "validation" / name / f"validation{j}.jpeg" for name in NAMES for j in range(2)]
    expected = official([Image.open(file) for file in files], return_tensors="pt")["pixel_values"].movedim(1, -1)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        (batch,) = loader
        assert batch["label"].tolist() == [0, 0, 1, 1, 2, 2]
        assert torch.equal(batch["image"], expected)


def test_training_batches_are_changed_and_mixed(imagenet):
    data = imagenet(image_size=32, batch_size=6)
    assert (data.augmentation, data.mixing) == (IMAGENET_AUGMENTATION, IMAGENET_MIXING)
    loader = data.train_dataloader()
    (batch,) = loader
    assert batch["image"].shape == (6, 32, 32, 3) and batch["label"].shape == (6, 3)
    torch.testing.assert_close(batch["label"].sum(dim=1), torch.ones(6))
    loader.sampler.set_epoch(1)
    assert not torch.equal(next(iter(loader))["image"], batch["image"])


def test_without_changes_training_images_are_processed_as_those_for_validation(imagenet):
    data = imagenet(image_size=32, augmentation=None, mixing=None)
    (batch,) = data.train_dataloader()
    assert sorted(batch["label"].tolist()) == [0, 0, 1, 1, 2, 2]
    (valid,) = data.val_dataloader()
    order = batch["image"].flatten(1).sum(dim=1).argsort()
    again = valid["image"].flatten(1).sum(dim=1).argsort()
    torch.testing.assert_close(batch["image"][order], valid["image"][again])
