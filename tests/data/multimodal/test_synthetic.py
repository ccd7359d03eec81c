"""The data module of synthetic clips: batches, and what they depend on."""

from __future__ import annotations

from itertools import islice
from typing import Any

import jsonargparse
import numpy as np
import pytest
import torch
from torch import Tensor

from perceiver.data.multimodal import SyntheticClipDataModule

pytestmark = [
    # Python >= 3.12
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # machines with one core
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]

Batches = list[dict[str, Tensor]]


def clip_data(**kwargs: Any) -> SyntheticClipDataModule:
    sizes = {"num_train_clips": 10, "num_valid_clips": 5, "num_test_clips": 4}
    shapes = {"num_frames": 2, "image_shape": (9, 11), "num_audio_samples": 13}
    return SyntheticClipDataModule(**{**shapes, **sizes, "batch_size": 4, "num_workers": 0, **kwargs})


def epoch_of(data: SyntheticClipDataModule, epoch: int) -> Batches:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def same(batches: Batches, others: Batches) -> bool:
    return len(batches) == len(others) and all(
        torch.equal(batch[name], other[name]) for batch, other in zip(batches, others, strict=True) for name in batch
    )


def test_batches() -> None:
    data = clip_data()
    *full, rest = epoch_of(data, 0)
    assert [len(batch["video"]) for batch in (*full, rest)] == [4, 4, 2]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in full[0].items()}
    assert shapes == {
        "video": ((4, 2, 9, 11, 3), torch.float32),
        "audio": ((4, 13), torch.float32),
        "label": ((4,), torch.int64),
    }
    assert data.video_shape == (2, 9, 11, 3) and data.num_audio_samples == 13
    assert data.num_classes == 6 and data.label_names[:2] == ["disc", "ring"]
    assert [len(batch["video"]) for batch in data.val_dataloader()] == [4, 1]
    assert [len(batch["video"]) for batch in data.test_dataloader()] == [4]
    assert [len(batch["video"]) for batch in clip_data(valid_batch_size=3).val_dataloader()] == [3, 2]
    batch, clip = next(iter(data.val_dataloader())), data.clips("valid")[1]
    assert np.array_equal(batch["video"][1], clip.video) and np.array_equal(batch["audio"][1], clip.audio)
    assert batch["label"][1] == clip.label


def test_clips_depend_on_split_seed_epoch_and_index_only() -> None:
    first = epoch_of(clip_data(), 0)
    assert same(first, epoch_of(clip_data(), 0))
    assert not same(first, epoch_of(clip_data(), 1))
    assert not same(first, epoch_of(clip_data(seed=1), 0))
    videos = torch.cat([batch["video"] for batch in (*first, *epoch_of(clip_data(), 1))]).flatten(1)
    assert (torch.cdist(videos, videos) + torch.eye(20) > 0.1).all()  # all different
    data = clip_data(num_train_clips=4)
    for epoch in (0, 7):
        list(epoch_of(data, epoch))
        assert same(list(data.val_dataloader()), list(clip_data().val_dataloader()))
    splits = [data.clips(split)[0].video for split in ("train", "valid", "test")]
    assert not np.array_equal(splits[0], splits[1]) and not np.array_equal(splits[1], splits[2])


def test_workers_change_nothing() -> None:
    alone, together = clip_data(), clip_data(num_workers=2)
    loader = together.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert same(epoch_of(alone, epoch), list(loader))


def test_a_loader_goes_on_where_another_stopped() -> None:
    whole, stopped, resumed = epoch_of(clip_data(), 3), clip_data().train_dataloader(), clip_data().train_dataloader()
    stopped.sampler.set_epoch(3)  # type: ignore[attr-defined]
    list(islice(stopped, 1))
    resumed.load_state_dict(stopped.state_dict())  # type: ignore[attr-defined]
    assert same(list(resumed), whole[1:])


def test_a_repeated_clip_counts_for_nothing() -> None:
    clips = clip_data().clips("train")
    clip, repeated = clips[2, 3], clips[2, 3, True]
    assert np.array_equal(repeated.video, clip.video)
    assert clip.label >= 0 and repeated.label == -100
    assert np.array_equal(clips[3].video, clips[0, 3].video)
    with pytest.raises(IndexError, match=r"example 10 is not in \[0, 10\)"):
        clips[10]


def test_arguments_are_flags() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SyntheticClipDataModule, "data")
    flags = ["--data.image_shape=[24, 32]", "--data.batch_size=3", "--data.seed=5"]
    data = parser.instantiate_classes(parser.parse_args(flags)).data
    assert (data.video_shape, data.batch_size, data.seed) == ((8, 24, 32, 3), 3, 5)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"image_shape": (0, 4)}, r"image_shape=\(0, 4\) must be a height and a width"),
        ({"image_shape": (4,)}, r"image_shape=\(4,\) must be a height and a width"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"num_audio_samples": 0}, "num_audio_samples=0 must be at least 1"),
        ({"num_valid_clips": 0}, "num_valid_clips=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_data(**kwargs)
