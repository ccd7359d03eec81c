"""BookCorpus, a sentence per row, and BookCorpusOpen, a book per row (arXiv 1506.06724, 2105.05241)."""

from typing import Any

from perceiver.data.hub import HubSplits, SplitOff
from perceiver.data.module import former_argument
from perceiver.data.text.common import TextDataModule


@former_argument("repo_id", "source")
class BookCorpusDataModule(TextDataModule):
    """Sentences of books, in the order of the books. The last ones are for validation: neighbours are not apart.

    Args:
        dataset_dir: folder for preprocessed text.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with a column `text`.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. The default one has the data as Parquet files; the main branch has a
            script, which the library `datasets` no longer runs.
        source_train_size: share or number of sentences for training; None takes all that are not for validation.
        source_valid_size: share or number of sentences for validation.
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/bookcorpus",
        *,
        source: str = "bookcorpus/bookcorpus",
        config_name: str | None = None,
        revision: str | None = "refs/convert/parquet",
        source_train_size: float | int | None = None,
        source_valid_size: float | int = 0.05,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, **kwargs)
        documents = HubSplits(source, config_name, revision, {"train": "train"}, num_workers=self.preproc_workers)
        self.raw_data = SplitOff(documents, source_train_size, source_valid_size, scattered=False)


@former_argument("repo_id", "source")
class BookCorpusOpenDataModule(TextDataModule):
    """Whole books; those for validation are drawn from all, the same each time.

    A preprocessing worker holds `preproc_batch_size` books in memory, a few hundred kilobytes each.

    Args:
        dataset_dir: folder for preprocessed text.
        source: where the data is: a hub id, or a local folder in the layout of the hub, with a column `text`.
        config_name: configuration of the data set.
        revision: commit, tag or branch on the hub. What is cached for a branch stays as it is when the branch moves.
        source_train_size: share or number of books for training; None takes all that are not for validation.
        source_valid_size: share or number of books for validation.
        preproc_batch_size: books that a preprocessing worker holds in memory.
        **kwargs: see `TextDataModule`.
    """

    def __init__(
        self,
        dataset_dir: str = ".cache/bookcorpusopen",
        *,
        source: str = "lucadiliello/bookcorpusopen",
        config_name: str | None = None,
        revision: str | None = None,
        source_train_size: float | int | None = None,
        source_valid_size: float | int = 0.05,
        preproc_batch_size: int = 50,
        **kwargs: Any,
    ):
        super().__init__(dataset_dir, preproc_batch_size=preproc_batch_size, **kwargs)
        documents = HubSplits(source, config_name, revision, {"train": "train"}, num_workers=self.preproc_workers)
        self.raw_data = SplitOff(documents, source_train_size, source_valid_size, scattered=True)
