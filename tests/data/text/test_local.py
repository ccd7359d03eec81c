"""Files, folders, patterns; line breaks; the split by lines; unreadable input."""

import os

import pytest

from perceiver.data.text.files import find_files
from perceiver.data.text.local import LocalTextDataModule


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_bytes("two\r\n\nthrée\n".encode())
    (folder / "a.txt").write_bytes(b"one\nlast line without a break")
    (folder / "sub" / "c.txt").write_bytes(b"four\n")
    (folder / "d.md").write_bytes(b"five\n")
    return folder


@pytest.fixture
def corpus(tmp_path, byte_tokenizer_dir):
    """Text of each split."""

    def read(**kwargs: object) -> dict[str, str]:
        data = LocalTextDataModule(str(tmp_path / "cache"), tokenizer=byte_tokenizer_dir, max_seq_len=8, **kwargs)
        data.prepare_data()
        data.setup()
        return {split: data.tokenizer.decode(chunks.tokens.tolist()) for split, chunks in data.chunks.items()}

    return read


def test_find_files(texts):
    a, b, c, d = (str(texts / name) for name in ("a.txt", "b.txt", "sub/c.txt", "d.md"))
    assert find_files(str(texts)) == find_files(texts) == find_files([texts]) == [a, b, c]
    assert find_files([str(texts / "*.txt"), d]) == [a, b, d]
    assert find_files(str(texts / "**" / "c*")) == [c]
    for nothing in ("missing.txt", "*.csv"):
        with pytest.raises(ValueError, match="is no file, no folder with"):
            find_files(str(texts / nothing))


def test_text_to_train_on_is_needed():
    with pytest.raises(ValueError, match="train_files=None must name files"):
        LocalTextDataModule(train_files=None, tokenizer="bytes", max_seq_len=8).prepare_data()


def test_text_is_kept_and_split_by_lines(texts, corpus):
    assert corpus(train_files=str(texts), valid_fraction=0.3) == {
        "train": "one\nlast line without a breaktwo\n\n",
        "valid": "thrée\nfour\n",
    }


def test_validation_files(texts, corpus):
    assert corpus(train_files=[str(texts / "b.txt")], valid_files=str(texts / "d.md")) == {
        "train": "two\n\nthrée\n",
        "valid": "five\n",
    }


@pytest.mark.parametrize("name", ["log[1].txt", "a::b.txt"])
def test_names_are_taken_as_they_are(texts, corpus, name):
    (texts / name).write_text("this one\n")
    (texts / "log1.txt").write_text("not this one\n")
    assert corpus(train_files=str(texts / name), valid_files=str(texts / "d.md"))["train"] == "this one\n"


def test_the_order_of_files_is_part_of_the_cache_key(texts, corpus):
    a, c = str(texts / "a.txt"), str(texts / "sub" / "c.txt")
    expected = {(a, c): "four\n", (c, a): "last line without a break"}
    for files, valid in expected.items():
        assert corpus(train_files=list(files), valid_fraction=0.3)["valid"] == valid


def test_a_file_is_read_once(texts, corpus):
    a, b, link = texts / "a.txt", texts / "b.txt", texts / "link.txt"
    link.symlink_to(a)
    found = find_files([str(b), str(texts / "*.txt"), str(a), str(texts / "sub" / ".." / "b.txt")])
    assert found == [str(b), str(a)]
    split = corpus(train_files=[str(a), str(texts / "a*"), str(link)], valid_files=str(texts / "d.md"))
    assert split["train"] == "one\nlast line without a break"


def test_files_for_training_and_validation_are_an_error(texts, corpus):
    with pytest.raises(ValueError, match=r"^\['\S*b\.txt'\] are in train_files and in valid_files"):
        corpus(train_files=str(texts), valid_files=[str(texts / "d.md"), str(texts / "b.txt")])


def test_a_changed_file_is_read_again(texts, corpus):
    files = {"train_files": str(texts / "b.txt"), "valid_files": str(texts / "d.md")}
    corpus(**files)
    (texts / "d.md").write_text("six")
    assert corpus(**files)["valid"] == "six"


def test_bad_input(texts, corpus):
    (texts / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"cannot read .*latin.txt as .txt: it is not UTF-8 near byte 3: .* byte 0xe9"):
        corpus(train_files=str(texts / "latin.txt"), valid_files=str(texts / "d.md"))
    with pytest.raises(ValueError, match=r"1 documents cannot be split into all others for training and 0\.05"):
        corpus(train_files=str(texts / "d.md"))
    with pytest.raises(ValueError, match=r"valid_fraction=1 must be in \(0, 1\)"):
        corpus(train_files=str(texts), valid_fraction=1)
    (texts / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.txt'\]: all files are empty"):
        corpus(train_files=str(texts / "a.txt"), valid_files=str(texts / "empty.txt"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(texts):
    (texts / "a.txt").chmod(0)
    with pytest.raises(ValueError, match=r"cannot read .*a.txt: .*Permission denied"):
        find_files(str(texts))
