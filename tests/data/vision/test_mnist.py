"""A local folder in the layout of the hub in place of MNIST."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from perceiver.data.vision import Augmentation, ImageDataModule, MNISTDataModule
from perceiver.data.vision.images import image_dataset
from tests.data.vision.image_data import arrays, hub_folder, prepared
from tests.model.helpers import GOLDEN


@pytest.fixture
def mnist(tmp_path):
    folder = hub_folder(tmp_path / "hub", {"train": 25, "test": 12})

    def make(**kwargs: object) -> ImageDataModule:
        return prepared(MNISTDataModule(str(tmp_path / "cache"), source=folder, num_workers=0, **kwargs))

    return make


def test_batches(mnist):
    data = mnist(batch_size=5)
    assert (data.image_shape, data.num_classes) == ((28, 28, 1), 10)
    assert data.label_names == [str(i) for i in range(10)]
    assert {split: len(examples) for split, examples in data.examples.items()} == {"train": 25, "valid": 12, "test": 12}
    for loader in (data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert batch["label"].tolist() == [0, 1, 2, 3, 4]
        expected = torch.from_numpy(arrays(12, 28, 28))[:5, ..., None] / 255 * 2 - 1
        torch.testing.assert_close(batch["image"], expected)
    assert next(iter(data.train_dataloader()))["image"].shape == (5, 28, 28, 1)


def test_options(mnist):
    raw = next(iter(mnist(normalize=False).val_dataloader()))["image"]
    torch.testing.assert_close(raw, torch.from_numpy(arrays(12, 28, 28))[..., None] / 255)
    data = mnist(channels_last=False)
    assert data.image_shape == (1, 28, 28)
    assert torch.equal(next(iter(data.val_dataloader()))["image"], raw.movedim(-1, 1) * 2 - 1)


def test_random_crop(mnist):
    data = mnist(random_crop=3, batch_size=25, normalize=False)
    assert data.augmentation == Augmentation(max_shift=3)
    padded = np.pad(arrays(25, 28, 28), ((0, 0), (3, 3), (3, 3)))
    offsets = []
    for index in range(25):
        image = np.asarray(data.examples["train"][index]["image"])
        offsets += [
            (y, x) for y in range(7) for x in range(7) if (padded[index, y : y + 28, x : x + 28] == image).all()
        ]
    assert len(offsets) == 25 and len(set(offsets)) > 12
    assert np.array_equal(np.asarray(data.examples["valid"][3]["image"]), arrays(12, 28, 28)[3])
    for wrong in (0, 14):
        with pytest.raises(ValueError, match=rf"random_crop={wrong}, the pixels .* must be in \[1, 14\)"):
            MNISTDataModule(random_crop=wrong)


def test_the_image_processor_is_the_published_one():
    published = json.loads((GOLDEN / "img_clf_mnist" / "hub" / "preprocessor_config.json").read_text())
    assert json.loads(MNISTDataModule().image_processor.to_json_string()) == published


def test_wrong_data(tmp_path):
    def read(folder: str, **kwargs: object) -> object:
        return prepared(MNISTDataModule(str(tmp_path / "cache"), source=folder, num_workers=0, **kwargs)).examples

    with pytest.raises(ValueError, match=r"cannot load .*missing"):
        read(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"has no split \['test'\], only \['train'\]"):
        read(hub_folder(tmp_path / "a", {"train": 3}))
    names = [str(i) for i in range(10)]
    for folder in ("b", "c"):
        rows = image_dataset(arrays(2, 30, 28), [0, 1], names)
        rows = rows.rename_column("image", "picture") if folder == "c" else rows
        (tmp_path / folder).mkdir()
        for split in ("train", "test"):
            rows.to_parquet(tmp_path / folder / f"{split}.parquet")
    with pytest.raises(ValueError, match="image 1 of split 'test' has 30 x 28 pixels, expected 28 x 28"):
        read(str(tmp_path / "b"))["test"][1]
    with pytest.raises(ValueError, match=r"split 'train' has no column 'image', only \['picture', 'label'\]"):
        read(str(tmp_path / "c"))
    bad = datasets.Dataset.from_dict({"image": [Image.new("L", (28, 28))] * 2, "label": [0, 10]})
    hub_folder(tmp_path / "d", {"train": 3})
    bad.to_parquet(tmp_path / "d" / "mnist" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"10"):
        read(str(tmp_path / "d"))
