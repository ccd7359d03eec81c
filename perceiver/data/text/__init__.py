"""Text data: Lightning data modules, the preprocessor for inference, tokenisation, masking.

```
base.py          tokenise once, cache, serve batches
common.py        Task, TextDataModule: chunks, masked or with their next tokens, or documents with a class each
hub.py           the base of WikiTextDataModule (wikitext.py), ImdbDataModule (imdb.py), WikipediaDataModule
                 (wikipedia.py), BookCorpusDataModule and BookCorpusOpenDataModule (bookcorpus.py)
enwik8.py        Enwik8DataModule     local.py  LocalTextDataModule     pydoc.py  PydocTextDataModule
words.py         TokenClassificationDataModule, LocalTokenClassificationDataModule: words with a label each
c4.py            C4DataModule, over streaming.py: batches of a stream, resumed exactly
files.py         local and remote files of lines, JSON, CSV, Parquet as Arrow batches
tokenization.py  text -> flat arrays of token ids and word marks; UTF-8 bytes vectorised, or any fast tokenizer
encoders.py      what preprocessing does to a batch of documents, and labels
corpus.py        the cache on disk (written once, atomically) and its views as examples
collator.py      whole-word and token masking, padding
preprocessor.py  TextPreprocessor: text -> model input, for inference (no Lightning)
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names

if TYPE_CHECKING:
    from perceiver.data.text.bookcorpus import BookCorpusDataModule, BookCorpusOpenDataModule
    from perceiver.data.text.c4 import C4DataModule
    from perceiver.data.text.common import Task, TextDataModule
    from perceiver.data.text.enwik8 import Enwik8DataModule
    from perceiver.data.text.imdb import ImdbDataModule
    from perceiver.data.text.local import LocalTextDataModule
    from perceiver.data.text.preprocessor import TextPreprocessor
    from perceiver.data.text.pydoc import PydocTextDataModule
    from perceiver.data.text.wikipedia import WikipediaDataModule
    from perceiver.data.text.wikitext import WikiTextDataModule
    from perceiver.data.text.words import (
        LocalTokenClassificationDataModule,
        TokenClassificationDataModule,
        WordLabelsDataModule,
    )

__all__ = [
    "BookCorpusDataModule",
    "BookCorpusOpenDataModule",
    "C4DataModule",
    "Enwik8DataModule",
    "ImdbDataModule",
    "LocalTextDataModule",
    "LocalTokenClassificationDataModule",
    "PydocTextDataModule",
    "Task",
    "TextDataModule",
    "TextPreprocessor",
    "TokenClassificationDataModule",
    "WikiTextDataModule",
    "WikipediaDataModule",
    "WordLabelsDataModule",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BookCorpusDataModule": "bookcorpus",
        "BookCorpusOpenDataModule": "bookcorpus",
        "C4DataModule": "c4",
        "Enwik8DataModule": "enwik8",
        "ImdbDataModule": "imdb",
        "LocalTextDataModule": "local",
        "LocalTokenClassificationDataModule": "words",
        "PydocTextDataModule": "pydoc",
        "Task": "common",
        "TextDataModule": "common",
        "TextPreprocessor": "preprocessor",
        "TokenClassificationDataModule": "words",
        "WikiTextDataModule": "wikitext",
        "WikipediaDataModule": "wikipedia",
        "WordLabelsDataModule": "words",
    },
)
