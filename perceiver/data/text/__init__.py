"""Text data: Lightning data modules, the preprocessor for inference, tokenisation, masking.

```
common.py        Task, TextDataModule: chunks, masked or with their next tokens, or documents with a class each
                 WikiTextDataModule (wikitext.py), ImdbDataModule (imdb.py), WikipediaDataModule (wikipedia.py),
                 BookCorpusDataModule and BookCorpusOpenDataModule (bookcorpus.py), Enwik8DataModule (enwik8.py),
                 PydocTextDataModule (pydoc.py), LocalTextDataModule (local.py): what text, its leaves
words.py         WordLabelsDataModule: words with a label each, of the hub or of files
c4.py            C4DataModule, over streaming.py: batches of a stream, resumed exactly
files.py         local and remote files as a source; rows.py: lines, JSON, CSV, Parquet and CoNLL as Arrow batches
encoders.py      what preprocessing does to a batch of documents
corpus.py        tokenised text on disk, and its views as examples
collator.py      whole-word and token masking, padding
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.data.text.bookcorpus import (
        BookCorpusDataModule as BookCorpusDataModule,
        BookCorpusOpenDataModule as BookCorpusOpenDataModule,
    )
    from perceiver.data.text.c4 import C4DataModule as C4DataModule
    from perceiver.data.text.common import Task as Task, TextDataModule as TextDataModule
    from perceiver.data.text.enwik8 import Enwik8DataModule as Enwik8DataModule
    from perceiver.data.text.imdb import ImdbDataModule as ImdbDataModule
    from perceiver.data.text.local import LocalTextDataModule as LocalTextDataModule
    from perceiver.data.text.pydoc import PydocTextDataModule as PydocTextDataModule
    from perceiver.data.text.wikipedia import WikipediaDataModule as WikipediaDataModule
    from perceiver.data.text.wikitext import WikiTextDataModule as WikiTextDataModule
    from perceiver.data.text.words import (
        LocalTokenClassificationDataModule as LocalTokenClassificationDataModule,
        TokenClassificationDataModule as TokenClassificationDataModule,
        WordLabelsDataModule as WordLabelsDataModule,
    )
    from perceiver.processing.text import TextPreprocessor as TextPreprocessor

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
