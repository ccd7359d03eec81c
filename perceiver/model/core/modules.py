"""All building blocks under one import path."""

from perceiver.model.core.adapter import InputAdapter as InputAdapter
from perceiver.model.core.adapter import QueryProvider as QueryProvider
from perceiver.model.core.adapter import TiedTokenOutputAdapter as TiedTokenOutputAdapter
from perceiver.model.core.adapter import TokenInputAdapter as TokenInputAdapter
from perceiver.model.core.adapter import TokenOutputAdapter as TokenOutputAdapter
from perceiver.model.core.adapter import TrainableQueryProvider as TrainableQueryProvider
from perceiver.model.core.attention import MultiHeadAttention as MultiHeadAttention
from perceiver.model.core.config import DecoderConfig as DecoderConfig
from perceiver.model.core.config import EncoderConfig as EncoderConfig
from perceiver.model.core.config import PerceiverIOConfig as PerceiverIOConfig
from perceiver.model.core.layers import MLP as MLP
from perceiver.model.core.layers import AttentionLayer as AttentionLayer
from perceiver.model.core.layers import CrossAttention as CrossAttention
from perceiver.model.core.layers import SelfAttention as SelfAttention
from perceiver.model.core.layers import SelfAttentionBlock as SelfAttentionBlock
from perceiver.model.core.perceiver_io import PerceiverDecoder as PerceiverDecoder
from perceiver.model.core.perceiver_io import PerceiverEncoder as PerceiverEncoder
from perceiver.model.core.perceiver_io import PerceiverIO as PerceiverIO
from perceiver.model.core.position import FourierPositionEncoding as FourierPositionEncoding
