"""The base data module on a leaf that needs no files: arguments, cache, splits, batches."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
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
        {"task": Task.clm, "random_train_shift": True, "random_train_truncation": True},
    ):
        assert prepared(**change).reads == 0, change


@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_end_of_text_after_each_document(prepared, add_special_tokens):
    data = prepared(add_special_tokens=add_special_tokens, add_eos_token=True, task=Task.clm)
    text = "[CLS]it was the age of wisdom[SEP][EOS]" if add_special_tokens else "it was the age of wisdom[EOS]"
    assert data.tokenizer.decode(data.chunks["valid"].tokens.tolist()) == text * 5
    chunks = prepared(add_special_tokens=add_special_tokens, add_eos_token=True).chunks["valid"]
    special = chunks.tokens[:64] < 6
    assert (chunks[0, 0]["word_ids"] == -1)[special].all()  # in no word that is masked


def test_end_of_text_of_classified_documents(tmp_path, byte_tokenizer_dir):
    rows = {"text": ["a good film", "bad"], "label": [1, 0]}

    class Reviews(Words):
        tasks = (Task.clf,)

        def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
            return {"train": datasets.Dataset.from_dict(rows), "valid": datasets.Dataset.from_dict(rows)}

    arguments = {"tokenizer": byte_tokenizer_dir, "task": Task.clf, "max_seq_len": 8, "add_eos_token": True}
    for special, expected in (
        (False, ["a good [EOS]", "bad[EOS]"]),
        (True, ["[CLS]a goo[SEP][EOS]", "[CLS]bad[SEP][EOS]"]),
    ):
        data = Reviews(tmp_path / str(special), add_special_tokens=special, **arguments)
        data.prepare_data()
        data.setup()
        valid = data.chunks["valid"]
        assert [data.tokenizer.decode(valid[0, i]["input_ids"].tolist()) for i in range(2)] == expected


def test_end_of_text_needs_a_token_for_it(prepared, fast_tokenizer_dir):
    with pytest.raises(ValueError, match=r"has no end-of-text token \(eos_token\) to separate documents"):
        prepared(tokenizer=fast_tokenizer_dir, add_eos_token=True)


def test_hparams_are_the_arguments(tmp_path, byte_tokenizer_dir):
    data = Words(tmp_path, {"train": ["a"]}, tokenizer=byte_tokenizer_dir, task=Task.clm, random_min_seq_len=5)
    assert data.hparams.dataset_dir == str(tmp_path)
    assert data.hparams["task"] == "clm"
    assert (data.hparams.max_seq_len, data.hparams.random_min_seq_len, data.hparams.seed) == (64, 5, 0)
    assert "texts" not in data.hparams  # a dictionary
    assert data.hparams.keys() > {"add_eos_token", "batch_size", "preproc_workers", "tokenizer"}
    torch.save(dict(data.hparams), tmp_path / "hparams.pt")  # as Lightning does, and resumes
    assert torch.load(tmp_path / "hparams.pt", weights_only=True) == data.hparams


def test_the_cache_depends_on_everything_that_changes_it(prepared, fast_tokenizer_dir, monkeypatch):
    prepared()
    for change in (
        {"texts": {"train": TRAIN, "valid": VALID[1:]}},
        {"add_special_tokens": True},
        {"add_eos_token": True},
        {"tokenizer": fast_tokenizer_dir},
    ):
        assert prepared(**change).reads == 1, change
    monkeypatch.setattr("perceiver.data.cache.FORMAT_VERSION", 1)
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
        ({"task": Task.clf}, r"task=Task.clf is not supported by Words, only Task.mlm and Task.clm"),
        ({"task": "clm"}, r"task='clm' is no member of perceiver.data.text.Task, Words takes Task.mlm and Task.clm"),
        ({"task": Task.clm, "padding_side": "up"}, "padding_side='up' must be 'left' or 'right'"),
        (
            {"random_train_truncation": True, "random_min_seq_len": 0},
            r"random_min_seq_len=0 must be in \[1, 63\]",
        ),
        (
            {"random_valid_truncation": True, "random_min_seq_len": 64},
            r"random_min_seq_len=64 must be in \[1, 63\]",
        ),
        ({"static_masking": True, "random_train_shift": True}, "static_masking=True gives each example the same mask"),
        ({"static_masking": True, "random_train_truncation": True}, "random_train_truncation change the examples"),
        ({"max_seq_len": 0}, "max_seq_len=0 must be at least 1"),
        ({"mask_prob": 1.5}, r"mask_prob=1.5 must be in \(0, 1\)"),
        ({"padding_side": "top"}, "padding_side='top' must be 'left' or 'right'"),
        (
            {"padding_side": "left"},
            "padding_side='left' is not possible with task=Task.mlm: .* Leave padding_side out, or say 'right'",
        ),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"preproc_workers": 0}, "preproc_workers=0 must be at least 1"),
        ({"preproc_batch_size": 0}, "preproc_batch_size=0 must be at least 1"),
    ],
)
def test_bad_arguments(tmp_path, byte_tokenizer_dir, change, message):
    with pytest.raises(ValueError, match=message):
        Words(tmp_path, **{"tokenizer": byte_tokenizer_dir, **change})


CAUSAL = {"task": Task.clm, "max_seq_len": 16}  # 17 tokens per chunk; the validation text has 120 = 7 * 17 + 1


@pytest.mark.parametrize("padding_side", [None, "left", "right"])
@pytest.mark.parametrize("max_seq_len", [16, 22])
def test_causal_batches_hold_the_text(prepared, padding_side, max_seq_len):
    """Labels are the next tokens; only the first token of a chunk is no label. 120 = 7 * 17 + 1 = 5 * 23 + 5."""
    data = prepared(task=Task.clm, max_seq_len=max_seq_len, padding_side=padding_side, valid_batch_size=5)
    chunks, text = [], torch.tensor(data.tokenizer("".join(VALID), add_special_tokens=False)["input_ids"])
    for labels, input_ids, pad_mask in data.val_dataloader():
        assert labels.shape == input_ids.shape == pad_mask.shape
        assert labels.shape[1] == max_seq_len
        assert (labels[pad_mask] == -100).all()
        assert (input_ids[pad_mask] == data.tokenizer.pad_token_id).all()
        for row_labels, row, pads in zip(labels, input_ids, pad_mask, strict=True):
            assert pads.tolist() == sorted(pads.tolist(), reverse=padding_side != "right")
            assert torch.equal(row_labels[~pads][:-1], row[~pads][1:])
            chunks.append(torch.cat([row[~pads], row_labels[~pads][-1:]]))
    expected = list(text.split(max_seq_len + 1))
    if max_seq_len == 16:
        assert len(expected.pop()) == 1  # nothing can be predicted from the last token alone
    assert [chunk.tolist() for chunk in chunks] == [chunk.tolist() for chunk in expected]


def test_causal_batches_are_as_wide_as_a_model_may_need(prepared):
    """The last chunk of 5 tokens is alone in its batch."""
    shapes = {"max_seq_len": 22, "valid_batch_size": 5, "task": Task.clm}
    assert [len(x[0]) for _, x, _ in prepared(**shapes).val_dataloader()] == [22, 22]
    truncation = {"random_train_truncation": True, "random_min_seq_len": 12}
    data = prepared(**shapes, **truncation)
    assert [len(x[0]) for _, x, _ in data.val_dataloader()] == [22, 22]
    assert {len(x[0]) for _, x, _ in data.train_dataloader()} == {22}


def test_random_windows_of_causal_batches(prepared):
    options = {"random_train_shift": True, "random_train_truncation": True, "random_min_seq_len": 5}
    data = prepared(**CAUSAL, **options)
    assert batches(data, 0) == batches(prepared(**CAUSAL, **options), 0)
    assert batches(data, 0) != batches(data, 1)
    assert batches(data, 0) != batches(prepared(**CAUSAL, **options, seed=1), 0)
    others = [prepared(**CAUSAL, **options, seed=1), prepared(**CAUSAL, **options)]
    windows = [[chunks[i]["input_ids"].tolist() for i in range(5)] for chunks in (d.chunks["train"] for d in others)]
    assert windows[0] != windows[1] == [data.chunks["train"][i]["input_ids"].tolist() for i in range(5)]
    text = "".join(TRAIN)
    for labels, input_ids, pad_mask in data.train_dataloader():
        assert labels.shape[1] == 16
        for row_labels, row, pads in zip(labels, input_ids, pad_mask, strict=True):
            assert 5 <= int((~pads).sum()) < 16
            tokens = torch.cat([row[~pads], row_labels[~pads][-1:]])
            assert data.tokenizer.decode(tokens) in text
    # validation is as it is without the options, but for the width of the short last batch
    plain = prepared(**CAUSAL)
    assert [chunk["input_ids"].tolist() for chunk in data.chunks["valid"]] == [
        chunk["input_ids"].tolist() for chunk in plain.chunks["valid"]
    ]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_each_random_window_has_its_own_switch(prepared, split):
    for option in ("shift", "truncation"):
        chunks = prepared(**CAUSAL, **{f"random_{split}_{option}": True, "random_min_seq_len": 5}).chunks
        expected = dict.fromkeys(chunks, (False, None))
        expected[split] = (True, None) if option == "shift" else (False, 5)
        assert {name: (c.shift, c.min_seq_len) for name, c in chunks.items()} == expected


def test_random_windows_of_validation_are_always_the_same_and_test_has_none(prepared):
    options = {"random_valid_shift": True, "random_valid_truncation": True, "random_min_seq_len": 5}
    data = prepared(**CAUSAL, **options, texts={"train": TRAIN, "valid": VALID, "test": VALID})
    first, second = ([x.tolist() for batch in data.val_dataloader() for x in batch] for _ in range(2))
    assert first == second
    chunks = [chunk["input_ids"] for chunk in data.chunks["valid"]]
    assert len({len(ids) for ids in chunks}) > 2
    assert len(chunks) == 6
    text = [ids for _, input_ids, pads in data.test_dataloader() for ids in input_ids[~pads].tolist()]
    assert text == [byte + 6 for i in range(7) for byte in "".join(VALID).encode()[17 * i : 17 * i + 16]]


def test_random_windows_of_masked_batches(prepared):
    data = prepared(random_train_shift=True, random_train_truncation=True, random_min_seq_len=20)
    for labels, input_ids, pad_mask in data.train_dataloader():
        originals = torch.where(labels == -100, input_ids, labels)
        for row, pads in zip(originals, pad_mask, strict=True):
            assert 20 <= int((~pads).sum()) < 64
            assert data.tokenizer.decode(row[~pads]) in "".join(TRAIN)


def test_validation_record(prepared):
    data = prepared(**CAUSAL)
    tokens = data.chunks["valid"].tokens
    assert data.validation_record(2).tolist() == tokens[34:50].tolist()
    assert data.validation_record(2).dtype == torch.int64
    random = data.validation_record(-1).tolist()
    assert random == data.validation_record().tolist() == prepared(**CAUSAL).validation_record().tolist()
    drawn = set()
    for step in range(60):
        data.trainer = SimpleNamespace(global_step=step)
        drawn.add(int(data.validation_record()[0]))
    assert drawn == {int(token) for token in tokens[0:119:17]}
    for index in (7, -2):
        with pytest.raises(ValueError, match=rf"validation record {index} must be in \[0, 7\), or -1 for a random one"):
            data.validation_record(index)


def test_bytes_per_token(prepared, tmp_path, byte_tokenizer_dir, fast_tokenizer_dir, xlnet_tokenizer_dir):
    assert Words(tmp_path, tokenizer=byte_tokenizer_dir).bytes_per_token is None
    assert prepared(**CAUSAL).bytes_per_token == 1.0
    assert prepared(**CAUSAL, add_special_tokens=True).bytes_per_token == 24 / 26
    data = prepared(tokenizer=xlnet_tokenizer_dir, texts={"train": TRAIN, "valid": ["été is the ☕ é"]})
    num_tokens = len(data.tokenizer("été is the ☕ é", add_special_tokens=False)["input_ids"])
    assert data.bytes_per_token == len("été is the ☕ é".encode()) / num_tokens


def test_sentencepiece(prepared, xlnet_tokenizer_dir):
    """Both tasks; masks are of whole words, and pads of masked batches are on the right, unlike XLNet's."""
    # In other versions of Python, whose help topics it is trained on, the tokenizer may lack digits.
    texts = {"train": [f"the object <mask> of statements {'of ' * (i % 7)}is " for i in range(50)], "valid": VALID}
    data = prepared(tokenizer=xlnet_tokenizer_dir, texts=texts, mask_prob=0.5, max_seq_len=10)
    assert data.vocab_size == 500
    special = set(data.tokenizer.all_special_ids)
    assert not special & set(data.chunks["train"].tokens.tolist())
    assert data.tokenizer.decode(data.chunks["train"].tokens.tolist()) == " ".join(map(str.strip, texts["train"]))
    starts = [token.startswith("▁") for token in data.tokenizer.convert_ids_to_tokens(range(500))]
    for labels, input_ids, pad_mask in data.train_dataloader():
        originals = torch.where(labels == -100, input_ids, labels)
        inside = ~torch.tensor(starts)[originals[:, 1:]] & ~pad_mask[:, 1:]
        assert torch.equal((labels != -100)[:, 1:][inside], (labels != -100)[:, :-1][inside])
        assert pad_mask.tolist() == pad_mask.sort(dim=1).values.tolist()
        assert (input_ids[labels == -100] != data.tokenizer.mask_token_id).all()
        assert (input_ids == data.tokenizer.mask_token_id).any()

    causal = prepared(tokenizer=xlnet_tokenizer_dir, texts=texts, task=Task.clm, max_seq_len=10)
    assert causal.reads == 0
    chunks = [torch.cat([x[~p], y[~p][-1:]]) for b in causal.val_dataloader() for y, x, p in zip(*b, strict=True)]
    assert data.tokenizer.decode(torch.cat(chunks)) == " ".join(VALID)


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
