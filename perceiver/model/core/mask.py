"""Who attends to whom: padding, causality and windows, said once for all the layers that it holds for.

`attention()` asks for what its kernels take: nothing, the causal flag, or a boolean mask. The boolean mask is made when
a kernel first needs it, and serves all layers after that.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


class AttentionMask:
    """Which of M keys each of N queries may attend to. The N queries belong to the last N of the keys.

    Args:
        allowed: Boolean, broadcastable to (B, H, N, M), True where a query may attend.
        causal: Whether a query attends to its own key and those before it only.
        window: With `causal`, the largest number of keys that a query attends to, its own included.
    """

    def __init__(self, allowed: Tensor | None = None, *, causal: bool = False, window: int | None = None):
        self.allowed = allowed
        self.causal = causal
        self.window = window
        self._dense: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def of_padding(cls, padding: Tensor | None, *, causal: bool = False, window: int | None = None) -> AttentionMask:
        """`padding`: boolean (B, M), True where a key is none."""
        allowed = None if padding is None else rearrange(~padding, "b m -> b 1 1 m")
        return cls(allowed, causal=causal, window=window)

    def is_causal(self, num_queries: int) -> bool:
        """Whether causality matters. A single query is the last one, which may attend to all keys before it."""
        return self.causal and num_queries > 1

    def is_only_causal(self, num_queries: int, num_keys: int) -> bool:
        """Whether causality is all that there is to say."""
        in_window = self.window is None or num_keys <= self.window
        return self.allowed is None and in_window and self.is_causal(num_queries)

    def dense(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """Boolean, broadcastable to (B, H, N, M), or None if every query may attend to every key."""
        if not self.is_causal(num_queries):
            return self.allowed
        sizes = (num_queries, num_keys)
        if sizes not in self._dense:
            mask = causal_mask(*sizes, self.window, device=device)
            self._dense[sizes] = mask if self.allowed is None else mask & self.allowed
        return self._dense[sizes]


def causal_mask(
    num_queries: int, num_keys: int, window: int | None = None, *, device: torch.device | None = None
) -> Tensor:
    """Boolean (N, M), True where query i, the one of key M - N + i, may attend: to itself and keys before it.

    With a `window`, to at most so many keys, itself included.
    """
    distance = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    distance = distance - torch.arange(num_keys, device=device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)
