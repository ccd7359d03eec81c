"""Adapters: what is particular to a modality, kept apart from encoder and decoder (arXiv 2107.14795, section 3).

input adapter     task input -> (B, M, C)
query provider    -> queries (1, O, F), or (B, P, F) for P chosen positions
output adapter    decoder output (B, O, F) -> task output
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perceiver.model.core.linear import Linear, linear
from perceiver.model.core.position import FourierPositionEncoding


class InputAdapter(nn.Module):
    """Base of modules that turn a task's input into (B, M, C).

    Args:
        num_input_channels: Channels C of the result.
    """

    def __init__(self, num_input_channels: int):
        super().__init__()
        self.num_input_channels = num_input_channels


class TokenInputAdapter(InputAdapter):
    """Token embedding plus learned position embedding.

    Args:
        vocab_size: Number of token ids.
        max_seq_len: Number of positions.
        num_input_channels: Embedding channels C.
        abs_pos_emb: Whether there is a position embedding.
    """

    def __init__(self, *, vocab_size: int, max_seq_len: int, num_input_channels: int, abs_pos_emb: bool = True):
        super().__init__(num_input_channels)
        self.max_seq_len = max_seq_len
        self.txt_embedding = nn.Embedding(vocab_size, num_input_channels)
        self.pos_embedding = nn.Embedding(max_seq_len, num_input_channels) if abs_pos_emb else None

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embeds tokens.

        Args:
            x: Token ids (B, M), or their embeddings (B, M, C) if they come from elsewhere.
            positions: Positions (B, M) or (1, M), by default 0 to M - 1. Those beyond the last one count as the last.

        Returns:
            (B, M, C)
        """
        if x.is_floating_point() and (x.ndim != 3 or x.shape[2] != self.num_input_channels):
            expected = f"(batch size, sequence length, {self.num_input_channels})"
            raise ValueError(f"token embeddings have shape {tuple(x.shape)}, expected {expected}")
        if not x.is_floating_point() and x.ndim != 2:
            raise ValueError(f"token ids have shape {tuple(x.shape)}, expected (batch size, sequence length)")
        if positions is None and x.shape[1] > self.max_seq_len:
            raise ValueError(f"sequence length {x.shape[1]} exceeds max_seq_len={self.max_seq_len} of the model")
        if x.is_floating_point():
            embedded = x
        else:
            check_indices("token ids", x, self.txt_embedding.num_embeddings)
            embedded = self.txt_embedding(x)
        if self.pos_embedding is None:
            return embedded
        if positions is None:
            return embedded + self.pos_embedding.weight[: x.shape[1]]
        return embedded + self.pos_embedding(positions.clamp(max=self.max_seq_len - 1))


class CoordinateInputAdapter(InputAdapter):
    """Points with values: the values and Fourier codes of the coordinates (Perceiver, arXiv 2103.03206, section 3.2).

    Args:
        position_encoding: Encodes the d coordinates of a point.
        num_values: Number of values of a point, 0 if it is its position that counts.
    """

    def __init__(self, position_encoding: FourierPositionEncoding, num_values: int = 0):
        super().__init__(num_values + position_encoding.num_position_encoding_channels())
        self.position_encoding = position_encoding
        self.num_values = num_values

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates, from -1 to 1, and then values of points (B, M, d + values) -> (B, M, C)"""
        if not x.is_floating_point():  # codes would be cut to integers
            raise ValueError(f"points are {x.dtype}, expected floating point")
        positions, values = x[..., : x.shape[-1] - self.num_values], x[..., x.shape[-1] - self.num_values :]
        return torch.cat([values, self.position_encoding.encode(positions).to(x.dtype)], dim=-1)


def is_readable(x: Tensor) -> bool:
    """Whether Python may ask for values: on CPU. Another device would be waited for, and a graph has none."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_indices(name: str, x: Tensor, size: int) -> None:
    """Raises ValueError if an index is not in [0, size), where values may be read."""
    if is_readable(x) and x.numel():
        low, high = x.aminmax()
        if low < 0 or high >= size:
            raise ValueError(f"{name} span [{low}, {high}], allowed is [0, {size - 1}]")


class QueryProvider(nn.Module):
    """Base of modules that make the output queries of a decoder. As it is, for a decoder whose every call brings them.

    Args:
        num_query_channels: Channels F of a query.
    """

    def __init__(self, num_query_channels: int):
        super().__init__()
        self.num_query_channels = num_query_channels

    def forward(self) -> Tensor:
        """Queries (1, O, F) or (B, O, F)"""
        raise ValueError("the decoder has no queries of its own: give it a query (B, O, F)")


class TrainableQueryProvider(QueryProvider):
    """Learned queries: the latents of an encoder, or the output queries of a decoder.

    `num_queries` may be set to a lower number than that of all: then the first ones are used. A model does with few
    latents if it was trained so (`NestedLatents` in perceiver.model.lightning).

    Args:
        num_queries: Number of queries O.
        num_query_channels: Query channels F.
    """

    def __init__(self, num_queries: int, num_query_channels: int):
        super().__init__(num_query_channels)
        if num_queries < 1 or num_query_channels < 1:
            raise ValueError(f"{num_queries} queries of {num_query_channels} channels: both must be at least 1")
        self._query = nn.Parameter(torch.empty(num_queries, num_query_channels))
        self.num_queries = num_queries

    @property
    def num_queries(self) -> int:
        """Number of queries O that are used."""
        return self._num_queries

    @num_queries.setter
    def num_queries(self, number: int) -> None:
        if not 1 <= number <= len(self._query):
            raise ValueError(f"num_queries={number} must be in [1, {len(self._query)}]")
        self._num_queries = number

    def forward(self, positions: Tensor | None = None) -> Tensor:
        """The first `num_queries` queries (1, O, F), or those at `positions` (B, P) as (B, P, F)."""
        if positions is None:
            return self._query[None, : self._num_queries]
        check_indices("positions", positions, self._query.shape[0])
        return nn.functional.embedding(positions, self._query)


class FourierQueryProvider(QueryProvider):
    """Output queries of positions: a linear layer of their Fourier codes (Perceiver IO, arXiv 2107.14795, section 3.2).

    Args:
        position_encoding: Encodes the d coordinates of a position.
        num_query_channels: Query channels F.
    """

    def __init__(self, position_encoding: FourierPositionEncoding, num_query_channels: int):
        super().__init__(num_query_channels)
        self.position_encoding = position_encoding
        self.linear = Linear(position_encoding.num_position_encoding_channels(), num_query_channels)

    def forward(self, positions: Tensor | None = None) -> Tensor:
        """Queries (1, O, F) of all cells of the grid, or (B, O, F) of `positions` (B, O, d), from -1 to 1."""
        weight = self.linear.weight
        if positions is None:
            codes = self.position_encoding(device=weight.device)
        else:
            codes = self.position_encoding.encode(positions)
        return self.linear(codes.to(weight.dtype))


class TokenOutputAdapter(nn.Module):
    """Logits from a linear layer."""

    def __init__(self, *, vocab_size: int, num_output_query_channels: int):
        super().__init__()
        self.linear = Linear(num_output_query_channels, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, F) -> (B, O, vocabulary)"""
        return self.linear(x)


class TiedTokenOutputAdapter(nn.Module):
    """Logits from the transposed token embedding of the input adapter, plus a bias."""

    def __init__(self, *, vocab_size: int, bias: bool = True):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, O, F), embedding (vocabulary, F) -> (B, O, vocabulary)"""
        return linear(x, embedding, self.bias)


class ClassificationOutputAdapter(nn.Module):
    """Logits of classes from a linear layer."""

    def __init__(self, *, num_classes: int, num_output_query_channels: int):
        super().__init__()
        self.linear = Linear(num_output_query_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, F) -> (B, O, classes), or (B, classes) if O is 1"""
        return self.linear(x).squeeze(dim=1)
