"""Names of perceiver-io 0.8 to 0.11 that are elsewhere now, or no more.

A module that had such names ends with `__getattr__ = moved_names(__name__)`, so that their former imports work, or say
what to use instead. docs/migration/perceiver-io-0.11.md lists all names.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_CONFIGS = (
    "CausalSequenceModelConfig",
    "DecoderConfig",
    "EncoderConfig",
    "PerceiverARConfig",
    "PerceiverIOConfig",
)
_MODULES = (
    "CausalSequenceModel",
    "CrossAttention",
    "InputAdapter",
    "MLP",
    "MultiHeadAttention",
    "PerceiverAR",
    "PerceiverDecoder",
    "PerceiverEncoder",
    "PerceiverIO",
    "QueryProvider",
    "SelfAttention",
    "SelfAttentionBlock",
    "TrainableQueryProvider",
)

# Former module -> name in it -> module where it is now.
MOVED: dict[str, dict[str, str]] = {
    "perceiver.data.text.common": {"TextPreprocessor": "perceiver.processing.text"},
    "perceiver.data.vision.imagenet": {"ImageNetPreprocessor": "perceiver.processing.image"},
    "perceiver.data.vision.mnist": {"MNISTPreprocessor": "perceiver.processing.image"},
    "perceiver.model.core": {
        **dict.fromkeys(_MODULES, "perceiver.model.core.modules"),
        **dict.fromkeys((*_CONFIGS, "ClassificationDecoderConfig"), "perceiver.model.core.config"),
    },
    "perceiver.model.text.mlm.utils": {"MaskFiller": "perceiver.model.text.mlm.mask_filler"},
}

_LAYER = "is AttentionLayer now, of an attention ({}) and an MLP: docs/building-blocks.md"
_OUTPUT = "is any torch module now that turns (B, O, F) into the output, TokenOutputAdapter or nn.Linear for example"
# Former module -> name in it -> what became of it.
GONE: dict[str, dict[str, str]] = {
    "perceiver.data.text.collator": {
        "RandomTruncateCollator": "is no collator now but an argument, TextDataModule(random_train_truncation=True)",
    },
    "perceiver.data.text.common": {
        "RandomShiftDataset": "is no data set now but an argument, TextDataModule(random_train_shift=True)",
    },
    "perceiver.model.core": {"OutputAdapter": _OUTPUT},
    "perceiver.model.core.modules": {
        "CrossAttentionLayer": _LAYER.format("CrossAttention, or PrefixCrossAttention in Perceiver AR"),
        "OutputAdapter": _OUTPUT,
        "SelfAttentionLayer": _LAYER.format("SelfAttention"),
    },
}


def moved_names(module: str) -> Callable[[str], Any]:
    """`__getattr__` of a module that had names which are elsewhere now.

    A name that is no more is an ImportError that says what became of it: an AttributeError would not be seen by who
    imports it.
    """

    def getattr_(name: str) -> Any:
        if name in MOVED.get(module, {}):
            return getattr(import_module(MOVED[module][name]), name)
        if name in GONE.get(module, {}):
            raise ImportError(f"{module}.{name} of perceiver-io 0.11 {GONE[module][name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_
