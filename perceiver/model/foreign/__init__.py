"""Models of other libraries, for their weights: what they are, how their files are read, and how they are written.

    backend.py         the models: perceiver_pytorch.py, perceiver_ar.py, and layers.py, of which they consist
    files.py           reads their files, and runs nothing that is in them
    layouts/           which model a file has, its configuration, and our names of its parameters
    huggingface/       Auto classes, conversion, and export to transformers

Importing this package registers the models with transformers' Auto classes, if transformers is installed. All else is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports
from perceiver.model.registration import register
from perceiver.tasks import FOREIGN

if TYPE_CHECKING:
    from perceiver.model.foreign.backend import (
        GatedDecoderConfig as GatedDecoderConfig,
        GatedEncoderConfig as GatedEncoderConfig,
        GooglePerceiverAR as GooglePerceiverAR,
        GooglePerceiverARConfig as GooglePerceiverARConfig,
        LucidrainsPerceiver as LucidrainsPerceiver,
        LucidrainsPerceiverAR as LucidrainsPerceiverAR,
        LucidrainsPerceiverARConfig as LucidrainsPerceiverARConfig,
        LucidrainsPerceiverConfig as LucidrainsPerceiverConfig,
        LucidrainsPerceiverIO as LucidrainsPerceiverIO,
        LucidrainsPerceiverIOConfig as LucidrainsPerceiverIOConfig,
        LucidrainsPerceiverLM as LucidrainsPerceiverLM,
        LucidrainsPerceiverLMConfig as LucidrainsPerceiverLMConfig,
        MeanDecoderConfig as MeanDecoderConfig,
    )
    from perceiver.model.foreign.huggingface import (
        GooglePerceiverARForCausalLM as GooglePerceiverARForCausalLM,
        GooglePerceiverARForCausalLMConfig as GooglePerceiverARForCausalLMConfig,
        LucidrainsPerceiverARForCausalLM as LucidrainsPerceiverARForCausalLM,
        LucidrainsPerceiverARForCausalLMConfig as LucidrainsPerceiverARForCausalLMConfig,
        LucidrainsPerceiverIOModel as LucidrainsPerceiverIOModel,
        LucidrainsPerceiverIOModelConfig as LucidrainsPerceiverIOModelConfig,
        LucidrainsPerceiverLMForMaskedLM as LucidrainsPerceiverLMForMaskedLM,
        LucidrainsPerceiverLMForMaskedLMConfig as LucidrainsPerceiverLMForMaskedLMConfig,
        LucidrainsPerceiverModel as LucidrainsPerceiverModel,
        LucidrainsPerceiverModelConfig as LucidrainsPerceiverModelConfig,
    )
    from perceiver.model.foreign.huggingface.convert import (
        Comparison as Comparison,
        convert_foreign as convert_foreign,
    )
    from perceiver.model.foreign.huggingface.export import export_transformers as export_transformers

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
for name in FOREIGN:
    register(name)
