"""Loaders: order and random changes by seed and epoch, workers change nothing, a run resumes; several processes."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from perceiver.data.vision.base import ImageDataModule
from perceiver.data.vision.transforms import Augmentation, Mixing
from tests.data.vision.image_data import ArraysDataModule, arrays, prepared

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # Python >= 3.12
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]

RANDOM = {"augmentation": Augmentation(max_shift=2, flip=True, num_ops=1), "mixing": Mixing()}


def batches(loader: DataLoader[Any], epoch: int | None = None) -> list[list[Any]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [[batch["image"].tolist(), batch["label"].tolist()] for batch in loader]


def numbers(loader: DataLoader[Any]) -> list[int]:
    return [int(number) for batch in loader for number in batch["image"][:, 0, 0, 0]]


def test_attributes():
    data = ArraysDataModule()
    assert data.image_shape == (6, 9, 1)
    assert (data.label_names, data.num_classes) == (["even", "odd"], 2)
    assert ArraysDataModule(channels_last=False).image_shape == (1, 6, 9)
    assert (data.batch_size, data.valid_batch_size) == (4, 4)
    assert ArraysDataModule(valid_batch_size=2).valid_batch_size == 2


def test_batches_have_every_image_once():
    data = prepared(ArraysDataModule())
    train, valid = data.train_dataloader(), data.val_dataloader()
    assert sorted(numbers(train)) == list(range(13)) != numbers(train)
    assert [len(batch["label"]) for batch in train] == [4, 4, 4, 1]
    assert numbers(valid) == list(range(5))
    first = next(iter(valid))
    assert first["label"].tolist() == [0, 1, 0, 1]
    assert torch.equal(first["image"], torch.from_numpy(arrays(5))[:4, ..., None])
    with pytest.raises(ValueError, match=r"ArraysDataModule has no split 'test', only \['train', 'valid'\]"):
        data.test_dataloader()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_depend_on_seed_and_epoch_alone(num_workers):
    data = prepared(ArraysDataModule(**RANDOM, num_workers=num_workers))
    again = prepared(ArraysDataModule(**RANDOM))
    loader, other = data.train_dataloader(), again.train_dataloader()
    for epoch in (0, 2):
        assert batches(loader, epoch) == batches(other, epoch)
    assert batches(other, 0) != batches(other, 1)
    assert batches(other, 0) != batches(prepared(ArraysDataModule(**RANDOM, seed=1)).train_dataloader(), 0)
    assert numbers(data.val_dataloader()) == numbers(again.val_dataloader()) == list(range(5))


def test_a_loader_goes_on_where_another_stopped():
    data = prepared(ArraysDataModule(**RANDOM))
    whole = batches(data.train_dataloader(), 3)
    stopped = data.train_dataloader()
    stopped.sampler.set_epoch(3)
    list(islice(stopped, 2))
    state = stopped.state_dict()
    assert state == {"epoch": 3, "num_examples_done": 8, "num_replicas": 1}
    resumed = data.train_dataloader()
    resumed.load_state_dict(state)
    assert batches(resumed) == whole[2:]
    assert resumed.state_dict()["num_examples_done"] == 13


@pytest.mark.parametrize("split, size", [("train", 13), ("valid", 5)])
def test_processes_share_images(split, size):
    """Each has as many; what is there a second time has no label."""
    labelled, lengths = 0, set()
    for rank in range(3):
        data = prepared(ArraysDataModule())
        data.trainer = SimpleNamespace(world_size=3, global_rank=rank, overfit_batches=0)
        loader = data.train_dataloader() if split == "train" else data.val_dataloader()
        labels = [label for batch in loader for label in batch["label"].tolist()]
        lengths.add(len(labels))
        labelled += sum(label != -100 for label in labels)
    assert labelled == size and lengths == {-(-size // 3)}


class Recorder(pl.LightningModule):
    """A linear classifier whose weights depend on every batch and on their order."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(54, 2))
        self.seen: list[bytes] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append(batch["image"].numpy().tobytes())
        x = batch["image"].float().flatten(1) / 255
        return torch.nn.functional.cross_entropy(x @ self.weights, batch["label"])

    def validation_step(self, batch: Any, _: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Any, ckpt_path: Any = None, **kwargs: Any) -> Recorder:
    checkpoints = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=checkpoints,
        **kwargs,
    )
    model = Recorder()
    trainer.fit(model, datamodule=ArraysDataModule(**RANDOM), ckpt_path=ckpt_path)
    return model


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    whole = fit(tmp_path / "ckpt")
    assert len(set(whole.seen)) == 8
    for step in (1, 4, 6):
        resumed = fit(tmp_path / f"resumed-{step}", tmp_path / "ckpt" / f"step={step}.ckpt")
        assert resumed.seen == whole.seen[step:]
        torch.testing.assert_close(resumed.weights, whole.weights, atol=1e-6, rtol=0)


def test_overfitting_repeats_the_first_batches(tmp_path):
    seen = fit(tmp_path, overfit_batches=2).seen
    assert len(seen) == 4 and seen[:2] == seen[2:]


def test_images_are_not_read_again_for_each_attribute():
    loaded = []

    class Counting(ArraysDataModule):
        def load(self) -> Any:
            loaded.append(1)
            return super().load()

    data = prepared(Counting())
    assert data.num_classes == 2 and data.label_names == ["even", "odd"]
    data.setup()
    assert len(loaded) == 1


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"num_valid": 0}, "split 'valid' is empty: it must have at least 1"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        prepared(ArraysDataModule(**kwargs))


def test_images_without_pixels():
    with pytest.raises(ValueError, match=r"image_size=\(0, 5\) must be a height and a width"):
        ImageDataModule(ArraysDataModule().image_processor, (0, 5))
