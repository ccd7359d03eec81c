"""What the Hugging Face models of text have in common."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_type_hints

from torch import Tensor
from transformers import PerceiverConfig
from transformers.modeling_outputs import BaseModelOutput

from perceiver.model.core.config import PerceiverIOConfig
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.model import (
    PerceiverBackendModel,
    PerceiverBody,
    model_forward,
    pad_mask_of,
    text_input,
)
from perceiver.model.huggingface.official import encoder_fields
from perceiver.model.text.common.backend import TextEncoderConfig

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
        pad_mask = pad_mask_of(attention_mask)
        if labels is not None and self.training and output_positions is None:
            return self.backend_model.loss(labels, x, pad_mask), None
        logits = self.backend_model(x, pad_mask, output_positions)
        if labels is None:
            return None, logits
        labels = labels if output_positions is None else labels.gather(1, output_positions)
        return token_cross_entropy(logits, labels), logits


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
    ) -> BaseModelOutput:
        """Token ids (B, M), or their embeddings (B, M, C), and a mask (B, M), 0 = padding -> latents (B, N, D)"""
        x = text_input(input_ids, inputs_embeds, position_ids)
        return self.output(self.backend_model.encoder(x, pad_mask_of(attention_mask)))
