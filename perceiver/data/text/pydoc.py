"""English text that every Python carries: the language reference behind `help()`, in `pydoc_data.topics`.

About 350,000 characters in 79 topics: enough to see a small model learn, without a download. The text is that of the
running Python, so its numbers compare only within a Python version.
"""

import hashlib
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets

from perceiver.data.text.common import TextDataModule


class PydocTextDataModule(TextDataModule):
    """The topics of `pydoc_data`, one document each; of every eight one is for validation, one for test.

    Args:
        dataset_dir: folder for preprocessed text.
        **kwargs: see `TextDataModule`.
    """

    def __init__(self, dataset_dir: str = ".cache/pydoc", **kwargs: Any):
        super().__init__(dataset_dir, **kwargs)
        self.raw_data = Topics()


class Topics:
    """The source of the text."""

    def identity(self) -> dict[str, Any]:
        return {"text": hashlib.sha256(repr(split_topics()).encode()).hexdigest()}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        return {split: datasets.Dataset.from_dict({"text": texts}) for split, texts in split_topics().items()}


def split_topics() -> dict[str, list[str]]:
    """Texts of the splits "train", "valid" and "test", in the order of the topics' names.

    A quarter of the text is in several topics ("if" is also a section of "compound"). A paragraph is kept only where it
    comes first, so that nothing in a held-out topic was seen in training.
    """
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    seen = {""}
    for number, name in enumerate(sorted(topics)):
        paragraphs = []
        for paragraph in topics[name].split("\n\n"):
            if paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                paragraphs.append(paragraph.strip("\n"))
        if paragraphs:
            split = {3: "valid", 7: "test"}.get(number % 8, "train")
            splits[split].append("".join(f"{paragraph}\n\n" for paragraph in paragraphs))
    return splits
