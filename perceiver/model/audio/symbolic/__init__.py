"""Symbolic audio model: music as events of MIDI files.

Importing this package registers the model with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register

if TYPE_CHECKING:
    from perceiver.model.audio.symbolic.backend import (
        SymbolicAudioModel as SymbolicAudioModel,
        SymbolicAudioModelConfig as SymbolicAudioModelConfig,
        perceiver_ar_giantmidi as perceiver_ar_giantmidi,
        perceiver_ar_maestro as perceiver_ar_maestro,
    )
    from perceiver.model.audio.symbolic.huggingface import (
        PerceiverSymbolicAudioModel as PerceiverSymbolicAudioModel,
        PerceiverSymbolicAudioModelConfig as PerceiverSymbolicAudioModelConfig,
        ReturnType as ReturnType,
        SymbolicAudioGenerationPipeline as SymbolicAudioGenerationPipeline,
        convert_checkpoint as convert_checkpoint,
    )
    from perceiver.model.audio.symbolic.lightning import LitSymbolicAudioModel as LitSymbolicAudioModel

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
register("symbolic-audio")
