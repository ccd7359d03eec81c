"""Token shift: every token knows the one before it, so that a single read finds what follows something.

Perceiver AR reads its prefix as it is embedded, without a layer in between: no key says what precedes its token. Here
a linear layer of the token before is added to each embedding, as in the token shift of RWKV (arXiv 2305.13048) and the
smeared keys of arXiv 2209.11895 (In-context learning and induction heads).

    tokens         a  b  _  c     _ is padding
    token before      a     b     the last one that is no padding; the first token, at position 0, has none

Each token is paired with the one before it while all are in their order. What drops or packs tokens works on pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from perceiver.model.core.adapter import TokenInputAdapter
from perceiver.model.core.cache import LayerCache, check_batch_size
from perceiver.model.core.linear import Linear


class TokenShiftInputAdapter(TokenInputAdapter):
    """Token embedding plus a linear layer of that of the token before, plus learned position embedding.

    Args are those of `TokenInputAdapter`.
    """

    def __init__(self, *, vocab_size: int, max_seq_len: int, num_input_channels: int, abs_pos_emb: bool = True):
        super().__init__(
            vocab_size=vocab_size,
            max_seq_len=max_seq_len,
            num_input_channels=num_input_channels,
            abs_pos_emb=abs_pos_emb,
        )
        self.token_shift = Linear(num_input_channels, num_input_channels, bias=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embeds tokens.

        Args:
            x: Pairs (B, M, 2) of token ids, or (B, M, 2, C) of their embeddings: what `with_previous` gives.
            positions: Positions (B, M) or (1, M), by default 0 to M - 1. At position 0 there is no token before.

        Returns:
            (B, M, C)
        """
        if x.ndim < 3:
            raise ValueError(f"pairs of tokens have shape {tuple(x.shape)}, expected (batch size, sequence length, 2)")
        tokens, previous = x.unbind(dim=2)
        embedded = super().forward(tokens, positions)
        shifted = self.token_shift(previous if previous.is_floating_point() else self.txt_embedding(previous))
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        return embedded + shifted.masked_fill(rearrange(positions == 0, "b m -> b m 1"), 0.0)


def with_previous(x: Tensor, pad_mask: Tensor | None = None, last: Tensor | None = None) -> Tensor:
    """Pairs each token with the one before it.

    Args:
        x: Tokens (B, M), or their embeddings (B, M, C).
        pad_mask: Boolean (B, at least M), True where there is padding. Its last M are those of `x`.
        last: Tokens before these (B, P) or (B, P, C), of which the last one counts, if there are any.

    Returns:
        (B, M, 2) or (B, M, 2, C). The first token of all is paired with any.
    """
    before = x[:, :1] if last is None else torch.cat([x[:, :1], last], dim=1)
    tokens = torch.cat([before, x], dim=1)  # B 1+P+M
    if pad_mask is not None:
        is_padding = F.pad(pad_mask[:, -x.shape[1] :], (before.shape[1], 0))
        indices = torch.arange(tokens.shape[1], device=x.device).masked_fill(is_padding, 0)
        tokens = tokens[torch.arange(len(x), device=x.device)[:, None], indices.cummax(dim=1).values]
    return torch.stack([x, tokens[:, -x.shape[1] - 1 : -1]], dim=2)


def remember(cache: LayerCache, pairs: Tensor, pad_mask: Tensor | None) -> None:
    """Adds tokens of new latents to a cache: each one, or the last one that is no padding, as a key without a value.

    Args:
        cache: One of the window of latents, which counts and takes back positions as theirs do.
        pairs: (B, N, 2) or (B, N, 2, C)
        pad_mask: Boolean (B, at least N), True where there is padding. Its last N are those of `pairs`.
    """
    batch_size, num_tokens = pairs.shape[:2]
    tokens, previous = (x.reshape(batch_size, 1, num_tokens, -1) for x in pairs.unbind(dim=2))
    if pad_mask is not None:
        tokens = torch.where(rearrange(pad_mask[:, -num_tokens:], "b n -> b 1 n 1"), previous, tokens)
    cache.update(tokens, tokens[..., :0])


def last_token(cache: LayerCache, x: Tensor) -> Tensor | None:
    """What `remember` added last (B, 1) or (B, 1, C), before tokens `x`. None: nothing.

    Raises:
        ValueError: if it isn't like `x`: ids or embeddings, of so many examples.
    """
    last = cache.last_keys
    if last is None:
        return None
    check_batch_size(last, x)
    if last.is_floating_point() != x.is_floating_point():
        one, other = ("embeddings", "ids") if last.is_floating_point() else ("ids", "embeddings")
        raise ValueError(f"the cache of a model with token_shift holds token {one}: token {other} can't follow them")
    return last.reshape(len(x), 1, *x.shape[2:])
