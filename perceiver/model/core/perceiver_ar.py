"""Perceiver AR: autoregressive modelling of long sequences (arXiv 2202.07765, section 3 and figure 2).

    tokens (B, M + N) --causal cross-attention of the last N--> latents (B, N, D) --causal self-attention--> (B, N, D)

The first M tokens are the prefix: they are attended to, but have no latent and predict nothing. All costs are linear in
M. Padding may stand anywhere and changes nothing: an example of a padded batch gives what it gives alone.

With a key/value cache, tokens come in one after the other: the first call brings the prefix and the first latents,
every further token is a new latent. Attention then sees windows: the last `max_seq_len` tokens in the cross-attention,
the last `max_latents` latents in the self-attention.

Without a cache, documents of unequal length can share a sequence without padding (core/packing.py), and a sequence can
have several blocks of latents, each with all tokens before it as prefix (core/blocks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, is_readable
from perceiver.model.core.blocks import LatentBlocks, count_dropped
from perceiver.model.core.cache import KeyValueCache, LayerCache, Ring, StaticKeyValueCache
from perceiver.model.core.config import PerceiverARConfig
from perceiver.model.core.layers import (
    MLP,
    AttentionLayer,
    PrefixCrossAttention,
    SelfAttention,
    SelfAttentionBlock,
)
from perceiver.model.core.mask import AttentionMask, check_pad_mask
from perceiver.model.core.packing import Packing, check_packed
from perceiver.model.core.position import FrequencyPositionEncoding, RotaryPositionEmbedding, positions
from perceiver.model.core.token_shift import TokenShiftInputAdapter, last_token, remember, with_previous


@dataclass(frozen=True)
class AttentionInputs:
    """What the layers of Perceiver AR work on.

    Attributes:
        x: Tokens (B, M + N), or what the input adapter takes instead, one of it for each.
        prefix_len: Number M of prefix tokens.
        pos: Their positions (B, M + N) or (1, M + N).
        mask: What latents attend to in the cross-attention.
        latent_mask: What latents attend to in self-attention.
        cache: A cache, or None, for each attention layer, and for what else `PerceiverAR.windows` has.
        num_blocks: Number of blocks of latents K. In self-attention each of them is an example.
    """

    x: Tensor
    prefix_len: int
    pos: Tensor
    mask: AttentionMask
    latent_mask: AttentionMask
    cache: Sequence[LayerCache | None]
    num_blocks: int = 1

    @property
    def is_static_step(self) -> bool:
        """Whether there is one token of each example, after others in a static cache."""
        cache = self.cache[0]
        return isinstance(cache, StaticKeyValueCache) and cache.ring.is_step

    def of_one_form(self) -> AttentionInputs:
        """The same, for a static step, with tensors whose forms depend on batch size and number of slots only."""

        def whole(x: Tensor) -> Tensor:
            # A copy: the strides of a part, say the last token of each sequence, tell how long the sequences are.
            return x.expand(self.x.shape[0], *x.shape[1:]).clone(memory_format=torch.contiguous_format)

        masks = (mask.allowed for mask in (self.mask, self.latent_mask))
        mask, latent_mask = (AttentionMask(None if allowed is None else whole(allowed)) for allowed in masks)
        return AttentionInputs(whole(self.x), 0, whole(self.pos), mask, latent_mask, self.cache)


class PerceiverAR(nn.Module):
    """Causal cross-attention layer and causal self-attention layers.

    Args:
        input_adapter: Turns tokens (B, M) and their positions (B, M) into (B, M, D). A `TokenShiftInputAdapter` gets
            pairs of tokens.
        config: Attention layers.
        max_seq_len: Window of the cross-attention: largest number of positions, prefix and latents together.
        max_latents: Window of the self-attention: largest number of latents.
        num_rotary_channels: Channels per head that the rotary position embedding rotates.
    """

    def __init__(
        self,
        input_adapter: InputAdapter,
        config: PerceiverARConfig,
        *,
        max_seq_len: int,
        max_latents: int,
        num_rotary_channels: int,
    ):
        super().__init__()
        num_channels, num_layers = input_adapter.num_input_channels, config.num_self_attention_layers
        self.max_seq_len = max_seq_len
        self.max_latents = max_latents
        self.num_rotary_layers = config.num_self_attention_rotary_layers % (num_layers + 1)  # -1: all
        self.cross_attention_dropout = config.cross_attention_dropout
        self.input_adapter = input_adapter
        self.token_shift = isinstance(input_adapter, TokenShiftInputAdapter)
        self.frequencies = FrequencyPositionEncoding(num_rotary_channels)
        self.cross_attention = self.cross_attention_layer(config, num_channels)
        self.self_attention = SelfAttentionBlock(
            *(self.self_attention_layer(config, num_channels) for _ in range(num_layers))
        )

    def cross_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        """Makes the layer that reads the prefix. perceiver.model.foreign has models with other ones."""
        attention = PrefixCrossAttention(
            num_channels=num_channels,
            num_heads=config.num_heads,
            qkv_bias=False,
            dropout=config.post_attention_dropout,
        )
        return attention_layer(attention, MLP(num_channels, config.cross_attention_widening_factor, bias=False), config)

    def self_attention_layer(self, config: PerceiverARConfig, num_channels: int) -> AttentionLayer:
        """Makes a self-attention layer."""
        attention = SelfAttention(
            num_channels=num_channels,
            num_heads=config.num_heads,
            qkv_bias=False,
            out_bias=False,
            causal=True,
            dropout=config.post_attention_dropout,
        )
        return attention_layer(attention, MLP(num_channels, config.self_attention_widening_factor, bias=False), config)

    @property
    def windows(self) -> list[int]:
        """Number of keys that each attention layer sees at most. With token shift, tokens of latents come last."""
        return [self.max_seq_len] + [self.max_latents] * (len(self.self_attention) + self.token_shift)

    def new_cache(self, max_length: int | None = None) -> list[KeyValueCache]:
        """Empty caches, one for each of `windows`, for `forward`.

        Args:
            max_length: Number of tokens that will be cached in all, if that is known.
        """
        return [KeyValueCache(window, max_length) for window in self.windows]

    def new_static_cache(self) -> list[StaticKeyValueCache]:
        """The same in the form whose steps can be compiled."""
        return [StaticKeyValueCache(ring) for ring in self.new_rings()]

    def new_rings(self) -> list[Ring]:
        """What the layers of a static cache share: a ring for each layer, the same for layers with equal windows."""
        return [Ring(self.max_seq_len)] + [Ring(self.max_latents)] * (len(self.windows) - 1)

    def forward(
        self,
        x: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        num_blocks: int = 1,
    ) -> Tensor:
        """Processes a sequence, or its next tokens.

        Args:
            x: Tokens (B, M + N), or the next N tokens of what is in `cache`. Token embeddings (B, M + N, D) do as well.
            prefix_len: Number M of prefix tokens. 0 if there are tokens in `cache`.
            pad_mask: Boolean (B, all tokens, cached ones included), True where there is padding.
            cache: What `new_cache` gave. It takes up the new tokens, of which there may be more than fit into the
                windows. With a cache no prefix position is dropped, also in training.
            num_blocks: Number of blocks that the N latents are divided into, up to `max_latents` each, without a cache.
                Each block is what it is alone, with all tokens before it as its prefix (core/blocks.py).

        Returns:
            Latents (B, N, D)

        Raises:
            ValueError: if prefix or latents are longer than the model allows, or `pad_mask` doesn't fit.
        """
        return self.attend(self.prepare(x, prefix_len, pad_mask, cache, num_blocks))

    def prepare(
        self,
        x: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None,
        cache: Sequence[LayerCache] | None,
        num_blocks: int = 1,
    ) -> AttentionInputs:
        """Checks the arguments of `forward`, and makes of them what attention layers need."""
        if num_blocks != 1:
            if cache is not None:
                raise ValueError(
                    f"num_blocks={num_blocks} can't be given with a cache, which takes one block of latents"
                )
            return self.prepare_blocks(x, prefix_len, pad_mask, num_blocks)
        num_cached = 0 if cache is None else cache[0].num_seen
        self._check(x, prefix_len, pad_mask, num_cached, windowed=cache is not None)
        pad_mask = padding_if_known(pad_mask)
        pos = positions(x.shape[1], pad_mask, start=num_cached, device=x.device)  # B M+N
        if self.token_shift:
            x = with_previous(x, pad_mask, None if cache is None else last_token(cache[-1], x))
        fraction = self.cross_attention_dropout if self.training and cache is None else 0.0
        if num_dropped := count_dropped(prefix_len, fraction):
            x, pos, pad_mask = drop_prefix(x, pos, pad_mask, prefix_len, num_dropped)
            prefix_len -= num_dropped
        if cache is None:
            mask = AttentionMask.of_padding(pad_mask, causal=True)
            latent_mask = AttentionMask.of_padding(None if pad_mask is None else pad_mask[:, prefix_len:], causal=True)
        else:
            mask, latent_mask = cache[0].expect(x, pad_mask), cache[1].expect(x[:, prefix_len:], pad_mask)
            if self.token_shift:
                remember(cache[-1], x[:, prefix_len:], pad_mask)
        return AttentionInputs(x, prefix_len, pos, mask, latent_mask, cache or [None] * len(self.windows))

    def prepare_packed(self, x: Tensor, lengths: Sequence[int]) -> AttentionInputs:
        """The same for documents that share a sequence. Each has the prefix and the latents that it has alone.

        Args:
            x: Tokens (1, T), or their embeddings, of documents, one after the other.
            lengths: Number of tokens of each.
        """
        check_packed(x, lengths, self.max_seq_len)
        dropout = self.cross_attention_dropout if self.training else 0.0
        packing = Packing.of(lengths, self.max_latents, prefix_dropout=dropout, device=x.device)
        mask = AttentionMask(causal=True, documents=packing.documents)
        latent_mask = AttentionMask(causal=True, documents=packing.documents.latents())
        cache = [None] * len(self.windows)
        x = (with_previous(x) if self.token_shift else x)[:, packing.order]
        return AttentionInputs(x, packing.prefix_len, packing.positions, mask, latent_mask, cache)

    def prepare_blocks(self, x: Tensor, prefix_len: int, pad_mask: Tensor | None, num_blocks: int) -> AttentionInputs:
        """The same for several blocks of latents. Arguments as in `forward`."""
        blocks = LatentBlocks.of(prefix_len, x.shape[1] - prefix_len, num_blocks)
        self._check(x, blocks.prefix_len, pad_mask, 0, windowed=False)  # of the last block, which has the longest
        pad_mask = padding_if_known(pad_mask)
        pos = positions(x.shape[1], pad_mask, device=x.device).expand(x.shape[0], -1)
        if self.token_shift:
            x = with_previous(x, pad_mask)
        order = blocks.order(x.device).expand(x.shape[0], -1)  # B M+N
        if self.training and self.cross_attention_dropout:
            blocks, order = blocks.dropped(order, self.cross_attention_dropout)
        x, pos = x[torch.arange(x.shape[0], device=x.device)[:, None], order], pos.gather(1, order)
        pad_mask = None if pad_mask is None else pad_mask.gather(1, order)
        mask = AttentionMask.of_padding(pad_mask, causal=True, latent_blocks=blocks)
        if pad_mask is not None:
            pad_mask = rearrange(pad_mask[:, blocks.prefix_len :], "b (k n) -> (b k) n", k=num_blocks)
        latent_mask = AttentionMask.of_padding(pad_mask, causal=True)
        cache = [None] * len(self.windows)
        return AttentionInputs(x, blocks.prefix_len, pos, mask, latent_mask, cache, num_blocks)

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """All layers, from tokens to latents (B, N, D). Tensors in, tensors out: this can be compiled."""
        rotary = RotaryPositionEmbedding.from_angles(self.frequencies(inputs.pos))
        x = self.input_adapter(inputs.x, inputs.pos)  # B M+N D
        x_prefix, x = x[:, : inputs.prefix_len], x[:, inputs.prefix_len :]
        x = self.cross_attention(x, x_prefix, rotary=rotary, cache=inputs.cache[0], mask=inputs.mask)  # B N D
        rotary = rotary.last(x.shape[1])
        if inputs.num_blocks > 1:
            x = rearrange(x, "b (k n) d -> (b k) n d", k=inputs.num_blocks)
            rotary = rotary.in_blocks(inputs.num_blocks)
        for i, layer in enumerate(self.self_attention):
            layer_rotary = rotary if i < self.num_rotary_layers else None
            x = layer(x, rotary=layer_rotary, cache=inputs.cache[i + 1], mask=inputs.latent_mask)
        return x if inputs.num_blocks == 1 else rearrange(x, "(b k) n d -> b (k n) d", k=inputs.num_blocks)

    def _check(self, x: Tensor, prefix_len: int, pad_mask: Tensor | None, num_cached: int, windowed: bool) -> None:
        if x.ndim < 2:  # what more there may be, the input adapter knows
            raise ValueError(f"tokens have shape {tuple(x.shape)}, expected (batch size, sequence length)")
        if not windowed and x.shape[1] > self.max_seq_len:
            raise ValueError(f"sequence length {x.shape[1]} exceeds max_seq_len={self.max_seq_len} of the model")
        if isinstance(prefix_len, float):  # any other number a compiler or an export may have made
            raise ValueError(f"prefix_len={prefix_len} must be an integer")
        max_prefix_len = 0 if num_cached else min(self.max_seq_len - self.max_latents, x.shape[1] - 1)
        if not 0 <= prefix_len <= max_prefix_len:
            raise ValueError(
                f"prefix_len={prefix_len} must be in [0, {max_prefix_len}] for {x.shape[1]} tokens after {num_cached} "
                f"cached ones, max_seq_len={self.max_seq_len} and max_latents={self.max_latents}"
            )
        if not windowed and x.shape[1] - prefix_len > self.max_latents:
            raise ValueError(
                f"{x.shape[1]} tokens with prefix_len={prefix_len} make {x.shape[1] - prefix_len} latents, "
                f"max_latents={self.max_latents}"
            )
        if windowed and self.training and torch.is_grad_enabled() and self.cross_attention.gradient_checkpointing:
            raise ValueError("training with activation checkpointing takes no cache: it computes everything twice")
        check_pad_mask(pad_mask, (x.shape[0], num_cached + x.shape[1]))


def attention_layer(
    attention: PrefixCrossAttention | SelfAttention,
    mlp: MLP,
    config: PerceiverARConfig,
    *,
    attention_residual: bool = True,
) -> AttentionLayer:
    """A layer with the dropout and the checkpointing of a configuration. Arguments are those of `AttentionLayer`."""
    return AttentionLayer(
        attention,
        mlp,
        attention_residual=attention_residual,
        residual_dropout=config.residual_dropout,
        activation_checkpointing=config.activation_checkpointing,
        activation_offloading=config.activation_offloading,
    )


def padding_if_known(pad_mask: Tensor | None) -> Tensor | None:
    """None if it can be seen that there is no padding: without there are faster kernels."""
    return None if pad_mask is not None and is_readable(pad_mask) and not pad_mask.any() else pad_mask


def drop_prefix(
    x: Tensor, pos: Tensor, pad_mask: Tensor | None, prefix_len: int, num_dropped: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Drops random prefix positions, others for each example (arXiv 2202.07765, section 3.3: cross-attend dropout).

    Args:
        x: Tokens (B, M + N), or pairs of them (B, M + N, 2).
        pos: Their positions (B or 1, M + N).
        pad_mask: Boolean (B, M + N), or None.
        prefix_len: Number M of prefix tokens.
        num_dropped: Number of positions to drop.

    Returns:
        The three without the dropped positions, in the same order.
    """
    batch_size, seq_len = x.shape[:2]
    kept = torch.rand(batch_size, prefix_len, device=x.device).topk(prefix_len - num_dropped, dim=1).indices
    latents = torch.arange(prefix_len, seq_len, device=x.device).expand(batch_size, -1)
    kept = torch.cat([kept.sort(dim=1).values, latents], dim=1)
    pad_mask = None if pad_mask is None else pad_mask.gather(1, kept)
    return (
        x[torch.arange(batch_size, device=x.device)[:, None], kept],
        pos.expand(batch_size, -1).gather(1, kept),
        pad_mask,
    )
