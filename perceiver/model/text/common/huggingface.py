"""What the Hugging Face models of text have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import torch
from torch import Tensor
from transformers import PerceiverConfig
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions

from perceiver.model.core.adapter import is_readable
from perceiver.model.core.config import PerceiverIOConfig
from perceiver.model.core.loss import check_labels, token_cross_entropy
from perceiver.model.huggingface.body import PerceiverBody
from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.forward import model_forward, pad_mask_of, text_input
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.official import encoder_fields
from perceiver.model.text.common.backend import PerPositionModel, TextEncoderConfig

OFFICIAL_INPUTS = {
    "0.input_adapter.txt_embedding": "perceiver.input_preprocessor.embeddings",
    "0.input_adapter.pos_embedding": "perceiver.input_preprocessor.position_embeddings",
}


def official_encoder(config: PerceiverConfig) -> TextEncoderConfig:
    """The encoder of transformers' Perceiver models of text."""
    return TextEncoderConfig(
        vocab_size=config.vocab_size,
        max_seq_len=config.max_position_embeddings,
        num_input_channels=config.d_model,
        **encoder_fields(config, num_input_channels=config.d_model),
    )


class PerceiverTextModel(PerceiverBackendModel):
    """Base of models with a text encoder."""

    @classmethod
    def adapted_config(cls, config: PerceiverBackendConfig) -> PerceiverBackendConfig:
        """The encoder of `config`, and a decoder with one head, whose queries have as many channels as the latents."""
        source = config.backend_config
        assert isinstance(source, PerceiverIOConfig) and isinstance(source.encoder, TextEncoderConfig)
        backend_config_class: Any = cls.config_class.backend_config_class
        decoder_class = get_type_hints(backend_config_class)["decoder"]
        values = {
            "num_cross_attention_heads": 1,
            "num_classes": config.num_labels,
            **{name: getattr(source.encoder, name) for name in ("vocab_size", "max_seq_len", "dropout", "init_scale")},
        }
        names = {field.name for field in fields(decoder_class)}
        if "vocab_size" not in names:  # queries of a tied output have the channels of the token embedding
            values["num_output_query_channels"] = source.num_latent_channels
        decoder = decoder_class(**{name: value for name, value in values.items() if name in names})
        backend_config = backend_config_class(
            encoder=replace(source.encoder),
            decoder=decoder,
            num_latents=source.num_latents,
            num_latent_channels=source.num_latent_channels,
        )
        kept = ("bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class")
        kwargs = {name: getattr(config, name, None) for name in kept}
        if "num_classes" in names:
            kwargs |= {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
        return cls.config_class(backend_config, **kwargs)

    def per_position(
        self, x: Tensor, attention_mask: Tensor | None, labels: Tensor | None, output_positions: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Loss and logits of a `PerPositionModel`. In training, labelled positions alone are decoded: no logits."""
        if labels is not None:
            check_labels(labels, x)
        text = self.aligned(x, attention_mask)
        pad_mask = pad_mask_of(text.attention_mask)
        if labels is not None and self.training and output_positions is None:
            return self.backend_model.loss(text.moved(labels), text.x, pad_mask), None
        logits = text.outputs(self.backend_model, pad_mask, output_positions)
        if labels is None:
            return None, logits
        if output_positions is not None:  # (1, P) are the same in all examples
            labels = labels.gather(1, output_positions.expand(labels.shape[0], -1))
        return token_cross_entropy(logits, labels), logits

    def aligned(self, x: Tensor, attention_mask: Tensor | None) -> AlignedText:
        """The texts of a batch without padding on their left, which goes to their right.

        Positions are those of columns, and masks are arbitrary: what they hide need not be padding. Padding are the
        first columns that hold the pad token and are hidden. Embeddings (B, M, C) don't show it.
        """
        pad_token_id = self.config.pad_token_id
        if pad_token_id is None and getattr(self.config, "tokenizer_class", None) == "PerceiverTokenizer":
            pad_token_id = 0  # published configs have no more than the tokenizer's class
        if pad_token_id is None or attention_mask is None or x.shape != attention_mask.shape:
            return AlignedText(x, attention_mask)
        is_padding = (x == pad_token_id) & (attention_mask == 0)
        num_pads = is_padding.int().cumprod(dim=1).sum(dim=1, keepdim=True)  # B 1
        text = AlignedText(x, attention_mask, num_pads)
        return AlignedText(text.moved(x), text.moved(attention_mask), num_pads)


@dataclass(frozen=True)
class AlignedText:
    """Texts (B, M) that begin in the first column.

    Attributes:
        x: Token ids (B, M), or their embeddings (B, M, C).
        attention_mask: (B, M), 0 = padding.
        num_pads: By how many columns each was moved (B, 1). None: nothing was.
    """

    x: Tensor
    attention_mask: Tensor | None
    num_pads: Tensor | None = None

    def moved(self, x: Tensor) -> Tensor:
        """Values of columns (B, M), moved as the texts were."""
        if self.num_pads is None:
            return x
        columns = torch.arange(x.shape[1], device=x.device)
        return x.gather(1, (columns + self.num_pads) % x.shape[1])

    def outputs(self, model: PerPositionModel, pad_mask: Tensor | None, output_positions: Tensor | None) -> Tensor:
        """Logits (B, M, E) of the columns of the texts as they were, or (B, P, E) of some."""
        if output_positions is not None:
            if self.num_pads is not None:
                shifted, length = output_positions - self.num_pads, self.x.shape[1]
                is_pad = (output_positions >= 0) & (shifted < 0)
                output_positions = torch.where(is_pad, shifted + length, shifted)
            return model(self.x, pad_mask, output_positions)
        logits = model(self.x, pad_mask)
        if self.num_pads is None or (is_readable(self.num_pads) and not self.num_pads.any()):
            return logits
        columns = torch.arange(logits.shape[1], device=logits.device)
        index = (columns - self.num_pads) % logits.shape[1]  # B M
        return logits.gather(1, index[..., None].expand_as(logits))


class PerceiverTextBody(PerceiverBody, PerceiverTextModel):
    """The encoder of a text model."""

    @model_forward()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithCrossAttentions:
        """Token ids (B, M), or their embeddings (B, M, C), and a mask (B, M), 0 = padding -> latents (B, N, D)"""
        text = self.aligned(text_input(input_ids, inputs_embeds, position_ids), attention_mask)
        return self.output(self.backend_model.encoder(text.x, pad_mask_of(text.attention_mask)))
