"""Models of other libraries for Hugging Face: Auto classes, generation, Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from perceiver.model.core.classification import classification_loss, problem_type_of
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.foreign.backend import (
    GooglePerceiverAR,
    LucidrainsPerceiver,
    LucidrainsPerceiverAR,
    LucidrainsPerceiverIO,
    LucidrainsPerceiverLM,
)
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.forward import pad_mask_of
from perceiver.model.huggingface.generation import CausalSequenceGenerationModel
from perceiver.model.huggingface.model import PerceiverBackendModel, register_model
from perceiver.model.huggingface.saving import text_tokenizer
from perceiver.tasks import FOREIGN

LucidrainsPerceiverModelConfig = config_class(FOREIGN["lucidrains-perceiver"])
LucidrainsPerceiverIOModelConfig = config_class(FOREIGN["lucidrains-perceiver-io"])
LucidrainsPerceiverLMForMaskedLMConfig = config_class(FOREIGN["lucidrains-perceiver-lm"])
LucidrainsPerceiverARForCausalLMConfig = config_class(FOREIGN["lucidrains-perceiver-ar"])
GooglePerceiverARForCausalLMConfig = config_class(FOREIGN["google-perceiver-ar"])


@dataclass
class LucidrainsPerceiverOutput(ModelOutput):
    """Output of `LucidrainsPerceiverModel` and `LucidrainsPerceiverIOModel`.

    Attributes:
        loss: If there are labels.
        logits: (B, classes) of a Perceiver, (B, O, E) of a Perceiver IO. None without head or queries.
        last_hidden_state: Latents (B, N, D), where there are no logits.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LucidrainsPerceiverModel(PerceiverClassifier):
    """Perceiver of perceiver-pytorch, registered with `AutoModel`."""

    config_class = LucidrainsPerceiverModelConfig
    backend_class = LucidrainsPerceiver
    accepts_loss_kwargs = False  # losses are means over a batch
    backend_model: LucidrainsPerceiver
    main_input_name = "inputs"

    @can_return_tuple
    def forward(
        self, inputs: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LucidrainsPerceiverOutput:
        """Classifies inputs.

        Args:
            inputs: Values (B, ..., channels), channels last: images (B, H, W, channels), for example.
            attention_mask: (B, ...) or (B, M), 0 where `inputs` are padding.
            labels: They give the loss. What they are is said by `config.problem_type`, see `classification_loss`; where
                that is None, the first labels set it, as in transformers.
        """
        output = self.backend_model(inputs, pad_mask_of(attention_mask))
        if self.backend_model.config.decoder is None:
            if labels is not None:
                raise ValueError("labels were given, but this model has no classifier: it was built without")
            return LucidrainsPerceiverOutput(last_hidden_state=output)
        return LucidrainsPerceiverOutput(loss=self.loss(output, labels), logits=output)

    def _check_labels(self) -> None:
        if self.backend_model.config.decoder is not None:
            super()._check_labels()


class LucidrainsPerceiverIOModel(PerceiverBackendModel):
    """Perceiver IO of perceiver-pytorch, registered with `AutoModel`. Every call brings its output queries."""

    config_class = LucidrainsPerceiverIOModelConfig
    backend_class = LucidrainsPerceiverIO
    accepts_loss_kwargs = False  # losses are means over a batch
    backend_model: LucidrainsPerceiverIO
    main_input_name = "inputs"

    @can_return_tuple
    def forward(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        queries: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LucidrainsPerceiverOutput:
        """Encodes, and decodes if there are queries.

        Args:
            inputs: (B, M, C)
            attention_mask: (B, M), 0 where `inputs` are padding.
            queries: (B, O, F), or (1, O, F) or (O, F) if they are the same for all examples.
            labels: Labels of the O outputs: classes (B, O), -100 where there is none, or numbers (B, O, E). They give
                the loss of `config.problem_type`, see `classification_loss`. Where that is None, classes are of one
                label each, numbers are a regression.
        """
        latents = self.backend_model.encoder(inputs, pad_mask_of(attention_mask))
        if queries is None:
            if labels is not None:
                raise ValueError("labels were given without queries: there are no outputs to compare them with")
            return LucidrainsPerceiverOutput(last_hidden_state=latents)
        logits = self.backend_model.decode(latents, queries)
        loss = None
        if labels is not None:
            problem_type = self.config.problem_type or ("regression" if labels.is_floating_point() else None)
            loss = classification_loss(logits, labels, problem_type or problem_type_of(labels, logits.shape[-1]))
        return LucidrainsPerceiverOutput(loss=loss, logits=logits)


class LucidrainsPerceiverLMForMaskedLM(PerceiverBackendModel):
    """Language model of perceiver-pytorch, registered with `AutoModelForMaskedLM`."""

    config_class = LucidrainsPerceiverLMForMaskedLMConfig
    backend_class = LucidrainsPerceiverLM
    accepts_loss_kwargs = False  # losses are means over a batch
    backend_model: LucidrainsPerceiverLM

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> MaskedLMOutput:
        """Predicts tokens.

        Args:
            input_ids: Token ids (B, M).
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: Token ids (B, M) to predict, -100 where nothing is to be predicted. They give the loss.
        """
        logits = self.backend_model(input_ids, pad_mask_of(attention_mask))
        return MaskedLMOutput(loss=None if labels is None else token_cross_entropy(logits, labels), logits=logits)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backend_model.txt_embedding

    def processor(self, source: Any) -> Any:
        return text_tokenizer(source, self.backend_model.config)


class ForeignCausalLM(CausalSequenceGenerationModel):
    """A Perceiver AR of another library."""

    def processor(self, source: Any) -> Any:
        return text_tokenizer(source, padding_side="left")  # any length: the model sees the last tokens


class LucidrainsPerceiverARForCausalLM(ForeignCausalLM):
    """Perceiver AR of perceiver-ar-pytorch, registered with `AutoModelForCausalLM`."""

    config_class = LucidrainsPerceiverARForCausalLMConfig
    backend_class = LucidrainsPerceiverAR


class GooglePerceiverARForCausalLM(ForeignCausalLM):
    """Perceiver AR of google-research/perceiver-ar, registered with `AutoModelForCausalLM`."""

    config_class = GooglePerceiverARForCausalLMConfig
    backend_class = GooglePerceiverAR


for model_class in (
    LucidrainsPerceiverModel,
    LucidrainsPerceiverIOModel,
    LucidrainsPerceiverLMForMaskedLM,
    LucidrainsPerceiverARForCausalLM,
    GooglePerceiverARForCausalLM,
):
    register_model(model_class)
