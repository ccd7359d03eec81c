"""Masked language model for Hugging Face: Auto classes, the fill-mask pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PerceiverConfig, PerceiverForMaskedLM
from transformers.models.perceiver.modeling_perceiver import PerceiverMaskedLMOutput

from perceiver.model.core.adapter import TiedTokenOutputAdapter, TokenOutputAdapter
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter, model_converter
from perceiver.model.huggingface.embeddings import tied_output
from perceiver.model.huggingface.forward import model_forward, text_input
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.official import OfficialWeights
from perceiver.model.text.common.huggingface import (
    OFFICIAL_INPUTS,
    PerceiverTextBody,
    PerceiverTextModel,
    official_encoder,
)
from perceiver.model.text.mlm.backend import MaskedLanguageModel, MaskedLanguageModelConfig, TextDecoderConfig
from perceiver.tasks import TASKS

PerceiverMaskedLanguageModelConfig = config_class(TASKS["mlm"])


class PerceiverMaskedLanguageModelBody(PerceiverTextBody):
    """Encoder of a masked language model, registered with `AutoModel`."""

    config_class = PerceiverMaskedLanguageModelConfig
    backend_class = MaskedLanguageModel


class PerceiverMaskedLanguageModel(PerceiverTextModel):
    """Masked language model, registered with `AutoModelForMaskedLM`."""

    config_class = PerceiverMaskedLanguageModelConfig
    backend_class = MaskedLanguageModel
    body_class = PerceiverMaskedLanguageModelBody
    backend_model: MaskedLanguageModel

    def get_output_embeddings(self) -> nn.Module:
        adapter = self.backend_model.decoder.output_adapter
        if isinstance(adapter, TiedTokenOutputAdapter):
            return tied_output(self.backend_model.txt_embedding, adapter)
        assert isinstance(adapter, TokenOutputAdapter)
        return adapter.linear

    @model_forward()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> PerceiverMaskedLMOutput:
        """Predicts tokens.

        Args:
            input_ids: Token ids (B, M).
            inputs_embeds: Token embeddings (B, M, C) in their place.
            position_ids: 0 to M - 1, if they are given at all.
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: Token ids (B, M) to predict, -100 where nothing is to be predicted. They give the loss.
            output_positions: Indices (B, P) of the positions to predict. By default all, except in training with
                `labels`: then only labelled positions are decoded and `logits` are None.

        Returns:
            `loss`, if there are labels: mean cross-entropy over labelled positions. `logits`: (B, M, vocabulary), or
            (B, P, vocabulary).
        """
        x = text_input(input_ids, inputs_embeds, position_ids)
        loss, logits = self.per_position(x, attention_mask, labels, output_positions)
        return PerceiverMaskedLMOutput(loss=loss, logits=logits)


def official_backend_config(config: PerceiverConfig) -> MaskedLanguageModelConfig:
    decoder = TextDecoderConfig(
        vocab_size=config.vocab_size,
        max_seq_len=config.max_position_embeddings,
        # PerceiverForMaskedLM fixes these four, whatever its configuration says.
        num_cross_attention_heads=8,
        num_cross_attention_qk_channels=256,
        cross_attention_widening_factor=1,
        cross_attention_residual=False,
        num_cross_attention_v_channels=config.d_model,
        dropout=config.attention_probs_dropout_prob,
        init_scale=config.initializer_range,
    )
    return MaskedLanguageModelConfig(
        official_encoder(config), decoder, num_latents=config.num_latents, num_latent_channels=config.d_latents
    )


OFFICIAL = OfficialWeights(
    PerceiverForMaskedLM,
    official_backend_config,
    modules={
        **OFFICIAL_INPUTS,
        "1.cross_attn": "perceiver.decoder.decoding_cross_attention",
        "1.output_query_provider._query": "perceiver.decoder.output_position_encodings.position_embeddings",
        "1.output_adapter": "embedding_decoder",
    },
)
convert_checkpoint = checkpoint_converter(PerceiverMaskedLanguageModel)
convert_model = model_converter(PerceiverMaskedLanguageModel, OFFICIAL)
register_model(PerceiverMaskedLanguageModel)
