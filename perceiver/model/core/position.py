"""Position encodings.

`FourierPositionEncoding`: sine and cosine features of positions on a grid (Perceiver, arXiv 2103.03206, section 3.2).
Encodings have no parameters and no buffers: they are computed, in float32, where they are used, so that no checkpoint
can bring a wrong one along.
"""

from __future__ import annotations

import math
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
