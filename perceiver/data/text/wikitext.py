"""WikiText: articles of Wikipedia, a paragraph or heading per row (arXiv 1609.07843)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from perceiver.data.text.common import TextDataModule
from perceiver.data.text.local import file_stamps

SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # our name: the hub's


class WikiTextDataModule(TextDataModule):
    """WikiText, or any data set with the splits train, validation, test and a column `text`.

    Args:
        dataset_dir: folder for preprocessed text.
        repo_id: hub id, or a local folder in the layout of the hub.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/wikitext",
        *,
        repo_id: str = "Salesforce/wikitext",
        config_name: str | None = "wikitext-103-raw-v1",
        revision: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        self.repo_id, self.config_name, self.revision = repo_id, config_name, revision

    def identity(self) -> dict[str, Any]:
        folder = Path(self.repo_id)
        files = file_stamps(path for path in sorted(folder.rglob("*")) if path.is_file()) if folder.is_dir() else []
        return {"repo_id": self.repo_id, "config_name": self.config_name, "revision": self.revision, "files": files}

    def load(self, work_dir: Path) -> Mapping[str, datasets.Dataset]:
        splits = datasets.load_dataset(
            self.repo_id, self.config_name, revision=self.revision, cache_dir=str(work_dir / "hub")
        )
        missing = set(SPLITS.values()) - set(splits)
        if missing:
            raise ValueError(f"{self.repo_id} has no split {sorted(missing)}, only {sorted(splits)}")
        return {ours: splits[theirs] for ours, theirs in SPLITS.items()}
