"""Symbolic audio model: music as events of MIDI files.

Importing this package registers the model with transformers' Auto classes, and the pipeline
`symbolic-audio-generation`, if transformers is installed. Modeling code of transformers and Lightning are imported when
something that needs them is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.model.audio.symbolic.backend import (
        SymbolicAudioModel as SymbolicAudioModel,
        SymbolicAudioModelConfig as SymbolicAudioModelConfig,
        perceiver_ar_giantmidi as perceiver_ar_giantmidi,
        perceiver_ar_maestro as perceiver_ar_maestro,
    )
    from perceiver.model.audio.symbolic.huggingface import (
        PerceiverSymbolicAudioModel as PerceiverSymbolicAudioModel,
        ReturnType as ReturnType,
        SymbolicAudioGenerationPipeline as SymbolicAudioGenerationPipeline,
        convert_checkpoint as convert_checkpoint,
    )
    from perceiver.model.audio.symbolic.huggingface_config import (
        PerceiverSymbolicAudioModelConfig as PerceiverSymbolicAudioModelConfig,
    )
    from perceiver.model.audio.symbolic.lightning import LitSymbolicAudioModel as LitSymbolicAudioModel

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

if find_spec("transformers"):
    import_module("perceiver.model.audio.symbolic.huggingface_config")  # registers the config
