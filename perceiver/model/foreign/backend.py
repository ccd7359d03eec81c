"""Models of other libraries whose parameters ours can't hold: what they consist of, and nothing of how they are read.

    perceiver_pytorch.py   Perceiver, Perceiver IO and language model of lucidrains/perceiver-pytorch
    perceiver_ar.py        Perceiver AR of lucidrains/perceiver-ar-pytorch and of google-research/perceiver-ar
    layers.py              gated MLPs, Fourier features, the encoder of the first three

Each computes what the original does, with the attention, cache and checkpointing of our own models, which have no flag
for any of this. They are there for weights that exist; for new models take ours.
"""

from perceiver.model.foreign.perceiver_ar import (
    GooglePerceiverAR as GooglePerceiverAR,
    GooglePerceiverARConfig as GooglePerceiverARConfig,
    LucidrainsPerceiverAR as LucidrainsPerceiverAR,
    LucidrainsPerceiverARConfig as LucidrainsPerceiverARConfig,
)
from perceiver.model.foreign.perceiver_pytorch import (
    GatedDecoderConfig as GatedDecoderConfig,
    GatedEncoderConfig as GatedEncoderConfig,
    LucidrainsPerceiver as LucidrainsPerceiver,
    LucidrainsPerceiverConfig as LucidrainsPerceiverConfig,
    LucidrainsPerceiverIO as LucidrainsPerceiverIO,
    LucidrainsPerceiverIOConfig as LucidrainsPerceiverIOConfig,
    LucidrainsPerceiverLM as LucidrainsPerceiverLM,
    LucidrainsPerceiverLMConfig as LucidrainsPerceiverLMConfig,
    MeanDecoderConfig as MeanDecoderConfig,
)
