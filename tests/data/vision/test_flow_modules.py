"""Data modules of optical flow: batches, splits, and what they depend on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from perceiver.data.streams import stream
from perceiver.data.vision.flow_folders import FlowFolder, kitti_files
from perceiver.data.vision.flow_modules import (
    FlyingChairsDataModule,
    KittiFlowDataModule,
    OpticalFlowDataModule,
    SintelFlowDataModule,
    SyntheticFlowDataModule,
)
from perceiver.data.vision.flow_synthetic import synthetic_example
from perceiver.processing.optical_flow import OpticalFlowProcessor
from tests.data.vision.flow_layouts import frame, truth, write_flying_chairs, write_kitti, write_sintel

pytestmark = [
    # Python >= 3.12
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # machines with one core
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]

Batches = list[dict[str, Tensor]]
WHOLE = {"image_shape": (6, 9), "random_mirror": False, "color_jitter": 0.0, "num_workers": 0}


def synthetic(**kwargs: Any) -> SyntheticFlowDataModule:
    sizes = {"num_train_examples": 10, "num_valid_examples": 5, "num_test_examples": 4}
    data = SyntheticFlowDataModule(**{"image_shape": (12, 16), "batch_size": 4, "num_workers": 0, **sizes, **kwargs})
    data.setup()
    return data


def epoch_of(data: OpticalFlowDataModule, epoch: int) -> Batches:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def same(batches: Batches, others: Batches) -> bool:
    return len(batches) == len(others) and all(
        torch.equal(batch[name], other[name]) for batch, other in zip(batches, others, strict=True) for name in batch
    )


def pixels(x: Tensor) -> np.ndarray:
    """Features (2, 27, H, W) -> frames (2, H, W, 3)."""
    return ((x[:, 12:15].movedim(1, -1) + 1) / 2 * 255).round().numpy()


def test_synthetic_batches() -> None:
    data = synthetic(max_displacement=3.0)
    *full, rest = epoch_of(data, 0)
    assert [len(batch["x"]) for batch in (*full, rest)] == [4, 4, 2]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in full[0].items()}
    assert shapes == {
        "x": ((4, 2, 27, 12, 16), torch.float32),
        "flow": ((4, 12, 16, 2), torch.float32),
        "valid": ((4, 12, 16), torch.bool),
    }
    assert full[0]["valid"].all() and full[0]["flow"].norm(dim=-1).max() <= 3 + 1e-5
    assert [len(batch["x"]) for batch in data.val_dataloader()] == [4, 1]
    assert [len(batch["x"]) for batch in data.test_dataloader()] == [4]
    assert [len(b["x"]) for b in synthetic(valid_batch_size=3).val_dataloader()] == [3, 2]


def test_features_are_those_of_the_processor() -> None:
    data = synthetic()
    example = data.examples["valid"][1]
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["x"][1], OpticalFlowProcessor((12, 16), 3).preprocess(example.frames)[0])
    assert np.array_equal(batch["flow"][1], example.flow)


def test_examples_depend_on_split_seed_epoch_and_index_only() -> None:
    first = epoch_of(synthetic(), 0)
    assert same(first, epoch_of(synthetic(), 0))
    assert not same(first, epoch_of(synthetic(), 1))
    assert not same(first, epoch_of(synthetic(seed=1), 0))
    flows = torch.cat([batch["flow"] for batch in (*first, *epoch_of(synthetic(), 1))]).flatten(1)
    assert (torch.cdist(flows, flows) + torch.eye(20) > 0.1).all()  # all different
    data = synthetic(num_train_examples=4)
    for epoch in (0, 7):
        list(epoch_of(data, epoch))
        assert same(list(data.val_dataloader()), list(synthetic().val_dataloader()))
    splits = [data.examples[split][0].flow for split in ("train", "valid", "test")]
    assert not np.array_equal(splits[0], splits[1]) and not np.array_equal(splits[1], splits[2])


def test_synthetic_examples_are_as_they_were_drawn() -> None:
    """No part of them, not mirrored, in their own colours; and there are no flags for it."""
    examples = synthetic(seed=3).examples
    for number, split in enumerate(("train", "valid", "test")):
        for index in range(4):
            drawn = synthetic_example((12, 16), 8.0, stream(number, 3, 2, index))
            example = examples[split][2, index]
            assert np.array_equal(example.frames, drawn.frames) and np.array_equal(example.flow, drawn.flow)
    with pytest.raises(TypeError, match="random_mirror"):
        SyntheticFlowDataModule(random_mirror=True)


def test_workers_change_nothing() -> None:
    alone, together = synthetic(), synthetic(num_workers=2)
    loader = together.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert same(epoch_of(alone, epoch), list(loader))


def test_a_loader_goes_on_where_another_stopped() -> None:
    whole, stopped, resumed = epoch_of(synthetic(), 3), synthetic().train_dataloader(), synthetic().train_dataloader()
    stopped.sampler.set_epoch(3)  # type: ignore[attr-defined]
    list(islice(stopped, 1))
    assert stopped.state_dict()["num_examples_done"] == 4  # type: ignore[attr-defined]
    resumed.load_state_dict(stopped.state_dict())  # type: ignore[attr-defined]
    assert same(list(resumed), whole[1:])


def test_a_repeated_example_is_valid_nowhere() -> None:
    examples = synthetic().examples["train"]
    example, repeated = examples[2, 3], examples[2, 3, True]
    assert np.array_equal(repeated.flow, example.flow)
    assert example.valid.all() and not repeated.valid.any()
    assert np.array_equal(examples[3].flow, examples[0, 3].flow)
    with pytest.raises(IndexError, match=r"example 10 is not in \[0, 10\)"):
        examples[10]


def test_flying_chairs(tmp_path: Path) -> None:
    write_flying_chairs(tmp_path, "12211")
    data = FlyingChairsDataModule(str(tmp_path), batch_size=5, **WHOLE)
    data.setup()
    (train,), (valid,) = epoch_of(data, 0), list(data.val_dataloader())
    assert len(train["x"]) == 3
    assert np.array_equal(valid["flow"], np.stack([truth(2), truth(3)]))
    assert np.array_equal(pixels(valid["x"][1]), np.stack([frame(3, 1), frame(3, 2)]))
    with pytest.raises(ValueError, match=r"FlyingChairsDataModule has no split 'test', only \['train', 'valid'\]"):
        data.test_dataloader()
    (tmp_path / "all.txt").write_text("2\n" * 4 + "1\n")
    data = FlyingChairsDataModule(str(tmp_path), split_file=str(tmp_path / "all.txt"), **WHOLE)
    data.setup()
    assert [len(data.examples[split]) for split in ("train", "valid")] == [1, 4]


def test_sintel(tmp_path: Path) -> None:
    write_sintel(tmp_path, {"alley_1": 3, "bamboo_2": 2, "cave_4": 4})
    for rendering, first in (("clean", frame(1, 0)), ("final", frame(1))):
        data = SintelFlowDataModule(str(tmp_path), rendering, valid_scenes=["bamboo_2"], **WHOLE)  # type: ignore[arg-type]
        data.setup()
        assert [len(data.examples[split]) for split in ("train", "valid")] == [5, 1]
        (batch,) = data.val_dataloader()
        assert np.array_equal(pixels(batch["x"][0])[0], first)
    for scenes in (["alley_2"], [], ["alley_1", "bamboo_2", "cave_4"]):
        with pytest.raises(ValueError, match=r"must be some of \['alley_1', 'bamboo_2', 'cave_4'\], and not all"):
            SintelFlowDataModule(str(tmp_path), valid_scenes=scenes, **WHOLE).setup()


def test_kitti(tmp_path: Path) -> None:
    write_kitti(tmp_path, 7)
    data = KittiFlowDataModule(str(tmp_path), batch_size=10, **WHOLE)
    data.setup()
    (train,), (valid,) = epoch_of(data, 0), list(data.val_dataloader())
    assert len(train["x"]) == 5
    assert np.array_equal(valid["flow"][:, 3, :4], np.stack([truth(0), truth(5)])[:, 3, :4])
    assert valid["valid"].sum(dim=(1, 2)).tolist() == [4, 4]
    data = KittiFlowDataModule(str(tmp_path), flow="flow_noc", valid_every=2, **WHOLE)
    data.setup()
    assert [len(data.examples[split]) for split in ("train", "valid")] == [3, 4]
    assert data.examples["valid"][0].valid.sum() == 2


def test_training_parts_are_random_and_validation_parts_in_the_middle(tmp_path: Path) -> None:
    write_kitti(tmp_path, 2)
    whole = FlowFolder(kitti_files(tmp_path))
    arguments = {**WHOLE, "image_shape": (3, 4)}
    data = KittiFlowDataModule(str(tmp_path), valid_every=2, **arguments)
    data.setup()
    assert np.array_equal(data.examples["valid"][3, 0].frames, whole[0].frames[:, 1:4, 2:6])
    parts = [data.examples["train"][epoch, 0] for epoch in range(200)]
    windows = np.lib.stride_tricks.sliding_window_view(whole[1].frames[0], (3, 4), (0, 1))  # 4 6 3 3 4
    found = set()
    for part in parts:
        ((y, x),) = np.argwhere((windows == np.moveaxis(part.frames[0], -1, 0)).all(axis=(2, 3, 4)))
        assert np.array_equal(part.frames, whole[1].frames[:, y : y + 3, x : x + 4])
        assert np.array_equal(part.flow, whole[1].flow[y : y + 3, x : x + 4])
        found.add((int(y), int(x)))
    assert len(found) == 24  # all there are

    large = KittiFlowDataModule(str(tmp_path), **{**WHOLE, "image_shape": (6, 10)})
    large.setup()
    with pytest.raises(ValueError, match=r"frames of 6x9 pixels are smaller than image_shape=\(6, 10\)"):
        large.examples["train"][0]


def test_mirror_and_jitter_in_training_only(tmp_path: Path) -> None:
    write_kitti(tmp_path, 2)
    whole = FlowFolder(kitti_files(tmp_path))[1].frames
    data = KittiFlowDataModule(str(tmp_path), valid_every=2, **{**WHOLE, "random_mirror": True})
    data.setup()
    mirrored = {"": whole, "lr": whole[:, :, ::-1], "ud": whole[:, ::-1], "both": whole[:, ::-1, ::-1]}
    counts = dict.fromkeys(mirrored, 0)
    for epoch in range(200):
        frames = data.examples["train"][epoch, 0].frames
        (kind,) = (name for name, expected in mirrored.items() if np.array_equal(frames, expected))
        counts[kind] += 1
    assert 80 < counts["lr"] + counts["both"] < 120 and 8 < counts["ud"] + counts["both"] < 35

    data = KittiFlowDataModule(str(tmp_path), valid_every=2, **{**WHOLE, "color_jitter": 0.2})
    data.setup()
    train, valid = data.examples["train"], data.examples["valid"]
    means = [train[epoch, 0].frames.mean() for epoch in range(20)]
    assert np.std(means) > 10 and abs(np.mean(means) - whole.mean()) < 20
    assert np.array_equal(valid[0, 0].frames, valid[1, 0].frames)


class Recorder(pl.LightningModule):
    """The mean flow, learned."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(2))
        self.seen: list[bytes] = []

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.seen.append(batch["flow"].numpy().tobytes())
        return (batch["flow"] - self.mean)[batch["valid"]].square().mean()

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        assert batch["valid"].all()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains(tmp_path: Path) -> None:
    def fit(**kwargs: Any) -> list[bytes]:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=2, enable_checkpointing=False, **quiet, **kwargs)
        model, data = Recorder(), synthetic()
        trainer.fit(model, datamodule=data)
        return model.seen

    seen = fit()
    assert len(set(seen)) == 6  # new examples in each epoch
    fixed = fit(overfit_batches=2)
    assert fixed[:2] == fixed[2:] and len(set(fixed)) == 2


@pytest.mark.parametrize(
    "module", [SyntheticFlowDataModule, FlyingChairsDataModule, SintelFlowDataModule, KittiFlowDataModule]
)
def test_arguments_are_flags(module: type[OpticalFlowDataModule]) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, "data")
    flags = ["--data.image_shape=[24, 32]", "--data.batch_size=3", "--data.seed=5"]
    flags += [] if module is SyntheticFlowDataModule else ["--data.source=x", "--data.color_jitter=0.1"]
    data = parser.instantiate_classes(parser.parse_args(flags)).data
    assert (data.image_shape, data.batch_size, data.seed) == ((24, 32), 3, 5)


def test_wrong_arguments(tmp_path: Path) -> None:
    wrong: list[tuple[str, Any]] = [
        (r"image_shape=\(0, 4\)", lambda: synthetic(image_shape=(0, 4))),
        ("seed=-1", lambda: synthetic(seed=-1)),
        ("max_displacement=0", lambda: synthetic(max_displacement=0)),
        ("max_displacement=inf", lambda: synthetic(max_displacement=float("inf"))),
        ("num_valid_examples=0", lambda: synthetic(num_valid_examples=0)),
        ("color_jitter=1", lambda: KittiFlowDataModule(str(tmp_path), color_jitter=1)),
        ("valid_every=1", lambda: KittiFlowDataModule(str(tmp_path), valid_every=1)),
        (r"has no split 'train', only \[\]", lambda: SyntheticFlowDataModule().train_dataloader()),
    ]
    for message, make in wrong:
        with pytest.raises(ValueError, match=message):
            make()
