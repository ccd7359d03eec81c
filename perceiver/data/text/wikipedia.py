"""Wikipedia: whole articles, one per row."""

from typing import Any

from perceiver.data.hub import HubSplits, SplitOff
from perceiver.data.module import former_argument
from perceiver.data.text.common import TextDataModule


@former_argument("repo_id", "source")
class WikipediaDataModule(TextDataModule):
    """Articles of Wikipedia; those for validation are drawn from all, the same each time.

    Args:
        dataset_dir: folder for preprocessed text.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with a column `text`.
        config_name: date and language of the dump.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        source_train_size: share or number of articles for training; None takes all that are not for validation.
        source_valid_size: share or number of articles for validation.
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/wikipedia",
        *,
        source: str = "wikimedia/wikipedia",
        config_name: str | None = "20231101.en",
        revision: str | None = None,
        source_train_size: float | int | None = None,
        source_valid_size: float | int = 0.05,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        articles = HubSplits(source, config_name, revision, {"train": "train"}, num_workers=self.preproc_workers)
        self.raw_data = SplitOff(articles, source_train_size, source_valid_size, scattered=True)
