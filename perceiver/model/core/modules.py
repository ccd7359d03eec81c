"""All building blocks under one import path."""

from perceiver.model.core.adapter import (
    CoordinateInputAdapter as CoordinateInputAdapter,
    FourierQueryProvider as FourierQueryProvider,
    InputAdapter as InputAdapter,
    QueryProvider as QueryProvider,
    TiedTokenOutputAdapter as TiedTokenOutputAdapter,
    TokenInputAdapter as TokenInputAdapter,
    TokenOutputAdapter as TokenOutputAdapter,
    TrainableQueryProvider as TrainableQueryProvider,
)
from perceiver.model.core.attention import MultiHeadAttention as MultiHeadAttention
from perceiver.model.core.bixt import BiXTEncoder as BiXTEncoder
from perceiver.model.core.cache import KeyValueCache as KeyValueCache
from perceiver.model.core.causal import CausalSequenceModel as CausalSequenceModel
from perceiver.model.core.config import (
    CausalSequenceModelConfig as CausalSequenceModelConfig,
    DecoderConfig as DecoderConfig,
    EncoderConfig as EncoderConfig,
    PerceiverARConfig as PerceiverARConfig,
    PerceiverIOConfig as PerceiverIOConfig,
)
from perceiver.model.core.layers import (
    MLP as MLP,
    AttentionLayer as AttentionLayer,
    CrossAttention as CrossAttention,
    PrefixCrossAttention as PrefixCrossAttention,
    SelfAttention as SelfAttention,
    SelfAttentionBlock as SelfAttentionBlock,
)
from perceiver.model.core.perceiver_ar import PerceiverAR as PerceiverAR
from perceiver.model.core.perceiver_io import (
    PerceiverDecoder as PerceiverDecoder,
    PerceiverEncoder as PerceiverEncoder,
    PerceiverIO as PerceiverIO,
)
from perceiver.model.core.position import (
    FourierPositionEncoding as FourierPositionEncoding,
    FrequencyPositionEncoding as FrequencyPositionEncoding,
    RotaryPositionEmbedding as RotaryPositionEmbedding,
)
from perceiver.model.core.resampler import PerceiverResampler as PerceiverResampler
from perceiver.model.core.sampling import sample as sample, sample_tokens as sample_tokens
from perceiver.model.core.token_shift import TokenShiftInputAdapter as TokenShiftInputAdapter
from perceiver.moved import moved_names

__getattr__ = moved_names(__name__)
