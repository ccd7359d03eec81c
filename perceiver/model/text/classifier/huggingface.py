"""Text classifier for Hugging Face: Auto classes, text-classification pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PerceiverConfig, PerceiverForSequenceClassification
from transformers.models.perceiver.modeling_perceiver import PerceiverClassifierOutput

from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter, model_converter
from perceiver.model.huggingface.forward import model_forward, pad_mask_of, text_input
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.official import OFFICIAL_CLASSIFIER, OfficialWeights, official_classification_decoder
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.common.huggingface import (
    OFFICIAL_INPUTS,
    PerceiverTextBody,
    PerceiverTextModel,
    official_encoder,
)
from perceiver.tasks import TASKS

PerceiverTextClassifierConfig = config_class(TASKS["text-classifier"])


class PerceiverTextClassifierBody(PerceiverTextBody):
    """Encoder of a text classifier, registered with `AutoModel`."""

    config_class = PerceiverTextClassifierConfig
    backend_class = TextClassifier


class PerceiverTextClassifier(PerceiverTextModel, PerceiverClassifier):
    """Text classifier, registered with `AutoModelForSequenceClassification`."""

    config_class = PerceiverTextClassifierConfig
    backend_class = TextClassifier
    body_class = PerceiverTextClassifierBody
    backend_model: TextClassifier

    @model_forward()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> PerceiverClassifierOutput:
        """Classifies texts.

        Args:
            input_ids: Token ids (B, M).
            inputs_embeds: Token embeddings (B, M, C) in their place.
            position_ids: 0 to M - 1, if they are given at all.
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: They give the loss. What they are is said by `config.problem_type`, see `classification_loss`; where
                that is None, the first labels set it, as in transformers.

        Returns:
            `loss`, if there are labels. `logits`: (B, classes), or (B, O, classes) for more than one output query.
        """
        text = self.aligned(text_input(input_ids, inputs_embeds, position_ids), attention_mask)
        logits = self.backend_model(text.x, pad_mask_of(text.attention_mask))
        return PerceiverClassifierOutput(loss=self.loss(logits, labels), logits=logits)


def official_backend_config(config: PerceiverConfig) -> TextClassifierConfig:
    return TextClassifierConfig(
        official_encoder(config),
        official_classification_decoder(config),
        num_latents=config.num_latents,
        num_latent_channels=config.d_latents,
    )


OFFICIAL = OfficialWeights(
    PerceiverForSequenceClassification, official_backend_config, modules={**OFFICIAL_INPUTS, **OFFICIAL_CLASSIFIER}
)
convert_checkpoint = checkpoint_converter(PerceiverTextClassifier)
convert_model = model_converter(PerceiverTextClassifier, OFFICIAL)


def convert_imdb_classifier_checkpoint(
    save_dir: str | Path, ckpt_url: str | Path, tokenizer_name: str, **kwargs: Any
) -> None:
    """`convert_checkpoint` of a classifier of IMDb reviews, whose classes are NEGATIVE and POSITIVE."""
    convert_checkpoint(save_dir, ckpt_url, tokenizer_name, id2label={0: "NEGATIVE", 1: "POSITIVE"}, **kwargs)


register_model(PerceiverTextClassifier)
