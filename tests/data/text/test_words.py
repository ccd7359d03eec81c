"""Words with a label each: words and labels -> tokens and labels, and back."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import AutoTokenizer, PerceiverTokenizer

from perceiver.data.text.corpus import LabelledWords
from perceiver.data.text.encoders import WordEncoder
from perceiver.data.text.words import (
    LocalTokenClassificationDataModule,
    TokenClassificationDataModule,
    word_scores,
)
from perceiver.processing.tokenization import INSIDE, SPECIAL, START

BYTES = PerceiverTokenizer()
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CONLL = """\ufeff-DOCSTART- -X- O O

Zoë NNP B-NP B-PER
Müller NNP I-NP I-PER
lives VBZ B-VP O

in IN B-PP O
Köln\tB-LOC
"""
SENTENCES = (st.lists(st.tuples(st.text(min_size=1, max_size=9), st.integers(0, 4)), max_size=6)).map(
    lambda words: [(word.replace(" ", "_"), label) for word, label in words]
)


def write_conll(path: Path, content: str = CONLL) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.fixture
def module(tmp_path, byte_tokenizer_dir):
    def make(**kwargs: object) -> LocalTokenClassificationDataModule:
        defaults = {"tokenizer": byte_tokenizer_dir, "max_seq_len": 32, "num_workers": 0}
        data = LocalTokenClassificationDataModule(str(tmp_path / "cache"), **{**defaults, **kwargs})
        data.prepare_data()
        data.setup()
        return data

    return make


def test_conll_batches(tmp_path, module):
    path = write_conll(tmp_path / "train.txt")
    data = module(train_files=path, valid_files=write_conll(tmp_path / "valid.txt"))
    assert data.label_names == ["O", "B-LOC", "B-PER", "I-PER"]
    assert (data.num_classes, data.vocab_size, data.max_seq_len) == (4, 262, 32)
    ((labels, input_ids, pad_mask),) = data.val_dataloader()
    assert labels.shape == input_ids.shape == pad_mask.shape == (2, 18)
    assert (labels.dtype, input_ids.dtype, pad_mask.dtype) == (torch.int64, torch.int64, torch.bool)
    assert BYTES.decode(input_ids[0]) == "Zoë Müller lives"
    assert BYTES.decode(input_ids[1][~pad_mask[1]]) == "in Köln"
    # each byte has the label of its word, ë and ü are two; a space has none
    assert labels[0].tolist() == [2] * 4 + [-100] + [3] * 7 + [-100] + [0] * 5
    assert labels[1].tolist() == [0, 0, -100] + [1] * 5 + [-100] * 10


def test_labels_are_those_that_the_token_classifier_is_aligned_by(tmp_path, module):
    """Its package has the alignment for inference."""
    alignment = pytest.importorskip("perceiver.model.text.token_classifier.alignment")
    data = module(train_files=write_conll(tmp_path / "a.txt"), valid_files=write_conll(tmp_path / "b.txt"))
    numbers = [data.label_names.index(tag) for tag in ("B-PER", "I-PER", "O")]
    text, word_ids = alignment.byte_word_ids(["Zoë", "Müller", "lives"])
    assert BYTES.decode(data.chunks["train"][0]["input_ids"]) == text
    assert data.chunks["train"][0]["label_ids"].tolist() == alignment.align_labels(numbers, word_ids)


def encode(tokenizer, sentences, names=NAMES) -> dict[str, np.ndarray]:
    table = {"tokens": [[w for w, _ in s] for s in sentences], "tags": [[label for _, label in s] for s in sentences]}
    kinds = {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(datasets.Value("int64"))}
    documents = datasets.Dataset.from_dict(table, features=datasets.Features(kinds))
    encoder = WordEncoder(tokenizer, {"train": documents}, names)
    columns = encoder(documents.with_format("arrow")[:])
    result = {name: columns.column(name).combine_chunks() for name in ("tokens", "marks", "labels")}
    lengths = result["tokens"].value_lengths().to_numpy()
    flat = {name: column.flatten().to_numpy() for name, column in result.items()}
    num_bytes = columns.column("num_bytes").to_pylist()
    assert num_bytes == [len(" ".join(w for w, _ in s).encode()) for s in sentences]
    return {**flat, "offsets": np.concatenate([[0], np.cumsum(lengths)])}


def save(directory: Path, arrays: dict[str, np.ndarray], max_seq_len: int, special=((), ())) -> LabelledWords:
    for name, values in arrays.items():
        np.save(directory / f"train.{name}.npy", values)
    return LabelledWords(directory, "train", max_seq_len, special)


@given(st.lists(SENTENCES, min_size=1, max_size=5), st.integers(3, 25))
@settings(max_examples=50)
def test_words_and_labels_come_back_from_bytes(tmp_path_factory, sentences, max_seq_len):
    """Whatever the characters and wherever a sentence is cut: each byte once, words whole where they fit."""
    examples = save(tmp_path_factory.mktemp("words"), encode(BYTES, sentences), max_seq_len, ([4], [5]))
    items = [examples[i] for i in range(len(examples))]
    assert all(3 <= len(item["input_ids"]) <= max_seq_len for item in items)
    for item in items:
        assert (item["input_ids"][0], item["input_ids"][-1]) == (4, 5)
        assert ((item["label_ids"] == -100) == (item["word_ids"] < 0)).all()
        assert item["label_ids"][0] == item["label_ids"][-1] == -100
    text = bytes(int(i) - 6 for item in items for i in item["input_ids"][1:-1])
    assert text == b"".join(" ".join(word for word, _ in sentence).encode() for sentence in sentences)

    found = []
    for item in items:
        scores = np.eye(5)[np.maximum(item["label_ids"], 0)]
        best = word_scores(item["word_ids"], scores).argmax(axis=1)
        numbers = item["word_ids"][item["word_ids"] >= 0]
        for number, label in zip(np.unique(numbers), best, strict=True):
            found.append((bytes(int(i) - 6 for i in item["input_ids"][item["word_ids"] == number]), label))
    words = [pair for sentence in sentences for pair in sentence]
    if all(len(word.encode()) + 1 <= max_seq_len - 2 for word, _ in words):  # no word is cut
        assert [word for word, _ in found] == [word.encode() for word, _ in words]
        assert [best for _, best in found] == [label for _, label in words]


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["the", "Statements", "été", "x,y", "☕"]), st.integers(0, 4)), max_size=4),
        max_size=3,
    )
)
@settings(max_examples=25)
def test_words_of_a_fast_tokenizer(xlnet_tokenizer_dir, sentences):
    tokenizer = _loaded(xlnet_tokenizer_dir)
    arrays = encode(tokenizer, sentences)
    starts = arrays["marks"] == 1
    assert starts.sum() == sum(map(len, sentences))
    assert arrays["labels"][starts].tolist() == [label for sentence in sentences for _, label in sentence]
    assert (arrays["labels"] >= 0).all()
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert arrays["tokens"].tolist() == ids


_tokenizers: dict[str, object] = {}


def _loaded(folder: str):
    return (
        _tokenizers.setdefault(folder, AutoTokenizer.from_pretrained(folder))
        if folder not in _tokenizers
        else (_tokenizers[folder])
    )


def test_word_scores():
    word_ids = np.array([-1, 3, 3, -1, 4, 4, 4, 9])
    scores = np.arange(16.0).reshape(8, 2)
    assert word_scores(word_ids, scores).tolist() == [[3.0, 4.0], [10.0, 11.0], [14.0, 15.0]]
    assert word_scores(np.array([-1]), np.zeros((1, 2))).shape == (0, 2)


@pytest.mark.parametrize("kind", ["names", "numbers", "strings"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_hub_folders(tmp_path, byte_tokenizer_dir, kind, suffix):
    tags = [["B-PER", "O"], ["O"]] if kind == "strings" else [[1, 0], [0]]
    feature = {
        "names": datasets.ClassLabel(names=NAMES),
        "numbers": datasets.Value("int64"),
        "strings": datasets.Value("string"),
    }[kind]
    if kind == "names" and suffix == "jsonl":
        pytest.skip("JSON lines have no names")
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(feature)}
    )
    documents = datasets.Dataset.from_dict(
        {"tokens": [["Ada", "Lovelace"], ["☕"]], "ner_tags": tags}, features=features
    )
    (tmp_path / "hub").mkdir()
    for split in ("train", "validation", "test"):
        path = tmp_path / "hub" / f"{split}.{suffix}"
        documents.to_parquet(path) if suffix == "parquet" else documents.to_json(path)
    data = TokenClassificationDataModule(
        str(tmp_path / "hub"), str(tmp_path / "cache"), tokenizer=byte_tokenizer_dir, max_seq_len=32, num_workers=0
    )
    expected = {"names": NAMES, "numbers": ["0", "1"], "strings": ["O", "B-PER"]}[kind]
    assert data.label_names == expected  # prepares the data
    data.setup()
    labels, _, _ = next(iter(data.test_dataloader()))
    assert labels[0].tolist() == [1, 1, 1, -100] + [0] * 8
    with pytest.raises(ValueError, match=r"split 'train' has no column \['pos'\], only \['tokens', 'ner_tags'\]"):
        TokenClassificationDataModule(
            str(tmp_path / "hub"), str(tmp_path / "c"), tokenizer=byte_tokenizer_dir, max_seq_len=9, tags_column="pos"
        ).prepare_data()
    with pytest.raises(ValueError, match="must have train and valid, and may have test"):
        TokenClassificationDataModule("hub", tokenizer=byte_tokenizer_dir, max_seq_len=9, splits={"train": "train"})


def test_files_of_rows_and_validation_from_everywhere(tmp_path, module):
    rows = [{"tokens": [f"2020-01-{i:02}"], "tags": ["B-DATE"]} for i in range(1, 21)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = module(train_files=str(tmp_path / "a.jsonl"), valid_fraction=0.2)
    assert (len(data.chunks["train"]), len(data.chunks["valid"])) == (16, 4)
    assert data.label_names == ["B-DATE"]
    assert sorted(
        BYTES.decode(chunks[i]["input_ids"]) for chunks in data.chunks.values() for i in range(len(chunks))
    ) == [row["tokens"][0] for row in rows]


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        ("Ada\n", {}, r"cannot read .*train.txt as .txt: line 1: 'Ada' must have a word and a label"),
        ("Ada B-PER\n\n x\tB\n\tO\n", {}, r"line 4: '\\tO' must have a word and a label"),
        ("\n\n", {}, "all files are empty"),
        ("Ada B-PER\n\na B-PER\n", {"label_names": ["O"]}, r"label 'B-PER' in column 'tags' is none of \['O'\]"),
        ("Ada O\n", {"valid_fraction": 1}, r"valid_fraction=1 must be in \(0, 1\)"),
        ("Ada O\n", {}, "1 documents cannot be split"),
    ],
)
def test_bad_conll(tmp_path, module, content, change, message):
    with pytest.raises(ValueError, match=message):
        module(train_files=write_conll(tmp_path / "train.txt", content), **change)


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        ([["a", "b"]], [[0]], r"a row has 2 tokens and 1 tags: \['a', 'b'\]"),
        ([["a"]], [[7]], r"label 7 in column 'tags' must be in \[0, 5\), one of \['O', 'B-PER'"),
        ([["a"]], [[-1]], r"label -1 in column 'tags' must be in \[0, 5\)"),
        ([["a", ""]], [[0, 0]], "column 'tokens' has an empty word"),
        (["a"], [[0]], "column 'tokens' of split 'train' must hold lists of strings, not"),
        ([["a"]], [0], "column 'tags' of split 'train' must hold lists of labels, not"),
        ([["a"]], [[0.5]], "column 'tags' of split 'train' must hold integers or strings, not float64"),
        ([["a"]], [[None, 1]], "a row has 1 tokens and 2 tags"),
    ],
)
def test_bad_rows(tokens, tags, message):
    documents = datasets.Dataset.from_dict({"tokens": tokens, "tags": tags})
    with pytest.raises(ValueError, match=message):
        WordEncoder(BYTES, {"train": documents}, NAMES)(documents.with_format("arrow")[:])


def test_files_of_several_formats(tmp_path, module):
    """Columns may have any names; labels are of one kind."""
    valid = write_conll(tmp_path / "valid.txt")
    (tmp_path / "b.jsonl").write_text('{"words": ["2020-01-01", "b"], "kinds": ["B-DATE", "O"]}\n')
    files = [write_conll(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    data = module(train_files=files, valid_files=valid, tokens_column="words", tags_column="kinds")
    sentences = [BYTES.decode(data.chunks["train"][i]["input_ids"]) for i in range(3)]
    assert sentences == ["Zoë Müller lives", "in Köln", "2020-01-01 b"]
    assert data.label_names == ["O", "B-DATE", "B-LOC", "B-PER", "I-PER"]
    (tmp_path / "c.jsonl").write_text('{"tokens": ["a"], "tags": [0]}\n')
    with pytest.raises(
        ValueError, match=r"c.jsonl has .* tags: list<\w+: int64>, files or rows before it .*large_string"
    ):
        module(train_files=[*files[:1], str(tmp_path / "c.jsonl")], valid_files=valid)


def test_unreadable_conll(tmp_path, module):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 O\n")
    with pytest.raises(ValueError, match=r"cannot read .*latin.txt as .txt: it is not UTF-8"):
        module(train_files=str(tmp_path / "latin.txt"))
    (tmp_path / "a.csv").write_text("tokens,tags\na,O\n")
    valid = write_conll(tmp_path / "valid.txt")
    with pytest.raises(ValueError, match=r"column 'tokens' of split 'train' must hold lists of strings, not"):
        module(train_files=str(tmp_path / "a.csv"), valid_files=valid)


def test_long_sentences_are_cut_between_words(tmp_path):
    sentence = [(letter * 3, i % 5) for i, letter in enumerate("abcdefg")] + [("y" * 30, 0), ("z", 0)]
    examples = save(tmp_path, encode(BYTES, [sentence, [("end", 0)], []]), 11)
    texts = [BYTES.decode(examples[i]["input_ids"]) for i in range(len(examples))]
    assert texts[:3] == ["aaa bbb ccc", " ddd eee", " fff ggg"]
    assert texts[3:] == [" " + "y" * 10, "y" * 11, "y" * 9 + " z", "end"]


def test_a_file_that_is_one_sentence(tmp_path):
    """Without blank lines all of it is: cutting takes time in proportion to it, not to its square."""
    ids = np.tile(np.array([6, 7, 38], np.uint16), 400_000)
    marks = np.tile(np.array([START, INSIDE, SPECIAL], np.int8), 400_000)
    labels = np.zeros(len(ids), np.int64)
    arrays = {"tokens": ids, "marks": marks, "labels": labels, "offsets": np.array([0, len(ids)])}
    examples = save(tmp_path, arrays, 11)  # three words and their spaces, and no part of a fourth
    assert len(examples) == 400_000 // 3
    lengths = np.diff(examples.spans, axis=1).ravel()
    assert lengths.sum() == len(ids) and set(lengths[1:-1].tolist()) == {9}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", [0] * 4, "4 labels of 'train', not 5"),
        ("offsets", [0, 6, 5], "train.offsets.npy must go from 0 to 5 and never decrease"),
    ],
)
def test_labels_that_do_not_go_with_the_words(tmp_path, name, values, message):
    arrays = encode(BYTES, [[("ab", 1)], [("cde", 2)]])
    assert len(save(tmp_path, arrays, 11)) == 2
    with pytest.raises(ValueError, match=f"is damaged, delete it: {message}"):
        save(tmp_path, {**arrays, name: np.array(values)}, 11)
