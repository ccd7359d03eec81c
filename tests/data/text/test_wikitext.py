"""A local folder in the layout of `Salesforce/wikitext` in place of the hub."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from perceiver.data.text.wikitext import WikiTextDataModule

LINES = {
    "train": ["", " = Robert <unk> = \n", "", " Robert is an actor . \n"] * 8,
    "validation": ["", " = Homarus = \n", " A lobster . \n"] * 4,
    "test": [" = Ship = \n", " It sank . \n"] * 3,
}
README = """---
configs:
{}---
"""
CONFIG = """- config_name: {name}
  data_files:
"""
DATA_FILE = """  - split: {split}
    path: {name}/{split}-*
"""


def hub_folder(path: Path, splits: tuple[str, ...] = tuple(LINES)) -> Path:
    configs = ""
    for name in ("wikitext-2-raw-v1", "wikitext-103-raw-v1"):
        configs += CONFIG.format(name=name)
        (path / name).mkdir(parents=True)
        for split in splits:
            configs += DATA_FILE.format(name=name, split=split)
            lines = LINES[split] if name == "wikitext-103-raw-v1" else LINES[split][:4]
            Dataset.from_dict({"text": lines}).to_parquet(path / name / f"{split}-00000-of-00001.parquet")
    (path / "README.md").write_text(README.format(configs))
    return path


@pytest.fixture
def module(tmp_path, byte_tokenizer_dir):
    def make(**kwargs: object) -> WikiTextDataModule:
        data = WikiTextDataModule(
            str(tmp_path / "cache"),
            source=str(tmp_path / "wikitext"),
            tokenizer=byte_tokenizer_dir,
            **{"max_seq_len": 32, "num_workers": 0, **kwargs},
        )
        data.prepare_data()
        data.setup()
        return data

    return make


def test_splits(tmp_path, module):
    hub_folder(tmp_path / "wikitext")
    data = module()
    for loader, split in ((data.val_dataloader(), "validation"), (data.test_dataloader(), "test")):
        real = [torch.where(labels == -100, ids, labels)[~pad] for labels, ids, pad in loader]
        assert data.tokenizer.decode(torch.cat(real)) == "".join(LINES[split])
    assert sum(int((~pad).sum()) for _, _, pad in data.train_dataloader()) == len("".join(LINES["train"]))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [data.cache_dir.name]  # no copy of the raw text


def test_config_and_files_are_part_of_the_cache_key(tmp_path, module):
    hub_folder(tmp_path / "wikitext")
    big, small = module(), module(config_name="wikitext-2-raw-v1")
    assert len(small.chunks["train"].tokens) < len(big.chunks["train"].tokens)
    Dataset.from_dict({"text": ["new"]}).to_parquet(
        tmp_path / "wikitext" / "wikitext-103-raw-v1" / "test-00000-of-00001.parquet"
    )
    assert len(module().chunks["test"].tokens) == 3


def test_the_order_of_the_file_system_is_not_part_of_the_cache_key(tmp_path, monkeypatch):
    folder = hub_folder(tmp_path / "wikitext")
    identity = WikiTextDataModule(source=str(folder), tokenizer="unused", max_seq_len=32).raw_data.identity
    found, names = list(folder.rglob("*")), identity()["files"]
    assert len(names) == 7
    for order in (found, found[::-1]):
        monkeypatch.setattr(Path, "rglob", lambda self, pattern, order=order: iter(order))
        assert identity()["files"] == names


def test_bad_folders(tmp_path, module):
    hub_folder(tmp_path / "wikitext", ("train", "test"))
    with pytest.raises(ValueError, match=r"has no split \['validation'\], only \['test', 'train'\]"):
        module()
    with pytest.raises(ValueError, match=r"'wikitext-9' not found\. Available: .*wikitext-103-raw-v1"):
        module(config_name="wikitext-9")


def test_defaults_are_the_hubs():
    data = WikiTextDataModule(tokenizer="deepmind/language-perceiver", max_seq_len=512)
    source = data.raw_data
    assert (source.repo_id, source.config_name, source.revision) == ("Salesforce/wikitext", "wikitext-103-raw-v1", None)
