"""Symbolic audio model: music as events of MIDI files.

Importing this package registers the model with transformers' Auto classes, and the pipeline
`symbolic-audio-generation`, if transformers is installed. Modeling code of transformers and Lightning are imported when
something that needs them is first used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names
from perceiver.model.audio.symbolic.backend import (
    SymbolicAudioModel,
    SymbolicAudioModelConfig,
    perceiver_ar_giantmidi,
    perceiver_ar_maestro,
)

if TYPE_CHECKING or find_spec("transformers"):
    from perceiver.model.audio.symbolic.huggingface_config import PerceiverSymbolicAudioModelConfig
if TYPE_CHECKING:
    from perceiver.model.audio.symbolic.huggingface import (
        PerceiverSymbolicAudioModel,
        ReturnType,
        SymbolicAudioGenerationPipeline,
        convert_checkpoint,
    )
    from perceiver.model.audio.symbolic.lightning import LitSymbolicAudioModel

__all__ = [
    "LitSymbolicAudioModel",
    "PerceiverSymbolicAudioModel",
    "PerceiverSymbolicAudioModelConfig",
    "ReturnType",
    "SymbolicAudioGenerationPipeline",
    "SymbolicAudioModel",
    "SymbolicAudioModelConfig",
    "convert_checkpoint",
    "perceiver_ar_giantmidi",
    "perceiver_ar_maestro",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LitSymbolicAudioModel": "lightning",
        "PerceiverSymbolicAudioModel": "huggingface",
        "PerceiverSymbolicAudioModelConfig": "huggingface_config",
        "ReturnType": "huggingface",
        "SymbolicAudioGenerationPipeline": "huggingface",
        "convert_checkpoint": "huggingface",
    },
)
