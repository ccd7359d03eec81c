"""What the Hugging Face models of text have in common."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PerceiverConfig

from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.huggingface.model import PerceiverBackendModel, pad_mask_of
from perceiver.model.huggingface.official import encoder_fields
from perceiver.model.text.common.backend import TextEncoderConfig, txt_embedding

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

    def get_input_embeddings(self) -> nn.Embedding:
        return txt_embedding(self.backend_model)

    def per_position(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None, output_positions: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Loss and logits of a `PerPositionModel`. In training, labelled positions alone are decoded: no logits."""
        pad_mask = pad_mask_of(attention_mask)
        if labels is not None and self.training and output_positions is None:
            return self.backend_model.loss(labels, input_ids, pad_mask), None
        logits = self.backend_model(input_ids, pad_mask, output_positions)
        if labels is None:
            return None, logits
        labels = labels if output_positions is None else labels.gather(1, output_positions)
        return token_cross_entropy(logits, labels), logits
