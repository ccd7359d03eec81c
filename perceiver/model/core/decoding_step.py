"""A step of Perceiver AR (arXiv 2202.07765, section 3) as a function of tensors, for runtimes other than torch.

Keys and values go in and come out, so whoever calls it keeps the cache:

    past = step.empty_past()
    logits, *past = step(prompt[:, -1:], prompt[:, :-1], torch.tensor([0]), *past)
    past = step.in_windows(past)  # in another runtime: the last `window - 1` positions of each
    logits, *past = step(next_token, prompt[:, :0], torch.tensor([prompt.shape[1]]), *past)

The layers are those of the model: a cache that concatenates takes the place of the one that has buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.attention import MultiHeadAttention
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.perceiver_ar import AttentionInputs
from perceiver.model.core.token_shift import with_previous


class PastKeyValues:
    """The cache of an attention layer, made anew for each step.

    Attributes:
        keys: (B, H, P, K), after `update` with the new ones.
        values: (B, H, P, V), likewise.
    """

    def __init__(self, window: int, keys: Tensor, values: Tensor):
        self.window = window
        self.keys = keys
        self.values = values

    @property
    def num_seen(self) -> int:
        return self.keys.shape[2]

    @property
    def last_keys(self) -> Tensor:
        return self.keys[:, :, -1:]

    def expect(self, x: Tensor, pad_mask: Tensor | None) -> AttentionMask:
        """All keys: there is one query, and what has left the window is not passed in."""
        return AttentionMask()

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys (B, H, M, K) and values (B, H, M, V)."""
        self.keys, self.values = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        return self.keys, self.values


class DecodingStep(nn.Module):
    """One latent after others, of one sequence.

    Args:
        model: The model, in evaluation mode.
    """

    def __init__(self, model: CausalSequenceModel):
        super().__init__()
        self.model = model
        self.num_layers = 1 + len(model.self_attention)

    @property
    def past_names(self) -> list[str]:
        """Names of the keys and values of each attention layer, in their order, and of tokens with token shift."""
        return list(self.past_windows)

    @property
    def past_windows(self) -> dict[str, int]:
        """The windows of these: a next step may attend to the last `window - 1` positions."""
        windows = {f"{kind}_{i}": self.model.windows[i] for i in range(self.num_layers) for kind in ("keys", "values")}
        return windows | ({"tokens": 2} if self.model.token_shift else {})

    def empty_past(self) -> list[Tensor]:
        """What goes in before anything was seen: keys (1, H, 0, K) and values (1, H, 0, V) of each layer.

        With token shift also ids (1, 1, 0, 1) of tokens: numbers like all others, exact up to 2^24.
        """
        weight = self.model.txt_embedding.weight
        past = []
        for layer in (self.model.cross_attention, *self.model.self_attention):
            attention = next(module for module in layer.modules() if isinstance(module, MultiHeadAttention))
            for proj in (attention.k_proj, attention.v_proj):
                past.append(weight.new_empty(1, attention.num_heads, 0, proj.out_features // attention.num_heads))
        return past + ([torch.empty(1, 1, 0, 1, device=weight.device)] if self.model.token_shift else [])

    def in_windows(self, past: Sequence[Tensor]) -> list[Tensor]:
        """What a next step may attend to."""
        windows = self.past_windows.values()
        return [x[:, :, max(x.shape[2] - window + 1, 0) :] for x, window in zip(past, windows, strict=True)]

    def forward(self, input_ids: Tensor, prefix_ids: Tensor, position: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Predicts the token after `input_ids`.

        Args:
            input_ids: Token (1, 1).
            prefix_ids: Tokens (1, M) right before it that get no latent: the prefix in the first step, none after it.
            position: Number of tokens (1,) before all of these.
            past: Keys (1, H, P, K) and values (1, H, P, V) of each attention layer, of positions in its window, and
                what else `past_names` has.

        Returns:
            Logits (1, vocabulary), and these with the new positions.
        """
        x = torch.cat([prefix_ids, input_ids], dim=1)
        tokens = past[2 * self.num_layers :]
        if tokens:
            x = with_previous(x, last=tokens[0][:, 0, :, 0].long())
            tokens = (torch.cat([tokens[0], input_ids[:, None, :, None].to(tokens[0].dtype)], dim=2),)
        pos = position[:, None] + torch.arange(x.shape[1], device=x.device)
        past = past[: 2 * self.num_layers]
        layers = zip(self.model.windows[: self.num_layers], past[::2], past[1::2], strict=True)
        cache = [PastKeyValues(window, keys, values) for window, keys, values in layers]
        mask = AttentionMask()
        latents = self.model.out_norm(
            self.model.attend(AttentionInputs(x, prefix_ids.shape[1], pos, mask, mask, cache))
        )
        logits = rearrange(self.model.logits(latents), "1 1 v -> 1 v")
        return logits, *(x for layer in cache for x in (layer.keys, layer.values)), *tokens
