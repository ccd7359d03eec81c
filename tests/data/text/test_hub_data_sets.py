"""Local folders in the layout of each hub data set in place of it."""

import zipfile
from pathlib import Path

import pytest
from datasets import Dataset

from perceiver.data.text import (
    BookCorpusDataModule,
    BookCorpusOpenDataModule,
    Enwik8DataModule,
    ImdbDataModule,
    LocalTextDataModule,
    Task,
    TextDataModule,
    WikipediaDataModule,
    WikiTextDataModule,
)
from tests.archives import encrypt

TOKENIZER = "deepmind/language-perceiver"


def prepared(data: TextDataModule) -> TextDataModule:
    data.prepare_data()
    data.setup()
    return data


def text_of(data: TextDataModule, split: str) -> str:
    return data.tokenizer.decode(data.chunks[split].tokens.tolist())


def imdb_folder(folder: Path, labels: tuple[int, ...] = (0, 1), column: str = "label") -> str:
    (folder / "plain_text").mkdir(parents=True)
    for split in ("train", "test", "unsupervised"):
        rows = [(f"{split} review {i} ", -1 if split == "unsupervised" else labels[i % len(labels)]) for i in range(12)]
        table = {"text": [text for text, _ in rows], column: [label for _, label in rows]}
        Dataset.from_dict(table).to_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {s}\n    path: plain_text/{s}-*\n" for s in ("train", "test", "unsupervised"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: plain_text\n  data_files:\n{files}---\n")
    return str(folder)


@pytest.fixture
def options(tmp_path, byte_tokenizer_dir):
    return {
        "tokenizer": byte_tokenizer_dir,
        "max_seq_len": 16,
        "num_workers": 0,
        "dataset_dir": str(tmp_path / "cache"),
    }


@pytest.mark.parametrize("task", [Task.mlm, Task.clm])
def test_imdb_language_modelling(tmp_path, options, task):
    data = prepared(ImdbDataModule(source=imdb_folder(tmp_path / "imdb"), task=task, **options))
    assert text_of(data, "train") == "".join(f"unsupervised review {i} " for i in range(12))
    assert text_of(data, "valid") == text_of(data, "test") == "".join(f"test review {i} " for i in range(12))


def test_imdb_classification(tmp_path, options):
    data = ImdbDataModule(source=imdb_folder(tmp_path / "imdb"), task=Task.clf, batch_size=5, **options)
    assert (data.label_names, data.num_classes) == (["neg", "pos"], 2)
    prepared(data)
    assert text_of(data, "train") == "".join(f"train review {i} " for i in range(12))
    labels, input_ids, pad_mask = next(iter(data.val_dataloader()))
    assert labels.tolist() == [0, 1, 0, 1, 0]
    assert input_ids.shape == pad_mask.shape == (5, 14)
    assert data.tokenizer.decode(input_ids[3]) == "test review 3 "


def test_bad_imdb(tmp_path, options):
    with pytest.raises(ValueError, match=r"label 2 in column 'label' must be in \[0, 2\), one of \['neg', 'pos'\]"):
        prepared(ImdbDataModule(source=imdb_folder(tmp_path / "a", (0, 1, 2)), task=Task.clf, **options))
    with pytest.raises(ValueError, match=r"split 'train' has no column 'label', only \['text', 'stars'\]"):
        prepared(ImdbDataModule(source=imdb_folder(tmp_path / "b", column="stars"), task=Task.clf, **options))
    damaged = tmp_path / "b" / "plain_text" / "train-00000-of-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot load .*"):
        prepared(ImdbDataModule(source=str(tmp_path / "b"), **options))
    with pytest.raises(ValueError, match=r"cannot load .*missing"):
        prepared(ImdbDataModule(source=str(tmp_path / "missing"), **options))


@pytest.mark.parametrize("module", [WikipediaDataModule, BookCorpusDataModule, BookCorpusOpenDataModule])
def test_data_sets_without_validation_split(tmp_path, options, module):
    """A plain folder of JSON lines, whose name says the split."""
    (tmp_path / "hub").mkdir()
    Dataset.from_dict({"title": ["t"] * 20, "text": [f"{i:02} " for i in range(20)]}).to_json(
        tmp_path / "hub/train.jsonl"
    )
    source = {"source": str(tmp_path / "hub"), "config_name": None, "revision": None}
    data = prepared(module(source_valid_size=0.2, **source, **options))
    train, valid = (text_of(data, split).split() for split in ("train", "valid"))
    assert len(valid) == 4
    assert sorted(train + valid) == [f"{i:02}" for i in range(20)]
    assert (train, valid) == (sorted(train), sorted(valid))
    assert (valid == ["16", "17", "18", "19"]) is (module is BookCorpusDataModule)  # the others draw documents
    again = prepared(module(source_train_size=5, source_valid_size=4, **source, **options))
    assert text_of(again, "valid").split() == valid
    assert text_of(again, "train").split() == train[:5]
    with pytest.raises(ValueError, match="20 documents cannot be split into 17 for training and 4 for validation"):
        prepared(module(source_train_size=17, source_valid_size=4, **source, **options))
    for size in (0, 1.5, -1):
        with pytest.raises(ValueError, match=rf"source_valid_size={size} must be a share in \(0, 1\) or a number"):
            module(source_valid_size=size, **source, **options)


def test_enwik8(tmp_path, options):
    """Exactly the bytes of the file; splits end between characters; archives and plain files are the same."""
    content = ("<page>häßlich</page>\r\n☕☕☕☕\n" * 40).encode()
    raw = tmp_path / "enwik8"
    raw.write_bytes(content)
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as archive:
        archive.write(raw, "enwik8")
    for source in (raw, tmp_path / "enwik8.zip"):
        data = prepared(Enwik8DataModule(source=str(source), task=Task.clm, **options))
        splits = [bytes((data.chunks[s].tokens - 6).astype("uint8")) for s in ("train", "valid", "test")]
        assert b"".join(splits) == content
        stops = [len(content) * share // 100 for share in (90, 95)]
        ends = [len(splits[0]), len(splits[0]) + len(splits[1])]
        assert all(0 <= stop - end <= 3 for stop, end in zip(stops, ends, strict=True))
        for split in splits:
            split.decode()
        assert data.bytes_per_token == 1.0


def test_bad_enwik8(tmp_path, options):
    for name, content, message in (
        ("short", b"ab", "has 2 bytes: too few to split"),
        ("latin", b"caf\xe9" * 99, "cannot read .*latin: .*0xe9"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            prepared(Enwik8DataModule(source=str(tmp_path / name), **options))
    with pytest.raises(ValueError, match="'missing' is no file"):
        prepared(Enwik8DataModule(source="missing", **options))
    assert (
        Enwik8DataModule(tokenizer=TOKENIZER, max_seq_len=8).raw_data.source == "https://mattmahoney.net/dc/enwik8.zip"
    )


def test_defaults_are_the_hubs():
    modules = {
        ImdbDataModule: ("stanfordnlp/imdb", "plain_text", None),
        WikiTextDataModule: ("Salesforce/wikitext", "wikitext-103-raw-v1", None),
        WikipediaDataModule: ("wikimedia/wikipedia", "20231101.en", None),
        BookCorpusDataModule: ("bookcorpus/bookcorpus", None, "refs/convert/parquet"),
        BookCorpusOpenDataModule: ("lucadiliello/bookcorpusopen", None, None),
    }
    for module, defaults in modules.items():
        data = module(tokenizer=TOKENIZER, max_seq_len=8)
        identity = data.raw_data.identity()
        assert (identity["repo_id"], identity["config_name"], identity["revision"]) == defaults
        supported = {task for task in Task if _accepts(module, task)}
        assert supported == {Task.mlm, Task.clm, *([Task.clf] if module is ImdbDataModule else [])}
    assert LocalTextDataModule.tasks == (Task.mlm, Task.clm, Task.clf)


def _accepts(module: type[TextDataModule], task: Task) -> bool:
    try:
        module(tokenizer=TOKENIZER, max_seq_len=8, task=task)
    except ValueError as error:
        assert f"task={task} is not supported by {module.__name__}, only Task.mlm and Task.clm" in str(error)
        return False
    return True


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("key.json", "{}", "was made with format_version=None, not 5: delete it"),
        ("key.json", '{"format_version": 2}', "was made with format_version=2, not 5: delete it"),
        ("key.json", "[]", "is no cache of this version, delete it: key.json holds"),
        ("key.json", "{", "is no cache of this version, delete it: "),
        ("train.tokens.npy", "", "is damaged, delete it: train.tokens.npy is not what was written"),
        ("train.marks.npy", None, "is damaged, delete it: train.marks.npy is not what was written"),
        ("valid.labels.npy", None, "is damaged, delete it: valid.labels.npy is not what was written"),
    ],
)
def test_a_cache_that_another_version_wrote_or_that_is_damaged(tmp_path, options, file, content, message):
    data = prepared(ImdbDataModule(source=imdb_folder(tmp_path / "imdb"), task=Task.clf, **options))
    (data.cache_dir / file).unlink()
    if content is not None:
        (data.cache_dir / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        prepared(data)


def test_enwik8_has_a_limit(tmp_path, options):
    """Of the file, of the archive and of what is in it."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", "a line\n" * 1000)
    (tmp_path / "b").write_text("a line\n" * 1000)
    for name, max_bytes in {"a.zip": 6999, "b": 6999}.items():
        with pytest.raises(ValueError, match=rf"cannot read .*{name}: it has more than max_bytes={max_bytes} bytes"):
            prepared(Enwik8DataModule(source=str(tmp_path / name), max_bytes=max_bytes, **options))
        prepared(Enwik8DataModule(source=str(tmp_path / name), max_bytes=7000, **options))


def test_enwik8_in_an_encrypted_archive(tmp_path, options):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("enwik8", "a line\n" * 100)
    encrypt(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"cannot read .*a.zip: .* encrypted"):
        prepared(Enwik8DataModule(source=str(tmp_path / "a.zip"), **options))
