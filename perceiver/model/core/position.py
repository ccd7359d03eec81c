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
from functools import partial

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

    def forward(self, batch_size: int = 1, *, device: torch.device | None = None) -> Tensor:
        """Returns float32 codes (B, M, channels), M the number of grid cells in row-major order; B shares memory."""
        linspace = partial(torch.linspace, device=device, dtype=torch.float32)
        axes = [linspace(-1.0, 1.0, n) for n in self.input_shape]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        frequencies = torch.stack([linspace(1.0, n / 2, self.num_frequency_bands) for n in self.input_shape])
        angles = math.pi * rearrange(rearrange(x, "... d -> ... d 1") * frequencies, "... d f -> ... (d f)")
        code = rearrange(torch.cat([x, angles.sin(), angles.cos()], dim=-1), "... c -> (...) c")
        return repeat(code, "m c -> b m c", b=batch_size)


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

    def rotate(self, x: Tensor) -> Tensor:
        """Queries or keys (B, H, N, K), those of the last N positions -> rotated, (B, H, N, K)"""
        cos, sin = self.cos[:, :, -x.shape[2] :], self.sin[:, :, -x.shape[2] :]
        num_channels = 2 * cos.shape[-1]
        x_1, x_2 = rearrange(x[..., :num_channels], "b h n (r two) -> two b h n r", two=2)
        rotated = torch.stack([x_1 * cos - x_2 * sin, x_2 * cos + x_1 * sin], dim=-1)
        rotated = rearrange(rotated, "b h n r two -> b h n (r two)").to(x.dtype)
        return torch.cat([rotated, x[..., num_channels:]], dim=-1)
