"""IMDb: 50,000 film reviews that are negative or positive, and 50,000 without a label (Maas et al., 2011)."""

from typing import Any

from perceiver.data.hub import HubSplits
from perceiver.data.module import former_argument
from perceiver.data.text.common import Task, TextDataModule


@former_argument("repo_id", "source")
class ImdbDataModule(TextDataModule):
    """IMDb reviews.

    Task clf trains with the 25,000 labelled reviews of the split "train". Tasks mlm and clm train with the 50,000 of
    the split "unsupervised". Validation and test text are both the split "test", as in the published recipe: choose no
    settings by it that you report a test result for.

    Args:
        dataset_dir: folder for preprocessed text.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with the columns `text` and
            `label`.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        **kwargs: see `TextDataModule`.
    """

    tasks = (Task.mlm, Task.clm, Task.clf)
    given_label_names = ["neg", "pos"]

    def __init__(
        self,
        dataset_dir: str = ".cache/imdb",
        *,
        source: str = "stanfordnlp/imdb",
        config_name: str | None = "plain_text",
        revision: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        splits = {"train": "train" if self.task is Task.clf else "unsupervised", "valid": "test", "test": "test"}
        self.raw_data = HubSplits(source, config_name, revision, splits, num_workers=self.preproc_workers)
