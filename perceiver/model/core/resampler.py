"""Perceiver resampler: turns any number of features into N of the same channels (Flamingo, arXiv 2204.14198, A.1.1).

    features (B, M, C) -> N learned latents attend to features and to themselves, an MLP, and so on -> (B, N, C)

It is the module between an image encoder and a language model in Flamingo, Idefics and others, and fits between any two
models of which the second wants few inputs. There is no self-attention of its own: each layer's keys and values are
made of features and latents. Layers have no biases; and, as in Idefics, a LayerNorm is last.

The paper's names: features x_f, latents x, R of them (our N).
"""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn

from perceiver.model.core.adapter import TrainableQueryProvider
from perceiver.model.core.layers import MLP, AttentionLayer, PrefixCrossAttention, check_channels
from perceiver.model.core.mask import check_pad_mask
from perceiver.model.core.perceiver_io import init_parameters


class PerceiverResampler(nn.Module):
    """Resampler of features, or of features of the frames of a video.

    Args:
        num_channels: Channels C of features, latents and outputs.
        num_latents: Number of latents N.
        num_layers: Number of layers.
        num_heads: Attention heads H.
        num_qk_channels: Query, key and value channels (default: C).
        num_frames: Largest number of frames T. Frames have a learned time embedding; without it there are none.
        widening_factor: Hidden channels of the MLPs, in multiples of C.
        activation: Activation of the MLPs. Idefics has `nn.ReLU`, Flamingo its square.
        init_scale: Standard deviation of initial weights, latents and time embeddings.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_latents: int = 64,
        num_layers: int = 6,
        num_heads: int = 8,
        num_qk_channels: int | None = None,
        num_frames: int | None = None,
        widening_factor: int = 4,
        activation: Callable[[], nn.Module] = nn.GELU,
        init_scale: float = 0.02,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} must be at least 1")

        def layer() -> AttentionLayer:
            attention = PrefixCrossAttention(
                num_channels=num_channels,
                num_heads=num_heads,
                num_qk_channels=num_qk_channels,
                qkv_bias=False,
                out_bias=False,
                causal=False,
            )
            return AttentionLayer(attention, MLP(num_channels, widening_factor, bias=False, activation=activation))

        self.latent_provider = TrainableQueryProvider(num_latents, num_channels)
        self.time_embedding = nn.Embedding(num_frames, num_channels) if num_frames else None
        self.layers = nn.ModuleList(layer() for _ in range(num_layers))
        self.norm = nn.LayerNorm(num_channels)
        init_parameters(self, init_scale)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Resamples features.

        Args:
            x: Features (B, M, C), or (B, T, M, C) of T frames, which are resampled together.
            pad_mask: Boolean (B, M), or (B, T, M), True where there is padding, which no latent sees.

        Returns:
            (B, N, C)
        """
        check_pad_mask(pad_mask, x.shape[:-1])
        if x.ndim == 4:
            x = rearrange(self._add_time(x), "b t m c -> b (t m) c")
            pad_mask = None if pad_mask is None else rearrange(pad_mask, "b t m -> b (t m)")
        check_channels("features", x, self.latent_provider.num_query_channels)
        latents = self.latent_provider().expand(x.shape[0], -1, -1)
        if pad_mask is not None:  # latents are keys, too, and never padding
            pad_mask = nn.functional.pad(pad_mask, (0, latents.shape[1]))
        for layer in self.layers:
            latents = layer(latents, x, pad_mask)
        return self.norm(latents)

    def _add_time(self, x: Tensor) -> Tensor:
        num_frames = 0 if self.time_embedding is None else self.time_embedding.num_embeddings
        if self.time_embedding is None or x.shape[1] > num_frames:
            raise ValueError(f"{x.shape[1]} frames exceed num_frames={num_frames} of the resampler")
        return x + rearrange(self.time_embedding.weight[: x.shape[1]], "t c -> t 1 c")
