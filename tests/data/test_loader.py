"""The order of training examples, and runs that stop and go on."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings, strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from transformers import PerceiverTokenizer

from perceiver.data.loader import EpochSampler, ResumableLoader
from perceiver.data.text.collator import WordMaskingCollator
from perceiver.data.text.common import Task
from perceiver.data.text.corpus import TokenChunks
from perceiver.data.text.pydoc import PydocTextDataModule
from perceiver.processing.tokenization import encode

pytestmark = [
    # a resumed run saves elsewhere, so that it leaves the checkpoints of the first run alone
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    # Python >= 3.12
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # machines with one core
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]


@pytest.fixture
def chunks(tmp_path: Path) -> TokenChunks:
    encoded = encode(PerceiverTokenizer(), ["some words to learn from " * 20])
    np.save(tmp_path / "train.tokens.npy", encoded.tokens)
    np.save(tmp_path / "train.marks.npy", encoded.marks)
    return TokenChunks(tmp_path, "train", 13)  # 39 chunks, the last one is short


def loader(
    chunks: TokenChunks, num_replicas: int = 1, rank: int = 0, seed: int = 0, batch_size: int = 5, **kwargs: Any
) -> ResumableLoader:
    sampler = EpochSampler(chunks, num_replicas=num_replicas, rank=rank, seed=seed)
    collate = WordMaskingCollator(PerceiverTokenizer(), seed=seed)
    return ResumableLoader(chunks, batch_size=batch_size, sampler=sampler, collate_fn=collate, **kwargs)


def epoch_of(loader: ResumableLoader, epoch: int) -> list[list[Any]]:
    loader.sampler.set_epoch(epoch)
    return [[tensor.tolist() for tensor in batch] for batch in loader]


def test_an_epoch_has_every_chunk_once_in_an_order_of_its_own(chunks):
    sampler = EpochSampler(chunks, num_replicas=1, rank=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == [(0, i, False) for i in range(39)]
    assert sorted(second) == [(1, i, False) for i in range(39)]
    assert [i for _, i, _ in first] != [i for _, i, _ in second]


def test_ranks_share_an_epoch(chunks):
    keys = [list(EpochSampler(chunks, num_replicas=3, rank=rank)) for rank in range(3)]
    assert [len(part) for part in keys] == [13, 13, 13]
    assert sorted(key for part in keys for key in part) == [(0, i, False) for i in range(39)]


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 3), st.booleans())
@settings(max_examples=50)
def test_ranks_have_every_example_once_and_as_many(size, num_replicas, epoch, shuffle):
    """What is left over is repeated, marked as such."""
    keys = []
    for rank in range(num_replicas):
        sampler = EpochSampler(list(range(size)), num_replicas=num_replicas, rank=rank, shuffle=shuffle)
        sampler.set_epoch(epoch)
        keys.append(list(sampler))
    assert {len(part) for part in keys} == {-(-size // num_replicas)}
    counting = [(e, i) for part in keys for e, i, repeated in part if not repeated]
    assert sorted(counting) == [(epoch if shuffle else 0, i) for i in range(size)]
    assert all(sum(repeated for _, _, repeated in part) <= 1 for part in keys)


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_have_every_label_once(chunks, shuffle):
    """39 chunks on 4 ranks: a fortieth example without labels. A mask of every token counts tokens."""
    labelled, num_batches = 0, set()
    for rank in range(4):
        sampler = EpochSampler(chunks, num_replicas=4, rank=rank, shuffle=shuffle)
        collate = WordMaskingCollator(PerceiverTokenizer(), 1 - 1e-9)
        batches = list(ResumableLoader(chunks, batch_size=3, sampler=sampler, collate_fn=collate))
        labelled += sum(int((labels != -100).sum()) for labels, _, _ in batches)
        num_batches.add(len(batches))
    assert labelled == len(chunks.tokens)
    assert num_batches == {4}


def test_ranks_share_random_windows(chunks):
    """Each example has the window that it has with one process, on one of the ranks."""
    causal = TokenChunks(chunks.directory, "train", 12, next_token=True, shift=True, min_seq_len=3)  # 38 chunks

    def rows(num_replicas: int, rank: int) -> list[list[int]]:
        sampler = EpochSampler(causal, num_replicas=num_replicas, rank=rank)
        batches = ResumableLoader(causal, batch_size=5, sampler=sampler, collate_fn=list)
        batches.sampler.set_epoch(4)
        return [[item["index"], *item["input_ids"].tolist()] for batch in batches for item in batch]

    parts = [rows(2, 0), rows(2, 1)]
    assert [len(part) for part in parts] == [19, 19]
    assert sorted(parts[0] + parts[1]) == sorted(rows(1, 0))
    assert {row[0] for row in parts[0] + parts[1]} == set(range(38))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_plain_loop_goes_on_to_the_next_epoch(chunks, num_workers):
    epochs = [epoch_of(loader(chunks), epoch) for epoch in range(3)]
    plain = loader(chunks, num_workers=num_workers, persistent_workers=num_workers > 0)
    assert [[[tensor.tolist() for tensor in batch] for batch in plain] for _ in range(2)] == epochs[:2]
    list(islice(plain, 3))  # the beginning of epoch 2
    state = plain.state_dict()
    assert state == {"epoch": 2, "num_examples_done": 15, "num_replicas": 1}
    assert epoch_of(plain, 0) == epochs[0]  # an epoch that is said is that epoch
    assert epoch_of(plain, 0) == epochs[0]

    resumed = loader(chunks, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert [[tensor.tolist() for tensor in batch] for batch in resumed] == epochs[2][3:]
    assert [[tensor.tolist() for tensor in batch] for batch in resumed] == epoch_of(loader(chunks), 3)


@pytest.mark.parametrize("workers", [{"num_workers": 1}, {"num_workers": 2, "persistent_workers": True}])
def test_workers_change_nothing(chunks, workers):
    alone, together = loader(chunks), loader(chunks, **workers)
    for epoch in (0, 1):
        assert epoch_of(alone, epoch) == epoch_of(together, epoch)
    assert epoch_of(alone, 0) != epoch_of(alone, 1)
    assert epoch_of(alone, 0) != epoch_of(loader(chunks, seed=1), 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_another_stopped(chunks, num_workers):
    whole = epoch_of(loader(chunks), 3)
    stopped = loader(chunks, num_workers=num_workers)
    stopped.sampler.set_epoch(3)
    list(islice(stopped, 2))
    state = stopped.state_dict()
    assert state == {"epoch": 3, "num_examples_done": 10, "num_replicas": 1}

    resumed = loader(chunks, num_workers=num_workers)
    resumed.load_state_dict(state)
    iterator = iter(resumed)  # as Lightning does: before set_epoch
    resumed.sampler.set_epoch(3)
    assert [[tensor.tolist() for tensor in batch] for batch in iterator] == whole[2:]
    assert resumed.state_dict() == {"epoch": 3, "num_examples_done": 39, "num_replicas": 1}
    assert epoch_of(resumed, 3) == whole  # and then starts at the beginning
    assert len(resumed) == 8


@pytest.mark.parametrize("batch_size", [4, 7])
def test_another_batch_size_goes_on_at_the_next_example(chunks, batch_size):
    stopped = loader(chunks, num_replicas=2, rank=1)
    stopped.sampler.set_epoch(3)
    order = [(epoch, index) for epoch, index, _ in stopped.sampler]
    list(islice(stopped, 2))
    state = stopped.state_dict()
    assert state == {"epoch": 3, "num_examples_done": 10, "num_replicas": 2}

    resumed = loader(chunks, num_replicas=2, rank=1, batch_size=batch_size)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.collate_fn = lambda examples: ([(item["epoch"], item["index"]) for item in examples],)
    assert [key for (keys,) in resumed for key in keys] == order[10:]
    assert resumed.state_dict()["num_examples_done"] == 20


def test_another_number_of_processes(chunks):
    with pytest.raises(ValueError, match="begun by 2 processes and cannot go on with 3"):
        loader(chunks, num_replicas=3).load_state_dict({"epoch": 3, "num_examples_done": 15, "num_replicas": 2})
    for done, left in ((0, 13), (20, 0)):  # nothing, everything
        resumed = loader(chunks, num_replicas=3)
        resumed.load_state_dict({"epoch": 3, "num_examples_done": done, "num_replicas": 2})
        assert sum(len(batch[0]) for batch in epoch_of(resumed, 3)) == left
        assert sum(len(batch[0]) for batch in epoch_of(resumed, 4)) == 13


class Recorder(pl.LightningModule):
    """A bag of bytes whose weights depend on every batch and on their order."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(262))
        self.seen: list[float] = []
        self.val_seen: list[float] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        labels, input_ids, _ = batch
        self.seen.append(_digest(batch))
        # Not `self.weights[input_ids]`: on CPU the gradient of indexing is summed in any order.
        counts = torch.stack([row.bincount(minlength=262) for row in input_ids]).float()
        return (counts @ self.weights / 100 - (labels != -100).float().mean(dim=1)).square().mean()

    def validation_step(self, batch: Any, _: int) -> None:
        self.val_seen.append(_digest(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def _digest(batch: Any) -> float:
    tensors = map(torch.as_tensor, batch)  # lengths of packed documents are a list
    return float(sum((x.double() * torch.arange(1, x.numel() + 1).view_as(x)).sum() for x in tensors))


def fit(
    tmp_path: Path,
    ckpt_path: Path | None = None,
    *,
    save: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Recorder:
    """Checkpoints of a first run go to `tmp_path / "ckpt"`. Lightning wants the callback in a resumed run, too."""
    tokenizer = tmp_path / "tokenizer"
    PerceiverTokenizer().save_pretrained(tokenizer)
    arguments = {"max_seq_len": 1024, "batch_size": 104, "num_workers": 0, **(data or {})}
    datamodule = PydocTextDataModule(str(tmp_path / "cache"), tokenizer=str(tokenizer), **arguments)
    directory = tmp_path / ("ckpt" if ckpt_path is None else f"resumed-{ckpt_path.stem}")
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=ModelCheckpoint(directory, filename="{step}", save_top_k=-1, **(save or {})),
        **kwargs,
    )
    model = Recorder()
    trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
    return model


RANDOM_WINDOWS = {"task": Task.clm, "random_train_shift": True, "random_train_truncation": True}
AT_VALIDATION = {"every_n_epochs": 1, "save_on_train_epoch_end": False}
SAVES = {
    "after each batch": {"save": {"every_n_train_steps": 1}},
    "in short epochs with workers": {
        "save": {"every_n_train_steps": 1},
        "limit_train_batches": 2,
        "data": {"num_workers": 2},
    },
    "with random windows": {"save": {"every_n_train_steps": 1}, "limit_train_batches": 2, "data": RANDOM_WINDOWS},
    "with packed documents": {
        "save": {"every_n_train_steps": 1},
        "limit_train_batches": 2,
        "data": {"task": Task.clm, "packing": True, "random_train_truncation": True},
    },
    "after validation in the epoch": {"save": AT_VALIDATION, "val_check_interval": 2},
    "after the validation of an epoch": {"save": AT_VALIDATION},
    "at the end of an epoch": {"save": {"every_n_epochs": 1, "save_on_train_epoch_end": True}},
}


@pytest.mark.parametrize("when", SAVES)
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, when):
    whole = fit(tmp_path, max_epochs=2, **SAVES[when])
    assert len(set(whole.seen)) == len(whole.seen) >= 4
    *paths, _ = sorted((tmp_path / "ckpt").iterdir())  # after the last one nothing is left to train
    assert paths
    for path in paths:
        step = torch.load(path, weights_only=True)["global_step"]
        resumed = fit(tmp_path, path, max_epochs=2, **SAVES[when])
        assert resumed.seen == whole.seen[step:], path.name
        torch.testing.assert_close(resumed.weights, whole.weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_stopped_at_max_steps_goes_on(tmp_path, stop):
    save = {"every_n_train_steps": stop}
    fit(tmp_path, max_steps=stop, save=save)
    resumed = fit(tmp_path, tmp_path / "ckpt" / f"step={stop}.ckpt", max_steps=4, save=save)
    whole = fit(tmp_path / "whole", max_steps=4)
    assert resumed.seen == whole.seen[stop:]
    torch.testing.assert_close(resumed.weights, whole.weights, atol=1e-6, rtol=0)


def test_overfitting_repeats_the_first_batches(tmp_path):
    model = fit(tmp_path, max_epochs=2, overfit_batches=2)
    assert len(model.seen) == 4
    assert model.seen[:2] == model.seen[2:]


def test_validation_batches_are_the_same_in_every_epoch(tmp_path):
    model = fit(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    half = len(model.val_seen) // 2
    assert half >= 1
    assert model.val_seen[:half] == model.val_seen[half:]
