"""The base data module on a leaf that needs no files: arguments, cache, splits, batches."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import PerceiverTokenizer

from perceiver.data.text.common import Task, TextDataModule

TRAIN, VALID = ["it was the best of times ", "it was the worst of times "] * 20, ["it was the age of wisdom"] * 5


class Words(TextDataModule):
    """Counts how often the raw text is read."""

    def __init__(self, dataset_dir: Path, texts: Mapping[str, list[str]] | None = None, **kwargs: Any):
        super().__init__(str(dataset_dir), **{"max_seq_len": 64, "batch_size": 4, "num_workers": 0, **kwargs})
        self.texts = texts or {"train": TRAIN, "valid": VALID}
        self.reads = 0

    def identity(self) -> dict[str, Any]:
        return {"texts": dict(self.texts)}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        self.reads += 1
        return {split: datasets.Dataset.from_dict({"text": texts}) for split, texts in self.texts.items()}


@pytest.fixture
def prepared(tmp_path, byte_tokenizer_dir):
    def prepare(**kwargs: Any) -> Words:
        data = Words(tmp_path, **{"tokenizer": byte_tokenizer_dir, **kwargs})
        data.prepare_data()
        data.setup()
        return data

    return prepare


def test_task_is_what_published_checkpoints_hold():
    assert [(task.name, task.value) for task in Task] == [("mlm", 0), ("clm", 1), ("clf", 2)]
    assert pickle.loads(b"\x80\x04cperceiver.data.text.common\nTask\nK\x00\x85R.") is Task.mlm


def test_what_the_command_line_links_is_there_after_construction(tmp_path, byte_tokenizer_dir, fast_tokenizer_dir):
    assert Words(tmp_path, tokenizer=byte_tokenizer_dir, max_seq_len=77).max_seq_len == 77
    assert Words(tmp_path, tokenizer=byte_tokenizer_dir).vocab_size == 262
    assert Words(tmp_path, tokenizer=fast_tokenizer_dir).vocab_size == 18


@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_batches_hold_the_text(prepared, add_special_tokens):
    data = prepared(add_special_tokens=add_special_tokens)
    real = []
    for labels, input_ids, pad_mask in data.val_dataloader():
        assert labels.shape == input_ids.shape == pad_mask.shape
        assert (labels[pad_mask] == -100).all()
        real.append(torch.where(labels == -100, input_ids, labels)[~pad_mask])
    text = data.tokenizer.decode(torch.cat(real), skip_special_tokens=False)
    assert text == "".join(f"[CLS]{t}[SEP]" if add_special_tokens else t for t in VALID)


def test_train_batches(prepared):
    data = prepared()
    batches = list(data.train_dataloader())
    num_tokens = len("".join(TRAIN))
    assert sum(int((~pad_mask).sum()) for _, _, pad_mask in batches) == num_tokens
    assert [len(labels) for labels, _, _ in batches] == [4] * 4
    assert {labels.shape[1] for labels, _, _ in batches} == {64}
    rate = sum(int((labels != -100).sum()) for labels, _, _ in batches) / num_tokens
    assert 0.05 < rate < 0.3


def test_a_second_run_reads_the_cache(prepared):
    assert prepared().reads == 1
    assert prepared().reads == 0


def test_the_cache_does_not_depend_on_how_batches_are_made(prepared):
    prepared()
    for change in (
        {"max_seq_len": 32},
        {"mask_prob": 0.5},
        {"mask_words": False},
        {"static_masking": True},
        {"seed": 1},
        {"padding_side": "right"},
        {"preproc_batch_size": 3},
    ):
        assert prepared(**change).reads == 0, change


def test_the_cache_depends_on_everything_that_changes_it(prepared, fast_tokenizer_dir, monkeypatch):
    prepared()
    for change in (
        {"texts": {"train": TRAIN, "valid": VALID[1:]}},
        {"add_special_tokens": True},
        {"tokenizer": fast_tokenizer_dir},
    ):
        assert prepared(**change).reads == 1, change
    monkeypatch.setattr("perceiver.data.text.common.FORMAT_VERSION", 2)
    assert prepared().reads == 1


def batches(data: TextDataModule, epoch: int) -> list[list[Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [[tensor.tolist() for tensor in batch] for batch in loader]


def test_seed_epoch_and_static_masking(prepared):
    assert batches(prepared(), 0) == batches(prepared(), 0)
    assert batches(prepared(), 0) != batches(prepared(), 1)
    assert batches(prepared(), 0) != batches(prepared(seed=1), 0)

    def rows(data: Words, epoch: int) -> set[tuple[int, ...]]:
        return {tuple(row) for _, input_ids, _ in batches(data, epoch) for row in input_ids}

    assert rows(prepared(static_masking=True), 0) == rows(prepared(static_masking=True), 1)
    assert rows(prepared(), 0) != rows(prepared(), 1)


def test_settings_reach_the_collator(prepared):
    data = prepared(mask_words=False, mask_prob=0.9, valid_batch_size=2, max_seq_len=50)
    labels, _, pad_mask = list(data.val_dataloader())[-1]
    assert pad_mask.shape == (1, 20)  # 24 * 5 = 2 * 50 + 20
    labels, _, pad_mask = data.collator(static=True)([data.chunks["valid"][0], data.chunks["valid"][2]])
    assert pad_mask[1].tolist() == [False] * 20 + [True] * 30
    assert (labels[0] != -100).float().mean() > 0.7
    assert any(len(set((labels[0, i : i + 4] != -100).tolist())) == 2 for i in range(40))  # single tokens


def test_text_preprocessor_has_the_settings(tmp_path):
    PerceiverTokenizer(padding_side="left").save_pretrained(tmp_path / "tokenizer")
    data = Words(tmp_path, tokenizer=str(tmp_path / "tokenizer"), max_seq_len=3, add_special_tokens=True)
    input_ids, pad_mask = data.text_preprocessor().preprocess_batch(["abc", ""])
    assert input_ids.tolist() == [[4, 103, 5], [4, 5, 0]]
    assert pad_mask.tolist() == [[False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": Task.clm}, r"task=Task.clm is not supported by Words, only Task.mlm"),
        ({"task": "clf"}, r"task=clf is not supported by Words, only Task.mlm"),
        ({"max_seq_len": 0}, "max_seq_len=0 must be at least 1"),
        ({"mask_prob": 1.5}, r"mask_prob=1.5 must be in \(0, 1\)"),
        ({"padding_side": "top"}, "padding_side='top' must be 'left', 'right' or None"),
        ({"padding_side": "left"}, "padding_side='left' is not possible with task=Task.mlm: .* count positions from"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_bad_arguments(tmp_path, byte_tokenizer_dir, change, message):
    with pytest.raises(ValueError, match=message):
        Words(tmp_path, **{"tokenizer": byte_tokenizer_dir, **change})


def test_a_tokenizer_without_mask_token_is_an_error_before_preprocessing(tmp_path):
    tokenizer = PerceiverTokenizer()
    tokenizer.mask_token = None
    data = Words(tmp_path, tokenizer="unused")
    data.__dict__["tokenizer"] = tokenizer
    with pytest.raises(ValueError, match="PerceiverTokenizer '' has no mask token"):
        data.prepare_data()
    assert data.reads == 0


def test_missing_splits(prepared, tmp_path, byte_tokenizer_dir):
    with pytest.raises(ValueError, match=r"Words has no split 'test', only \['train', 'valid'\]"):
        prepared().test_dataloader()
    with pytest.raises(ValueError, match="split 'valid' has 1 documents but no text"):
        prepared(texts={"train": TRAIN, "valid": [""]})
    with pytest.raises(ValueError, match=r"call prepare_data\(\) before setup\(\)"):
        Words(tmp_path / "new", tokenizer=byte_tokenizer_dir).setup()
