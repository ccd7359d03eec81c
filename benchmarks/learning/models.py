"""The models of the tables that learn by gradients: Perceivers, Transformers of the same layers, and small nets.

All attention models of a table have four layers of attention and MLP of the same channels, so about the same number of
parameters, and the same attention kernel: layers are those of `perceiver.model.core`.

Those of `NextTokens` are here: perceiver-ar, perceiver-ar-2-reads, perceiver-ar-token-shift, perceiver-ar-blocks and
decoder, and for benchmarks/learning/long.py decoder-1024 and decoder-1024-last. A name that ends in token-shift-rotary
is of a model with token shift whose positions are rotary embeddings alone, without learned ones. Models of
`Classification` are in benchmarks/learning/classifiers.py, what has no steps in benchmarks/learning/counters.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks.learning.classifiers import (
    CHANNELS,
    CNN,
    HEADS,
    INIT_SCALE,
    WIDENING,
    BiXTLearner,
    Encoder,
    PerceiverIOLearner,
    PointNet,
)
from benchmarks.learning.tasks import NextTokens, Task
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig
from perceiver.model.core.layers import MLP, AttentionLayer, SelfAttention
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.modules import TokenInputAdapter
from perceiver.model.core.perceiver_ar import AttentionInputs
from perceiver.model.core.perceiver_io import init_parameters
from perceiver.model.core.position import FrequencyPositionEncoding, RotaryPositionEmbedding, positions
from perceiver.model.core.token_shift import TokenShiftInputAdapter, with_previous


class RereadingModel(CausalSequenceModel):
    """Perceiver AR whose second self-attention layer is another cross-attention: latents read the prefix again.

    What a latent looks for then may depend on what it found: a position, whose neighbour it wants. Without a cache.
    """

    def __init__(self, config: CausalSequenceModelConfig):
        super().__init__(config)
        self.self_attention[1] = self.cross_attention_layer(config, config.num_channels)
        self.init_parameters()

    def attend(self, inputs: AttentionInputs) -> Tensor:
        if inputs.cache[0] is not None:
            raise ValueError("this model of the benchmark takes no cache")
        rotary = RotaryPositionEmbedding.from_angles(self.frequencies(inputs.pos))
        x = self.input_adapter(inputs.x, inputs.pos)  # B M+N D
        prefix, x = x[:, : inputs.prefix_len], x[:, inputs.prefix_len :]
        first, second, *others = self.self_attention
        latent_rotary = rotary.last(x.shape[1])
        x = self.cross_attention(x, prefix, rotary=rotary, mask=inputs.mask)  # B N D
        x = first(x, rotary=latent_rotary, mask=inputs.latent_mask)
        x = second(x, prefix, rotary=rotary, mask=inputs.mask)
        for layer in others:
            x = layer(x, rotary=latent_rotary, mask=inputs.latent_mask)
        return x


class PerceiverARLearner(nn.Module):
    """Perceiver AR: one causal cross-attention, self-attention of the last positions. `options` are of its config."""

    def __init__(self, task: NextTokens, model_class: type[CausalSequenceModel] = CausalSequenceModel, **options: bool):
        super().__init__()
        self.num_scored = task.num_scored
        self.model = model_class(
            CausalSequenceModelConfig(
                vocab_size=task.vocab_size,
                max_seq_len=task.seq_len,
                max_latents=task.num_latents,
                num_channels=CHANNELS,
                num_heads=HEADS,
                num_self_attention_layers=task.num_layers - 1,
                num_self_attention_rotary_layers=-1,
                cross_attention_dropout=0.0,  # what is dropped from the prefix can't be recalled
                output_norm=True,
                init_scale=INIT_SCALE,
                **options,
            )
        )

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Of a window of latents that ends anywhere in the scored positions, where they are more than the latents."""
        shortest = x.shape[1] - self.num_scored + self.model.max_latents
        end = int(torch.randint(shortest, x.shape[1] + 1, ()))
        return self.model.loss(labels[:, :end], x[:, :end])

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, scored, vocabulary), block after block of latents."""
        first, size = x.shape[1] - self.num_scored, self.model.max_latents
        return torch.cat([self.model(x[:, : i + size], i) for i in range(first, x.shape[1], size)], dim=1)


class BlocksLearner(PerceiverARLearner):
    """The same with a loss of all blocks of latents that have labels, as the decoder has one of all positions."""

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        size, labelled = self.model.max_latents, (labels != -100).any(dim=0).nonzero()[:, 0]
        return self.model.loss(labels, x, num_blocks=-(-(x.shape[1] - int(labelled[0])) // size))


class Decoder(nn.Module):
    """A decoder-only Transformer: every position attends to all before it, in every layer, and predicts.

    Its options are those of Perceiver AR, and do the same.
    """

    def __init__(self, task: NextTokens, token_shift: bool = False, abs_pos_emb: bool = True):
        super().__init__()
        self.num_scored = task.num_scored
        self.token_shift = token_shift
        self.embedding = (TokenShiftInputAdapter if token_shift else TokenInputAdapter)(
            vocab_size=task.vocab_size,
            max_seq_len=task.seq_len,
            num_input_channels=CHANNELS,
            abs_pos_emb=abs_pos_emb,
        )
        self.frequencies = FrequencyPositionEncoding(CHANNELS // HEADS // (2 if abs_pos_emb else 1))
        self.layers = nn.ModuleList(
            AttentionLayer(
                SelfAttention(num_channels=CHANNELS, num_heads=HEADS, causal=True, qkv_bias=False, out_bias=False),
                MLP(CHANNELS, WIDENING, bias=False),
            )
            for _ in range(task.num_layers)
        )
        self.norm = nn.LayerNorm(CHANNELS)
        init_parameters(self, INIT_SCALE)

    def all_logits(self, x: Tensor, num_last: int) -> Tensor:
        rotary = RotaryPositionEmbedding.from_angles(self.frequencies(positions(x.shape[1])))
        x = self.embedding(with_previous(x) if self.token_shift else x)
        for layer in self.layers:
            x = layer(x, rotary=rotary)
        return self.norm(x[:, -num_last:]) @ self.embedding.txt_embedding.weight.T

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        return token_cross_entropy(self.all_logits(x, x.shape[1]), labels)

    def logits(self, x: Tensor) -> Tensor:
        return self.all_logits(x, self.num_scored)


class ShortDecoder(Decoder):
    """The same with a shorter context, which in the test is the last part of a sequence.

    In training it is that, too, or, if `is_cut`, all parts of this length.
    """

    def __init__(self, task: NextTokens, seq_len: int, is_cut: bool, **options: bool):
        super().__init__(replace(task, seq_len=seq_len), **options)
        self.seq_len, self.is_cut = seq_len, is_cut

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        if not self.is_cut:
            x, labels = x[:, -self.seq_len :], labels[:, -self.seq_len :]
        x, labels = (rearrange(part, "b (k m) -> (b k) m", m=self.seq_len) for part in (x, labels))
        return super().loss(x, labels)

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x[:, -self.seq_len :])


TOKEN_SHIFT_ROTARY = {"token_shift": True, "abs_pos_emb": False}
LEARNERS: dict[str, Callable[..., nn.Module]] = {
    "perceiver-ar": PerceiverARLearner,
    "perceiver-ar-2-reads": partial(PerceiverARLearner, model_class=RereadingModel),
    "perceiver-ar-token-shift": partial(PerceiverARLearner, token_shift=True),
    "perceiver-ar-token-shift-rotary": partial(PerceiverARLearner, **TOKEN_SHIFT_ROTARY),
    "perceiver-ar-blocks": BlocksLearner,
    "perceiver-ar-blocks-token-shift-rotary": partial(BlocksLearner, **TOKEN_SHIFT_ROTARY),
    "decoder": Decoder,
    "decoder-token-shift-rotary": partial(Decoder, **TOKEN_SHIFT_ROTARY),
    "decoder-1024": partial(ShortDecoder, seq_len=1024, is_cut=True),
    "decoder-1024-last": partial(ShortDecoder, seq_len=1024, is_cut=False),
    "decoder-1024-last-token-shift-rotary": partial(ShortDecoder, seq_len=1024, is_cut=False, **TOKEN_SHIFT_ROTARY),
    "perceiver-io": PerceiverIOLearner,
    "bixt": BiXTLearner,
    "bixt-16": partial(BiXTLearner, num_latents=16, token_mlp=False),  # its steps cost about those of Perceiver IO
    "encoder": Encoder,
    "cnn": CNN,
    "pointnet": PointNet,
}


def models_of(task: Task) -> list[str]:
    """The models that can do a task."""
    if isinstance(task, NextTokens):
        has_blocks = task.num_scored > task.num_latents or task.text is not None  # labels of more than one block
        names = [
            "perceiver-ar",
            "perceiver-ar-2-reads",
            "perceiver-ar-token-shift",
            "perceiver-ar-token-shift-rotary",
            "perceiver-ar-blocks",
            "decoder",
            "decoder-token-shift-rotary",
            "ngram",
        ]
        return [name for name in names if has_blocks or name != "perceiver-ar-blocks"]
    if task.vocab_size:
        return ["perceiver-io", "bixt", "bixt-16", "encoder", "boosting"]
    return ["perceiver-io", "bixt", "bixt-16", "encoder", *(["cnn", "boosting"] if task.is_grid else ["pointnet"])]
