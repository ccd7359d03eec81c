"""Streams: no document lost or doubled, other ones for each rank and worker, exact resume."""

import gzip
import json
import multiprocessing
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings, strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from transformers import PerceiverTokenizer

from perceiver.data.text.c4 import C4DataModule
from perceiver.data.text.common import Task
from perceiver.data.text.streaming import NEW, ChunkStream

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # Python >= 3.12
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),  # one core
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]

BYTES = PerceiverTokenizer()
EOS = 2
README = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
---
"""
# The lines of the recorded case `c4_pipeline`.
LINES = ["abc def", "gh", "ijklmnop q", "r s t u v", "wx", "yz 0123"]


def texts_of(num_shards: int, name: str = "doc") -> list[list[str]]:
    """Documents of different lengths, each there once."""
    return [[f"{name} {s} {i} " + "x" * (7 * i % 11) for i in range(9 + 2 * s)] for s in range(num_shards)]


def hub_folder(folder: Path, shards: list[list[str]], valid: list[list[str]] | None = None, column="text") -> Path:
    (folder / "en").mkdir(parents=True)
    for split, parts in (("train", shards), ("validation", valid or texts_of(2, "valid"))):
        for number, texts in enumerate(parts):
            rows = [{column: text, "timestamp": "2019-04-25T12:57:54Z", "url": "u"} for text in texts]
            name = f"c4-{split}.{number:05}-of-{len(parts):05}.json.gz"
            (folder / "en" / name).write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return hub_folder(tmp_path_factory.mktemp("c4") / "hub", texts_of(5))


@pytest.fixture
def module(folder, byte_tokenizer_dir):
    def make(**kwargs: Any) -> C4DataModule:
        defaults = {"max_seq_len": 23, "batch_size": 3, "num_train_workers": 0, "num_valid_workers": 0}
        options = {"source": str(folder), "batches_per_epoch": 7, "shuffle_window_size": 6, "concat_batch_size": 4}
        return C4DataModule(byte_tokenizer_dir, **{**defaults, **options, **kwargs})

    return make


def one_pass(module: C4DataModule, split: str = "train") -> Any:
    """The loader of a split, ending after all documents."""
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    loader.stream.repeat, loader.batches_per_epoch = False, None
    return loader


def real_tokens(loader: Any, padding_side: str = "left") -> list[list[int]]:
    rows = []
    for labels, input_ids, pad_mask in loader:
        for row_labels, row, pads in zip(labels, input_ids, pad_mask, strict=True):
            assert pads.tolist() == sorted(pads.tolist(), reverse=padding_side == "left")
            assert torch.equal(row_labels[~pads][:-1], row[~pads][1:])
            rows.append([*row[~pads].tolist(), int(row_labels[~pads][-1])])
    return rows


def documents(rows: list[list[int]]) -> list[str]:
    """Texts before the end-of-text tokens of the rows, one after the other."""
    flat = [token for row in rows for token in row]
    ends = [i for i, token in enumerate(flat) if token == EOS]
    return [BYTES.decode(flat[start:end]) for start, end in zip([0, *(e + 1 for e in ends)], ends, strict=False)]


def test_recorded_chunks(tmp_path, module):
    """Windows are joined; the published library began anew after each, and lost its tail."""
    hub_folder(tmp_path / "c4", [LINES * 3])
    loader = one_pass(module(source=str(tmp_path / "c4"), max_seq_len=7, shuffle_window_size=3, concat_batch_size=3))
    loader.stream.shuffle = False
    rows = real_tokens(loader)
    assert rows[:2] == [[103, 104, 105, 38, 106, 107, 108, 2], [109, 110, 2, 111, 112, 113, 114, 115]]
    expected = [token for line in LINES * 3 for token in [*BYTES(line, add_special_tokens=False)["input_ids"], EOS]]
    assert len(expected) % 8 == 1  # nothing can be predicted from the last one
    assert [token for row in rows for token in row] == expected[:-1]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])  # of 5 shards; with 8 each rank has every eighth document
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_document_is_in_one_stream(folder, module, world_size, split):
    found: list[list[str]] = []
    for rank in range(world_size):
        loader = one_pass(module(rank=rank, world_size=world_size, max_seq_len=23), split)
        rows = real_tokens(loader)
        assert all(len(row) == 24 for row in rows[:-1])
        found.append(documents(rows))
    expected = texts_of(5) if split == "train" else texts_of(2, "valid")
    texts = [text for shard in expected for text in shard]
    together = Counter(text for part in found for text in part)
    # A last token that nothing can be predicted from is left out, and it is an end-of-text token.
    missing = Counter(texts) - together
    assert together + missing == Counter(texts)
    assert sum(missing.values()) <= world_size
    if split == "train" and world_size < 3:
        assert found[0] != sorted(found[0], key=texts.index)  # shuffled


def test_workers_have_streams_of_their_own(module):
    rows = real_tokens(one_pass(module(num_train_workers=2, rank=1, world_size=2)))
    alone = [real_tokens(one_pass(module(rank=rank, world_size=4))) for rank in (2, 3)]
    assert Counter(map(tuple, rows)) == Counter(map(tuple, alone[0] + alone[1]))


def taken(loader: Any, count: int) -> list[list[Any]]:
    """Batches over as many epochs as it takes."""
    result: list[list[Any]] = []
    while len(result) < count:
        result += [[x.tolist() for x in batch] for batch in islice(loader, count - len(result))]
    return result


def test_epochs_go_on_and_text_is_shuffled_anew(module):
    loader = module().train_dataloader()
    assert len(loader) == 7
    assert [len(list(loader)) for _ in range(3)] == [7, 7, 7]
    whole = taken(module(batches_per_epoch=100).train_dataloader(), 100)
    assert taken(module().train_dataloader(), 100) == whole
    assert taken(module(shuffle_window_seed=1).train_dataloader(), 10) != whole[:10]
    assert taken(module(concat_batch_size=1, batches_per_epoch=50).train_dataloader(), 100) == whole

    stream = module().train_dataloader().stream
    passes: dict[int, list[list[int]]] = {}
    for example, state in stream._chunks(0, 1, NEW):
        passes.setdefault(state["pass"], []).append([*example["input_ids"].tolist(), int(example["label_ids"][-1])])
        if state["pass"] == 3:
            break
    counts = [Counter(documents(rows)) for rows in list(passes.values())[:3]]
    assert sum(counts[0].values()) >= sum(len(shard) for shard in texts_of(5)) - 1
    assert passes[0][:20] != passes[1][:20]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_goes_on_where_another_stopped(module, num_workers, rank):
    """Two ranks, two workers; the state as a checkpoint has it; stops within and between windows, epochs and passes."""
    options = {"num_train_workers": num_workers, "rank": rank, "world_size": 2, "min_seq_len": 5}
    whole = taken(module(**options).train_dataloader(), 60)
    for stop in (1, 2, 7, 8, 21, 45) if num_workers == 0 else (8, 45):
        stopped = module(**options).train_dataloader()
        taken(stopped, stop)
        state = json.loads(json.dumps(stopped.state_dict()), object_hook=_int_keys)
        resumed = module(**options).train_dataloader()
        resumed.load_state_dict(state)
        rest = taken(resumed, 60 - stop if stop == 45 else 4)
        assert rest == whole[stop : stop + len(rest)], stop
        assert resumed.state_dict()["num_batches"] == stop + len(rest)


def _int_keys(values: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdigit() else key: value for key, value in values.items()}


@given(
    lengths=st.lists(st.integers(0, 40), min_size=2, max_size=15),
    max_seq_len=st.integers(1, 30),
    window=st.integers(1, 6),
    concat=st.integers(1, 4),
    next_token=st.booleans(),
    stop=st.integers(0, 30),
)
@settings(max_examples=30)
def test_chunks_conserve_tokens_and_states_are_exact(lengths, max_seq_len, window, concat, next_token, stop):
    texts = [f"{i % 10}" * length for i, length in enumerate(lengths)]
    stream = ChunkStream(
        datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=2),
        BYTES,
        list,
        batch_size=1,
        max_seq_len=max_seq_len,
        min_seq_len=None,
        next_token=next_token,
        shuffle_window=window,
        shuffle=True,
        concat_batch_size=concat,
        repeat=False,
        seed=3,
        rank=0,
        world_size=1,
    )
    chunks = list(stream._chunks(0, 1, NEW))
    rows = [np.append(c["input_ids"], c["label_ids"][-1:]) if next_token else c["input_ids"] for c, _ in chunks]
    flat = Counter(int(token) for row in rows for token in row)
    expected = Counter(token for text in texts for token in [*BYTES(text, add_special_tokens=False)["input_ids"], EOS])
    left_out = expected - flat
    assert flat + left_out == expected
    assert sum(left_out.values()) <= next_token
    assert all(len(row) == max_seq_len + next_token for row in rows[:-1])
    stop = min(stop, len(chunks) - 1)
    resumed = [c["input_ids"].tolist() for c, _ in stream._chunks(0, 1, chunks[stop][1])]
    assert resumed == [c["input_ids"].tolist() for c, _ in chunks[stop + 1 :]]


def test_random_lengths(module):
    rows = real_tokens(one_pass(module(min_seq_len=5, max_seq_len=9)))
    assert {len(row) - 1 for row in rows[:-1]} == {5, 6, 7, 8, 9}
    # Whatever the lengths: a model with six latents would stop at a batch of five positions.
    widths = {x.shape[1] for _, x, _ in one_pass(module(min_seq_len=5, max_seq_len=9, batch_size=1))}
    assert widths == {9}
    assert {x.shape[1] for _, x, _ in module(min_seq_len=5, max_seq_len=9).val_dataloader()} == {9}


def test_masked_language_modelling(module):
    loader = one_pass(module(task=Task.mlm, mask_prob=0.5))
    originals, selected, masked = [], 0, 0
    for labels, input_ids, pad_mask in loader:
        original = torch.where(labels == -100, input_ids, labels)
        assert (labels[original == EOS] == -100).all()
        selected += int((labels != -100).sum())
        masked += int((input_ids == 3).sum())
        originals += [row[~pads].tolist() for row, pads in zip(original, pad_mask, strict=True)]
    assert 0.3 < selected / sum(map(len, originals)) < 0.7
    assert 0.6 < masked / selected < 1
    texts = [text for shard in texts_of(5) for text in shard]
    assert sorted(documents(originals)) == sorted(texts)


def test_validation_is_the_same_each_time(module):
    data = module()
    first, second = ([[x.tolist() for x in b] for b in data.val_dataloader()] for _ in range(2))
    assert first == second
    loader = data.val_dataloader()
    assert [[x.tolist() for x in b] for b in loader] == [[x.tolist() for x in b] for b in loader] == first
    with pytest.raises(TypeError, match="not known"):
        len(loader)


class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[Any]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append([x.tolist() for x in batch])
        return self.weight * 1.0

    def validation_step(self, batch: Any, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(directory: Path, data: C4DataModule, ckpt_path: Path | None = None, **kwargs: Any) -> Recorder:
    model = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=ModelCheckpoint(directory, filename="{step}", save_top_k=-1, every_n_train_steps=1),
        **kwargs,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    assert not multiprocessing.active_children()  # workers would live on, and take 10 s to end as garbage
    return model


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_resumes_exactly(tmp_path, module, num_workers):
    """In the middle of an epoch, at its end and after it, without torch.distributed."""
    assert not torch.distributed.is_initialized()
    options = {"num_train_workers": num_workers, "batches_per_epoch": 3}
    whole = fit(tmp_path / "whole", module(**options), max_steps=8)
    assert len(whole.seen) == 8
    for step in (2, 3, 4) if num_workers == 0 else (4,):
        path = tmp_path / "whole" / f"step={step}.ckpt"
        resumed = fit(tmp_path / f"resumed-{step}", module(**options), path, max_steps=8)
        assert resumed.seen == whole.seen[step:], step


def test_what_the_command_line_links_is_there(module):
    data = module()
    assert (data.vocab_size, data.max_seq_len) == (262, 23)
    assert data.text_preprocessor().preprocess("a")[0].tolist() == [103]
    defaults = C4DataModule("deepmind/language-perceiver", 512)
    source = defaults.raw_data
    assert (source.repo_id, source.config_name, source.revision) == ("allenai/c4", "en", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": Task.clf}, "task=Task.clf is not supported by C4DataModule"),
        ({"task": Task.mlm, "padding_side": "left"}, "padding_side='left' is not possible with task=Task.mlm"),
        ({"min_seq_len": 24}, r"min_seq_len=24 must be in \[1, 23\]"),
        ({"min_seq_len": 0}, r"min_seq_len=0 must be in \[1, 23\]"),
        ({"mask_prob": 1.0}, r"mask_prob=1.0 must be in \(0, 1\)"),
        ({"batches_per_epoch": 0}, "batches_per_epoch=0 must be at least 1"),
        ({"shuffle_window_size": 0}, "shuffle_window_size=0 must be at least 1"),
        ({"concat_batch_size": 0}, "concat_batch_size=0 must be at least 1"),
        ({"shuffle_window_seed": -1}, "shuffle_window_seed=-1 must be at least 0"),
        ({"rank": 2, "world_size": 2}, r"rank=2 must be in \[0, world_size=2\), or both None"),
        ({"rank": 0}, r"rank=0 must be in \[0, world_size=None\), or both None"),
    ],
)
def test_bad_arguments(module, change, message):
    with pytest.raises(ValueError, match=message):
        module(**change)


def test_bad_data(tmp_path, module, byte_tokenizer_dir, fast_tokenizer_dir):
    with pytest.raises(ValueError, match=r"cannot load .*missing"):
        module(source=str(tmp_path / "missing")).train_dataloader()
    with pytest.raises(ValueError, match="'de' not found"):
        module(config_name="de").train_dataloader()
    hub_folder(tmp_path / "body", [["a"]], column="body")
    with pytest.raises(ValueError, match=r"no column 'text', only \['body', 'timestamp', 'url'\]"):
        module(source=str(tmp_path / "body")).train_dataloader()
    hub_folder(tmp_path / "few", [["a", "b"]])
    with pytest.raises(ValueError, match="stream 2 of 3 has no document"):
        next(iter(module(source=str(tmp_path / "few"), rank=2, world_size=3).train_dataloader()))
    with pytest.raises(ValueError, match=r"has no end-of-text token \(eos_token\) to separate documents"):
        C4DataModule(fast_tokenizer_dir, 8, source=str(tmp_path / "few")).train_dataloader()


def test_a_state_is_for_the_same_settings(module):
    loader = module().train_dataloader()
    taken(loader, 2)
    for change, message in (
        ({"max_seq_len": 9}, "begun with max_seq_len=23 and cannot go on with 9"),
        ({"num_train_workers": 2}, "begun with num_workers=0 and cannot go on with 2"),
        ({"rank": 0, "world_size": 2}, "begun with world_size=1 and cannot go on with 2"),
        ({"shuffle_window_size": 5}, "begun with shuffle_window_size=6 and cannot go on with 5"),
    ):
        with pytest.raises(ValueError, match=message):
            module(**change).train_dataloader().load_state_dict(loader.state_dict())
