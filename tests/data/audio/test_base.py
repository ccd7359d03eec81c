"""The loaders of symbolic audio: batches, determinism, resuming, shares of processes."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from perceiver.data.audio.synthetic import SyntheticPianoDataModule
from perceiver.processing.midi import PAD

pytestmark = [
    # Python >= 3.12
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # machines with one core
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]
RANDOM = {"min_seq_len": 40, "random_transposition": 3, "random_tempo": 0.1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("cache"))
    SyntheticPianoDataModule(folder, 9, 3, max_seq_len=1).prepare_data()
    return folder


def module(cache: str, **kwargs: Any) -> SyntheticPianoDataModule:
    options = {"max_seq_len": 64, "batch_size": 4, "num_workers": 0, **kwargs}
    data = SyntheticPianoDataModule(cache, 9, 3, **options)
    data.setup()
    return data


def epoch_of(data: SyntheticPianoDataModule, epoch: int) -> list[list[Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [[tensor.tolist() for tensor in batch] for batch in loader]


def rows(batches: list[list[Any]]) -> list[Any]:
    return sorted(input_ids for _, batch, _ in batches for input_ids in batch)


def test_batches(cache):
    data = module(cache, **RANDOM)
    assert (data.vocab_size, data.max_seq_len) == (389, 64)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        labels, input_ids, pad_mask = next(iter(loader))
        assert labels.shape == input_ids.shape == pad_mask.shape == (4, 64)
        assert ((labels == -100) == pad_mask).all() and ((input_ids == PAD) == pad_mask).all()
        assert torch.equal(labels[:, :-1][~pad_mask[:, :-1]], input_ids[:, 1:][~pad_mask[:, :-1]])
        assert pad_mask[:, 0].sum() >= pad_mask[:, -1].sum() == 0  # padding is on the left
    lengths = [int((~row).sum()) for batch in data.train_dataloader() for row in batch[2]]
    assert min(lengths) >= 40 and len(set(lengths)) > 10


def test_validation_has_every_piece(cache):
    data = module(cache, valid_batch_size=1000)
    (batch,) = data.val_dataloader()
    tokens = [data.pieces["valid"].piece(i).tolist() for i in range(3)]
    assert batch[0][batch[0] != -100].tolist() == sum((ids[1:] for ids in tokens), [])
    assert [b.tolist() for b in batch] == [b.tolist() for b in next(iter(data.val_dataloader()))]


def test_epochs_seeds_and_workers(cache):
    first = epoch_of(module(cache, **RANDOM), 0)
    assert epoch_of(module(cache, **RANDOM, num_workers=2), 0) == first
    assert (
        rows(epoch_of(module(cache, **RANDOM), 1)) != rows(first) != rows(epoch_of(module(cache, **RANDOM, seed=1), 0))
    )
    assert rows(epoch_of(module(cache), 1)) != rows(epoch_of(module(cache), 0))


def test_training_goes_on_where_it_stopped(cache):
    whole = epoch_of(module(cache, **RANDOM), 3)
    stopped = module(cache, **RANDOM).train_dataloader()
    stopped.sampler.set_epoch(3)
    list(islice(stopped, 2))
    resumed = module(cache, **RANDOM).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert [[tensor.tolist() for tensor in batch] for batch in resumed] == whole[2:]


def test_processes_share_examples(cache):
    """Each example is on one of them, but for one that makes their numbers equal, and has no labels."""
    whole = epoch_of(module(cache, batch_size=1), 0)
    world_size = 4 if len(whole) % 4 else 5
    parts = []
    for rank in range(world_size):
        data = module(cache, batch_size=1)
        data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, overfit_batches=0)
        parts.append(epoch_of(data, 0))
    assert {len(part) for part in parts} == {-(-len(whole) // world_size)}
    labelled = [batch for part in parts for batch in part if any(label != -100 for label in batch[0][0])]
    assert sorted(labelled) == sorted(whole)


class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[Any]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append([tensor.tolist() for tensor in batch])
        return self.weight.sum()

    def validation_step(self, batch: Any, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: SyntheticPianoDataModule, **kwargs: Any) -> list[list[Any]]:
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", logger=False, max_epochs=2, num_sanity_val_steps=0, **options, **kwargs)
    model = Recorder()
    trainer.fit(model, datamodule=data)
    return model.seen


def test_lightning_tells_the_epoch(cache):
    seen = fit(module(cache, **RANDOM))
    assert seen == epoch_of(module(cache, **RANDOM), 0) + epoch_of(module(cache, **RANDOM), 1)


def test_overfitting_has_the_same_examples_in_every_epoch(cache):
    seen = fit(module(cache, **RANDOM), overfit_batches=2)
    assert seen[:2] == seen[2:] and len(seen) == 4
    assert seen[0][1][0] == module(cache).pieces["train"].piece(0)[:64].tolist()


def test_validation_record(cache):
    data = module(cache, max_seq_len=5000)
    assert data.validation_record(1).tolist() == data.pieces["valid"].piece(1)[:-1].tolist()
    drawn = set()
    for step in range(30):
        data.trainer = SimpleNamespace(global_step=step)
        drawn.add(tuple(data.validation_record().tolist()))
        assert tuple(data.validation_record().tolist()) in drawn
    assert drawn == {tuple(data.pieces["valid"].piece(i)[:-1].tolist()) for i in range(3)}
    with pytest.raises(ValueError, match=r"validation record 3 must be in \[0, 3\), or -1 for a random one"):
        data.validation_record(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_seq_len": 0}, "max_seq_len=0 must be at least 1"),
        ({"min_seq_len": 65}, r"min_seq_len=65 must be in \[1, 64\]"),
        ({"min_seq_len": 0}, r"min_seq_len=0 must be in \[1, 64\]"),
        ({"padding_side": "top"}, "padding_side='top' must be 'left' or 'right'"),
        ({"random_transposition": -1}, "random_transposition=-1 must be at least 0"),
        ({"random_tempo": 1.0}, r"random_tempo=1.0 must be in \[0, 1\)"),
        ({"preproc_workers": 0}, "preproc_workers=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticPianoDataModule(**{"max_seq_len": 64, **arguments})


def test_wrong_order_of_calls(cache, tmp_path):
    data = SyntheticPianoDataModule(str(tmp_path), max_seq_len=8)
    with pytest.raises(ValueError, match=r"does not exist: call prepare_data\(\) before setup\(\)"):
        data.setup()
    with pytest.raises(ValueError, match=r"has no split 'train', only \[\]: prepare_data\(\) and setup\(\) come"):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"has no split 'test', only \[\]"):
        data.test_dataloader()
