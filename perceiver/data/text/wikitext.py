"""WikiText: articles of Wikipedia, a paragraph or heading per row (arXiv 1609.07843)."""

from typing import Any

from perceiver.data.hub import HubSplits
from perceiver.data.module import former_argument
from perceiver.data.text.common import TextDataModule


@former_argument("repo_id", "source")
class WikiTextDataModule(TextDataModule):
    """WikiText, or any data set with the splits train, validation, test and a column `text`.

    Args:
        dataset_dir: folder for preprocessed text.
        source: where the data is: a hub id, or a local folder in the layout of the hub.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/wikitext",
        *,
        source: str = "Salesforce/wikitext",
        config_name: str | None = "wikitext-103-raw-v1",
        revision: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        splits = {"train": "train", "valid": "validation", "test": "test"}
        self.raw_data = HubSplits(source, config_name, revision, splits, num_workers=self.preproc_workers)
