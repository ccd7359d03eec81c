"""scikit-learn's digits."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from perceiver.data.vision import DigitsDataModule
from tests.data.vision.image_data import prepared


def test_digits():
    data = prepared(DigitsDataModule(num_workers=0, batch_size=1438))
    assert (data.image_shape, data.num_classes) == ((8, 8, 1), 10)
    assert data.label_names == [str(i) for i in range(10)]
    train, valid = (next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader()))
    assert (len(train["label"]), len(valid["label"])) == (1438, 359)
    assert (train["image"].min(), train["image"].max()) == (-1, 1)
    found = [
        (np.rint((image.numpy() + 1) * 127.5).astype(np.uint8).tobytes(), int(label))
        for batch in (train, valid)
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]
    source = load_digits()
    images = np.rint(source.images * 255 / 16).astype(np.uint8)
    assert sorted(found) == sorted((image.tobytes(), int(n)) for image, n in zip(images, source.target, strict=True))


def test_the_split_is_stratified_and_always_the_same():
    modules = [prepared(DigitsDataModule(num_workers=0, test_fraction=0.1, seed=seed)) for seed in (0, 1)]
    labels = {split: examples.labels for split, examples in modules[0].examples.items()}
    assert {split: len(values) for split, values in labels.items()} == {"train": 1258, "valid": 359, "test": 180}
    assert all(np.array_equal(values, modules[1].examples[split].labels) for split, values in labels.items())
    assert set(np.bincount(labels["valid"])) <= set(range(34, 38))
    assert set(np.bincount(labels["test"])) <= set(range(16, 20))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="DigitsDataModule needs scikit-learn: pip install scikit-learn"):
        DigitsDataModule().prepare_data()
