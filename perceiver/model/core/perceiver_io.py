"""Perceiver IO: encode, process, decode (arXiv 2107.14795, section 3 and figure 2).

    inputs (B, M, C) --cross-attention--> latents (B, N, D) --self-attention--> latents --cross-attention--> (B, O, E)

The paper's encode and process steps are our `PerceiverEncoder`, its decode step is our `PerceiverDecoder`. With more
than one cross-attention layer the encoder is that of the first Perceiver (arXiv 2103.03206, figure 1).

The latents and the learned output queries are the same for all examples of a batch. They enter the first layers as
(1, N, D): their normalisation and projection is computed once, not once per example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, QueryProvider, TrainableQueryProvider
from perceiver.model.core.cache import SharedKeysValues
from perceiver.model.core.config import DecoderConfig, EncoderConfig, PerceiverIOConfig
from perceiver.model.core.layers import MLP, AttentionLayer, CrossAttention, SelfAttention, SelfAttentionBlock
from perceiver.model.core.mask import check_pad_mask

if TYPE_CHECKING:
    from perceiver.model.core.bixt import BiXTEncoder


def init_parameters(module: nn.Module, init_scale: float) -> None:
    """Sets weights and queries to normal(0, init_scale), biases to 0, norms to those that change nothing."""
    if all(parameter.is_meta for parameter in module.parameters()):
        return  # there is nothing to set, as in `from_pretrained`, and torch takes a millisecond for each
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding | nn.Conv2d):
            nn.init.normal_(part.weight, std=init_scale)
        if isinstance(part, TrainableQueryProvider):
            nn.init.normal_(part._query, std=init_scale)
        if isinstance(bias := getattr(part, "bias", None), nn.Parameter):
            nn.init.zeros_(bias)
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.zeros_(part.running_mean)
            nn.init.ones_(part.running_var)


def as_dtype_of(parameter: Tensor, x: Tensor) -> Tensor:
    """What an adapter made, in the model's dtype: codes of positions are float32 in a bfloat16 model, too.

    Autocast, which the meta device does not know, does this itself.
    """
    device = x.device.type
    return x if device != "meta" and torch.is_autocast_enabled(device) else x.to(parameter.dtype)


@contextmanager
def fields_named(prefix: str) -> Iterator[None]:
    """Errors about heads and channels of an attention, which don't know which one it is, name the fields of configs."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}_*: {error}") from error


class PerceiverEncoder(nn.Module):
    """Maps an input of any length to N latents.

    Args:
        input_adapter: Turns the task input into (B, M, C).
        config: Attention layers.
        num_latents: Number of latents N.
        num_latent_channels: Latent channels D.
        activation_checkpointing: See `PerceiverIOConfig`.
        activation_offloading: See `PerceiverIOConfig`.
    """

    def __init__(
        self,
        input_adapter: InputAdapter,
        config: EncoderConfig,
        *,
        num_latents: int,
        num_latent_channels: int,
        activation_checkpointing: bool = False,
        activation_offloading: bool = False,
    ):
        super().__init__()
        layer = partial(
            AttentionLayer,
            activation_checkpointing=activation_checkpointing,
            activation_offloading=activation_offloading,
        )
        num_input_channels = input_adapter.num_input_channels

        def cross_attention_layer() -> AttentionLayer:
            with fields_named("encoder.num_cross_attention"):
                attention = CrossAttention(
                    num_heads=config.num_cross_attention_heads,
                    num_q_input_channels=num_latent_channels,
                    num_kv_input_channels=num_input_channels,
                    num_qk_channels=config.num_cross_attention_qk_channels
                    or (num_input_channels if config.qk_channels_of_input else None),
                    num_v_channels=config.num_cross_attention_v_channels,
                    dropout=config.dropout,
                )
            return layer(
                attention,
                MLP(num_latent_channels, config.cross_attention_widening_factor),
                attention_residual=config.cross_attention_residual,
            )

        def self_attention_layer() -> AttentionLayer:
            with fields_named("encoder.num_self_attention"):
                attention = SelfAttention(
                    num_heads=config.num_self_attention_heads,
                    num_channels=num_latent_channels,
                    num_qk_channels=config.num_self_attention_qk_channels,
                    num_v_channels=config.num_self_attention_v_channels,
                    dropout=config.dropout,
                )
            return layer(attention, MLP(num_latent_channels, config.self_attention_widening_factor))

        def self_attention_block() -> SelfAttentionBlock:
            num_layers = config.num_self_attention_layers_per_block
            return SelfAttentionBlock(*(self_attention_layer() for _ in range(num_layers)))

        self.config = config
        self.latent_provider = TrainableQueryProvider(num_latents, num_latent_channels)
        self.input_adapter = input_adapter
        self.cross_attn_1 = cross_attention_layer()
        self.self_attn_1 = self_attention_block()
        # None: later layers and blocks are the first one.
        shared = config.num_cross_attention_layers == 1 or config.first_cross_attention_layer_shared
        self.cross_attn_n = None if shared else cross_attention_layer()
        shared = config.num_self_attention_blocks == 1 or config.first_self_attention_block_shared
        self.self_attn_n = None if shared else self_attention_block()
        self.init_parameters()

    def init_parameters(self) -> None:
        """Sets initial values, and whether they are trained."""
        init_parameters(self, self.config.init_scale)
        self.requires_grad_(not self.config.freeze)

    def forward(self, x: Any, pad_mask: Tensor | None = None, *, adapted: bool = False) -> Tensor:
        """Encodes a task input.

        Args:
            x: What the input adapter takes, a tensor or a dictionary for example; if `adapted` what it has made
                (B, M, C).
            pad_mask: Boolean (B, M), True where the input is padding. No latent sees padding; positions, which the
                input adapter counts, are those of the padded input.
            adapted: Whether `x` went through the input adapter before, for a model that needs it elsewhere, too.

        Returns:
            Latents (B, N, D)
        """
        x = as_dtype_of(self.latent_provider._query, x if adapted else self.input_adapter(x))  # B M C
        check_pad_mask(pad_mask, x.shape[:2])
        first, further = self._keys_values()
        latents = self.cross_attn_1(self.latent_provider(), x, pad_mask, cache=first)  # B N D
        latents = self.self_attn_1(latents)
        cross_attn_n, self_attn_n = self.cross_attn_n or self.cross_attn_1, self.self_attn_n or self.self_attn_1
        for i in range(1, self.config.num_self_attention_blocks):
            if i < self.config.num_cross_attention_layers:
                latents = cross_attn_n(latents, x, pad_mask, cache=further)
            latents = self_attn_n(latents)
        return latents

    def _keys_values(self) -> tuple[SharedKeysValues | None, SharedKeysValues | None]:
        """Where a layer that reads the input more than once keeps its keys and values: the first, and the further ones.

        A layer with activation checkpointing keeps nothing but its inputs.
        """
        num_further = self.config.num_cross_attention_layers - 1
        is_checkpointed = self.training and self.cross_attn_1.gradient_checkpointing
        if num_further < (1 if self.cross_attn_n is None else 2) or is_checkpointed:
            return None, None
        shared = SharedKeysValues()
        return (shared if self.cross_attn_n is None else None), shared


class PerceiverDecoder(nn.Module):
    """Maps latents to outputs, one per query. Outputs don't depend on each other: decode only those you need.

    Args:
        output_adapter: Turns (B, O, F) into the task output.
        config: Attention layer.
        num_latent_channels: Latent channels D.
        output_query_provider: Makes the output queries that `forward` is not given.
        activation_checkpointing: See `PerceiverIOConfig`.
        activation_offloading: See `PerceiverIOConfig`.
    """

    def __init__(
        self,
        output_adapter: nn.Module,
        config: DecoderConfig,
        *,
        num_latent_channels: int,
        output_query_provider: QueryProvider,
        activation_checkpointing: bool = False,
        activation_offloading: bool = False,
    ):
        super().__init__()
        num_query_channels = output_query_provider.num_query_channels
        with fields_named("decoder.num_cross_attention"):
            attention = CrossAttention(
                num_heads=config.num_cross_attention_heads,
                num_q_input_channels=num_query_channels,
                num_kv_input_channels=num_latent_channels,
                num_qk_channels=config.num_cross_attention_qk_channels,
                num_v_channels=config.num_cross_attention_v_channels,
                dropout=config.dropout,
            )
        self.config = config
        self.output_query_provider = output_query_provider
        self.output_adapter = output_adapter
        self.cross_attn = AttentionLayer(
            attention,
            MLP(num_query_channels, config.cross_attention_widening_factor),
            attention_residual=config.cross_attention_residual,
            activation_checkpointing=activation_checkpointing,
            activation_offloading=activation_offloading,
        )
        self.init_parameters()

    def init_parameters(self) -> None:
        """Sets initial values, and whether they are trained."""
        init_parameters(self, self.config.init_scale)
        self.requires_grad_(not self.config.freeze)

    def forward(self, latents: Tensor, query: Tensor | None = None, **output_adapter: Any) -> Tensor:
        """Decodes latents.

        Args:
            latents: (B, N, D)
            query: Output queries (B, O, F), or (1, O, F) if they are the same for all examples. By default all those of
                the query provider.
            output_adapter: Further arguments of the output adapter.

        Returns:
            Task output, one per query.
        """
        query = self.output_query_provider() if query is None else query
        x = self.cross_attn(as_dtype_of(next(self.cross_attn.parameters()), query), latents)  # B O F
        return self.output_adapter(x, **output_adapter)


def assemble(
    config: PerceiverIOConfig, input_adapter: InputAdapter, output_adapter: nn.Module, output_queries: QueryProvider
) -> tuple[PerceiverEncoder, PerceiverDecoder]:
    """Encoder and decoder of a model configuration, the arguments of `PerceiverIO`.

    Args:
        config: Configuration of the model.
        input_adapter: Turns the task input into (B, M, C).
        output_adapter: Turns (B, O, F) into the task output.
        output_queries: Makes the output queries.
    """
    shared: Mapping[str, Any] = {
        "num_latent_channels": config.num_latent_channels,
        "activation_checkpointing": config.activation_checkpointing,
        "activation_offloading": config.activation_offloading,
    }
    encoder = PerceiverEncoder(input_adapter, config.encoder, num_latents=config.num_latents, **shared)
    return encoder, PerceiverDecoder(output_adapter, config.decoder, output_query_provider=output_queries, **shared)


class PerceiverIO(nn.Sequential):
    """An encoder and a decoder, called `0` and `1` in checkpoints."""

    def __init__(self, encoder: PerceiverEncoder | BiXTEncoder, decoder: PerceiverDecoder):
        super().__init__(encoder, decoder)

    @property
    def encoder(self) -> PerceiverEncoder:
        return cast(PerceiverEncoder, self[0])  # or what a library has put around it

    @property
    def decoder(self) -> PerceiverDecoder:
        return cast(PerceiverDecoder, self[1])

    def init_parameters(self) -> None:
        self.encoder.init_parameters()
        self.decoder.init_parameters()

    def forward(self, x: Any, pad_mask: Tensor | None = None, *, query: Tensor | None = None) -> Tensor:
        """Encodes a task input and decodes it.

        Args:
            x: What the input adapter takes.
            pad_mask: Boolean (B, M), True where the input is padding.
            query: Output queries (B, O, F), or (1, O, F). By default all those of the query provider.

        Returns:
            Task output, one per query.
        """
        return self.decoder(self.encoder(x, pad_mask), query)
