"""Models of other libraries for Hugging Face, and conversion to and from the formats of others.

models.py     Auto classes of the models of `perceiver.model.foreign.backend`
convert.py    a file of another library -> a folder, and whether it computes the same
deepmind.py   DeepMind's pickles of Perceiver IO, which become our own models; deepmind_kinds.py: which there are
export.py     a folder of ours -> transformers' Perceiver

Importing this package registers the models.
"""

from perceiver.model.foreign.huggingface.models import (
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
    LucidrainsPerceiverOutput as LucidrainsPerceiverOutput,
)
