"""Position encodings.

`FourierPositionEncoding`: sine and cosine features of positions on a grid (Perceiver, arXiv 2103.03206, section 3.2).
`FrequencyPositionEncoding` and `RotaryPositionEmbedding`: rotations of queries and keys by angles that are proportional
to positions (RoFormer, arXiv 2104.09864, section 3.2.2), which Perceiver AR uses.

Encodings have no parameters and no buffers: they are computed, in float32, where they are used, so that no checkpoint
can bring a wrong one along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn


class FourierPositionEncoding(nn.Module):
    """Fourier features of the cells of a grid.

    A position has one coordinate per grid dimension, from -1 to 1. Its channels are, in this order: the coordinates,
    sin(pi f x) for every coordinate x and, running fastest, every frequency f, and cos(pi f x) likewise. The
    frequencies of a dimension with n cells are `num_frequency_bands` equally spaced numbers from 1 to n / 2.

    Args:
        input_shape: Cells per grid dimension.
        num_frequency_bands: Frequencies per grid dimension.
    """

    def __init__(self, input_shape: tuple[int, ...], num_frequency_bands: int):
        super().__init__()
        if not input_shape or min(input_shape) < 1 or num_frequency_bands < 1:
            raise ValueError(
                f"input_shape={input_shape} and num_frequency_bands={num_frequency_bands} must be positive integers"
            )
        self.input_shape = tuple(input_shape)
        self.num_frequency_bands = num_frequency_bands

    def num_position_encoding_channels(self) -> int:
        return len(self.input_shape) * (2 * self.num_frequency_bands + 1)

    def forward(
        self, batch_size: int = 1, *, shape: tuple[int, ...] | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Codes of all cells.

        Args:
            batch_size: Batch size B of the result. Its examples share memory.
            shape: Cells per dimension of another grid, which spans the same coordinates from -1 to 1. Frequencies stay
                those of `input_shape`.
            device: Device of the result.

        Returns:
            float32 (B, M, channels), M the number of grid cells in row-major order.
        """
        shape = self.input_shape if shape is None else shape
        if len(shape) != len(self.input_shape):
            raise ValueError(f"shape={shape} must have {len(self.input_shape)} dimensions")
        codes: tuple[list[Tensor], ...] = ([], [], [])  # coordinates, sines, cosines by dimension, (*shape, channels)
        for dim, (num_cells, resolution) in enumerate(zip(shape, self.input_shape, strict=True)):
            x = torch.linspace(-1.0, 1.0, num_cells, device=device, dtype=torch.float32)[:, None]
            angles = self._angles(x, resolution)
            # a code depends on one coordinate only: it is computed once for each, not for each cell
            others = (1,) * (len(shape) - 1 - dim)
            for part, values in zip(codes, (x, angles.sin(), angles.cos()), strict=True):
                part.append(values.reshape(num_cells, *others, -1).expand(*shape, -1))
        code = rearrange(torch.cat([code for part in codes for code in part], dim=-1), "... c -> (...) c")
        return repeat(code, "m c -> b m c", b=batch_size)

    def encode(self, positions: Tensor) -> Tensor:
        """Codes of any positions, which need not be cells.

        Args:
            positions: (..., d), a coordinate per grid dimension, from -1 to 1 within the grid.

        Returns:
            float32 (..., channels)
        """
        if positions.shape[-1] != len(self.input_shape):
            raise ValueError(f"positions have {positions.shape[-1]} coordinates, expected {len(self.input_shape)}")
        x = positions.float()
        angles = torch.cat([self._angles(x[..., dim, None], n) for dim, n in enumerate(self.input_shape)], dim=-1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=-1)

    def _angles(self, x: Tensor, resolution: int) -> Tensor:
        """Angles (..., bands) of a coordinate (..., 1) of a dimension with `resolution` cells."""
        bands = self.num_frequency_bands
        frequencies = torch.linspace(1.0, resolution / 2, bands, device=x.device, dtype=torch.float32)
        # In this order, as in the official models: at 15,000 oscillations another gives angles that differ by 0.004.
        return math.pi * (x * frequencies)


def positions(
    num_positions: int, pad_mask: Tensor | None = None, *, start: int = 0, device: torch.device | None = None
) -> Tensor:
    """Positions of tokens: every one has the position that it would have without padding.

    Args:
        num_positions: Number of positions asked for.
        pad_mask: Boolean (B, `start` + `num_positions`), True where there is padding. Padding gets the position of the
            token before it, or 0.
        start: Number of tokens, padding included, before the first one asked for.
        device: Device of the result, if there is no `pad_mask`.

    Returns:
        (B, num_positions), or (1, num_positions) without `pad_mask`
    """
    if pad_mask is None:
        return torch.arange(start, start + num_positions, device=device)[None]
    return ((~pad_mask).cumsum(dim=1) - 1).clamp(min=0)[:, start:]


class FrequencyPositionEncoding(nn.Module):
    """Angles of a rotary position embedding.

    Angle i of position p is p * 10000^(-2i/d), for d = `num_channels`. They are float32 whatever the parameters are: in
    bfloat16 they would be wrong by radians at some thousand positions.

    Args:
        num_channels: Number of channels d that are rotated. An odd d rotates d + 1 channels.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"num_channels={num_channels} of a rotary position embedding must be positive")
        self.num_channels = num_channels

    def forward(self, positions: Tensor) -> Tensor:
        """(B, M) -> float32 angles (B, M, d / 2)"""
        exponents = torch.arange(0, self.num_channels, 2, device=positions.device, dtype=torch.float32)
        frequencies = 10000.0 ** -(exponents / self.num_channels)
        return rearrange(positions.float(), "b m -> b m 1") * frequencies


@dataclass(frozen=True)
class RotaryPositionEmbedding:
    """Rotates pairs of neighbouring channels, the first ones of every head, by the angles of their positions.

    Attributes:
        cos: Cosines of the angles (B, 1, M, R) of M positions, or (1, 1, M, R) if they are the same for all examples.
        sin: Sines of the angles.
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def from_angles(cls, angles: Tensor) -> RotaryPositionEmbedding:
        """Angles (B, M, R) of R channel pairs -> embedding"""
        angles = rearrange(angles, "b m r -> b 1 m r")
        return cls(angles.cos(), angles.sin())

    def last(self, num_positions: int) -> RotaryPositionEmbedding:
        """The embedding of the last positions."""
        return RotaryPositionEmbedding(self.cos[:, :, -num_positions:], self.sin[:, :, -num_positions:])

    def in_blocks(self, num_blocks: int) -> RotaryPositionEmbedding:
        """The embeddings of blocks of positions, each an example, (B K, 1, N, R) of (B, 1, K N, R)."""
        cos, sin = (rearrange(x, "b 1 (k n) r -> (b k) 1 n r", k=num_blocks) for x in (self.cos, self.sin))
        return RotaryPositionEmbedding(cos, sin)

    def rotate(self, x: Tensor) -> Tensor:
        """Queries or keys (B, H, N, K), those of the last N positions -> rotated, (B, H, N, K)"""
        cos, sin = self.cos[:, :, -x.shape[2] :], self.sin[:, :, -x.shape[2] :]
        num_channels = 2 * cos.shape[-1]
        x_1, x_2 = rearrange(x[..., :num_channels], "b h n (r two) -> two b h n r", two=2)
        rotated = torch.stack([x_1 * cos - x_2 * sin, x_2 * cos + x_1 * sin], dim=-1)
        rotated = rearrange(rotated, "b h n r two -> b h n (r two)").to(x.dtype)
        return torch.cat([rotated, x[..., num_channels:]], dim=-1)
