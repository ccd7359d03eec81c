"""Text data: Lightning data modules, the preprocessor for inference, tokenisation, masking.

```
common.py        Task, TextDataModule: tokenise once, cache, serve batches of chunks, masked or with their next tokens
wikitext.py      WikiTextDataModule     local.py  LocalTextDataModule     pydoc.py  PydocTextDataModule
tokenization.py  text -> flat arrays of token ids and word marks; UTF-8 bytes vectorised, or any fast tokenizer
corpus.py        the cache on disk (written once, atomically) and its view as chunks, random shift and truncation
collator.py      whole-word and token masking, padding
streams.py       random numbers by (purpose, seed, epoch, example)
loader.py        the training loader: order by (seed, epoch), resumable in the middle of an epoch
preprocessor.py  TextPreprocessor: text -> model input, for inference (no Lightning)
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names

if TYPE_CHECKING:
    from perceiver.data.text.common import Task, TextDataModule
    from perceiver.data.text.local import LocalTextDataModule
    from perceiver.data.text.preprocessor import TextPreprocessor
    from perceiver.data.text.pydoc import PydocTextDataModule
    from perceiver.data.text.wikitext import WikiTextDataModule

__all__ = [
    "LocalTextDataModule",
    "PydocTextDataModule",
    "Task",
    "TextDataModule",
    "TextPreprocessor",
    "WikiTextDataModule",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LocalTextDataModule": "local",
        "PydocTextDataModule": "pydoc",
        "Task": "common",
        "TextDataModule": "common",
        "TextPreprocessor": "preprocessor",
        "WikiTextDataModule": "wikitext",
    },
)
