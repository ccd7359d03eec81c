"""Perceiver AR over tokens, the model of text and of symbolic audio: its loss, and what of a prompt is prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perceiver.checks import check_integer, check_range
from perceiver.model.core.adapter import TiedTokenOutputAdapter, TokenInputAdapter
from perceiver.model.core.cache import LayerCache
from perceiver.model.core.compilation import compiled, compiling, mark_dynamic
from perceiver.model.core.config import CausalSequenceModelConfig
from perceiver.model.core.loss import check_labels, token_cross_entropy
from perceiver.model.core.packing import latent_indices
from perceiver.model.core.perceiver_ar import AttentionInputs, PerceiverAR
from perceiver.model.core.perceiver_io import init_parameters
from perceiver.model.core.token_shift import TokenShiftInputAdapter


class CausalSequenceModel(PerceiverAR):
    """Perceiver AR over tokens: every latent predicts the token after its own.

    Logits come from the transposed token embedding. Text and symbolic audio use this model.
    """

    def __init__(self, config: CausalSequenceModelConfig):
        adapter_class = TokenShiftInputAdapter if config.token_shift else TokenInputAdapter
        input_adapter = adapter_class(
            vocab_size=config.vocab_size,
            max_seq_len=config.max_seq_len,
            num_input_channels=config.num_channels,
            abs_pos_emb=config.abs_pos_emb,
        )
        super().__init__(
            input_adapter,
            config,
            max_seq_len=config.max_seq_len,
            max_latents=config.max_latents,
            num_rotary_channels=config.num_rotary_channels,
        )
        self.config = config
        self.out_norm = nn.LayerNorm(config.num_channels) if config.output_norm else nn.Identity()
        self.output_adapter = TiedTokenOutputAdapter(vocab_size=config.vocab_size, bias=config.output_bias)
        self.init_parameters()

    @property
    def txt_embedding(self) -> nn.Embedding:
        assert isinstance(self.input_adapter, TokenInputAdapter)
        return self.input_adapter.txt_embedding

    def init_parameters(self) -> None:
        init_parameters(self, self.config.init_scale)

    def forward(
        self,
        x: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        num_blocks: int = 1,
    ) -> Tensor:
        """Predicts the token after each latent's. Arguments and errors as in `PerceiverAR`.

        Returns:
            Logits (B, N, vocabulary)
        """
        return self.outputs(x, prefix_len, pad_mask, cache, num_blocks)[1]

    def latents(
        self,
        x: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        num_blocks: int = 1,
    ) -> Tensor:
        """What logits are made of: latents (B, N, D) after the output norm. Arguments as in `forward`."""
        return self.out_norm(super().forward(x, prefix_len, pad_mask, cache, num_blocks))

    def forward_packed(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Predicts the token after each latent's, for documents that share a sequence and know nothing of each other.

        Args:
            x: Tokens (1, T) of documents, one after the other.
            lengths: Number of tokens of each, at most `max_seq_len`. The last `max_latents` are its latents.

        Returns:
            Logits (1, N, vocabulary) of the latents of all documents, those that each document has alone.

        Raises:
            ValueError: if the lengths are not those of `x`, or a document is longer than the model allows.
        """
        return self.logits(self.latents_packed(x, lengths))

    def latents_packed(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """What logits are made of: latents (1, N, D) after the output norm. Arguments as in `forward_packed`."""
        return self.out_norm(self.attend(self.prepare_packed(x, lengths)))

    def outputs(
        self,
        x: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        num_blocks: int = 1,
        *,
        num_logits: int = 0,
        compile_options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents and logits. Arguments and errors as in `forward`, and:

        Args:
            num_logits: Number of last latents to make logits of. 0: of all.
            compile_options: Arguments of `torch.compile`, if steps are to be compiled: calls with the next token alone,
                with a static cache and without gradients. None: they are not.

        Returns:
            Latents (B, N, D) after the output norm, logits (B, up to N, vocabulary)
        """
        inputs = self.prepare(x, prefix_len, pad_mask, cache, num_blocks)
        if compile_options is None or not inputs.is_static_step or torch.is_grad_enabled():
            return self._outputs(inputs, num_logits)
        inputs = inputs.of_one_form()
        mark_dynamic(inputs.cache, [inputs.mask.allowed, inputs.latent_mask.allowed])
        with compiling(f"a step of {x.shape[0]} token{'s' if x.shape[0] > 1 else ''}"):
            return compiled(CausalSequenceModel._outputs, compile_options)(self, inputs, 0)

    def _outputs(self, inputs: AttentionInputs, num_logits: int) -> tuple[Tensor, Tensor]:
        latents = self.out_norm(self.attend(inputs))
        return latents, self.logits(latents[:, -num_logits:])

    def logits(self, latents: Tensor) -> Tensor:
        """Result of `latents` (B, N, D) -> logits (B, N, vocabulary)"""
        return self.output_adapter(latents, self.txt_embedding.weight)

    def loss(self, labels: Tensor, x: Tensor, pad_mask: Tensor | None = None, num_blocks: int = 1) -> Tensor:
        """Mean cross-entropy over the labels of the last `max_latents` positions. All others are prefix.

        With more blocks it is the mean over the labels of so many times `max_latents` positions, or of as many blocks
        as there are in a shorter sequence.

        Args:
            labels: The token after each of `x` (B, M), -100 where nothing is to be predicted.
            x: Tokens (B, M).
            pad_mask: Boolean (B, M), True where `x` is padding, which predicts nothing.
            num_blocks: Number of blocks of `max_latents` positions: see `forward`.

        Returns:
            Scalar. 0 if there are no labels.

        Raises:
            ValueError: if the sequence is shorter than `max_latents` or shapes differ, and as `forward`.
        """
        if x.shape[1] < self.max_latents:
            raise ValueError(f"sequence length {x.shape[1]} is less than max_latents={self.max_latents}")
        check_labels(labels, x)
        labels = labels if pad_mask is None else labels.masked_fill(pad_mask, -100)
        num_blocks = self.num_loss_blocks(x.shape[1], num_blocks)
        prefix_len = x.shape[1] - num_blocks * self.max_latents
        return token_cross_entropy(self(x, prefix_len, pad_mask, num_blocks=num_blocks), labels[:, prefix_len:])

    def num_loss_blocks(self, seq_len: int, num_blocks: int) -> int:
        """How many of `num_blocks` blocks of `max_latents` positions there are in a sequence, at least 1."""
        if num_blocks < 1:
            raise ValueError(f"a loss of {num_blocks} blocks of latents: it must be at least 1")
        return max(min(num_blocks, seq_len // self.max_latents), 1)

    def loss_packed(self, labels: Tensor, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """The same for documents that share a sequence: labels (1, T) and what `forward_packed` takes."""
        check_labels(labels, x)
        logits = self.forward_packed(x, lengths)
        return token_cross_entropy(logits, labels[:, latent_indices(lengths, self.max_latents, device=x.device)])


def prompt_prefix_len(
    prompt_len: int, num_latents: int | None, prefix_len: int | None = None, *, max_seq_len: int, max_latents: int
) -> int:
    """Number of prompt tokens that don't start as latents.

    A prompt longer than `max_seq_len` is treated like its last `max_seq_len` tokens: no model sees the others.

    Args:
        prompt_len: Number of tokens in the prompt.
        num_latents: Number of its last tokens that start as latents, all of a shorter prompt. Default: 1, or as many as
            are needed for the others to fit into the prefix.
        prefix_len: The result, instead of `num_latents`.
        max_seq_len: Largest number of positions.
        max_latents: Largest number of latents.

    Raises:
        ValueError: if the prompt is empty, a number is out of range or no integer, or both are given.
    """
    if prompt_len < 1:
        raise ValueError("the prompt is empty, it must have at least one token")
    if prefix_len is not None:
        check_range(0, prompt_len - 1, prefix_len=prefix_len)
        if num_latents is not None:
            raise ValueError(f"give either num_latents={num_latents} or prefix_len={prefix_len}")
        return prefix_len
    num_seen = min(prompt_len, max_seq_len)
    lowest = max(num_seen - (max_seq_len - max_latents), 1)
    num_latents = lowest if num_latents is None else num_latents
    check_integer(num_latents=num_latents)
    if not lowest <= num_latents <= max_latents:
        raise ValueError(
            f"num_latents={num_latents} must be in [{lowest}, {max_latents}] for a prompt of {prompt_len} tokens, "
            f"max_seq_len={max_seq_len} and max_latents={max_latents}"
        )
    return prompt_len - min(num_latents, prompt_len)
