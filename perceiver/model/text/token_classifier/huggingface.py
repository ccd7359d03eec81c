"""Token classifier for Hugging Face: Auto classes, the token-classification pipeline, Trainer; conversion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import PerceiverTokenizer, TokenClassificationPipeline
from transformers.models.perceiver.modeling_perceiver import PerceiverClassifierOutput
from transformers.pipelines import PIPELINE_REGISTRY

from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter
from perceiver.model.huggingface.forward import model_forward, text_input
from perceiver.model.huggingface.model import register_model
from perceiver.model.text.common.huggingface import PerceiverTextBody, PerceiverTextModel
from perceiver.model.text.token_classifier.backend import TokenClassifier
from perceiver.model.text.token_classifier.entities import AGGREGATIONS, entities_of
from perceiver.tasks import TASKS

PerceiverTokenClassifierConfig = config_class(TASKS["token-classifier"])


class PerceiverTokenClassifierBody(PerceiverTextBody):
    """Encoder of a token classifier, registered with `AutoModel`."""

    config_class = PerceiverTokenClassifierConfig
    backend_class = TokenClassifier


class PerceiverTokenClassifier(PerceiverTextModel, PerceiverClassifier):
    """Token classifier, registered with `AutoModelForTokenClassification`."""

    config_class = PerceiverTokenClassifierConfig
    backend_class = TokenClassifier
    body_class = PerceiverTokenClassifierBody
    backend_model: TokenClassifier

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
    ) -> PerceiverClassifierOutput:
        """Classifies tokens.

        Args:
            input_ids: Token ids (B, M).
            inputs_embeds: Token embeddings (B, M, C) in their place.
            position_ids: 0 to M - 1, if they are given at all.
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: Classes (B, M), -100 where there is nothing to classify. They give the loss.
            output_positions: Indices (B, P) of the positions to classify. By default all, except in training with
                `labels`: then only labelled positions are decoded and `logits` are None.

        Returns:
            `loss`, if there are labels: mean cross-entropy over labelled positions. `logits`: (B, M, classes), or
            (B, P, classes).
        """
        x = text_input(input_ids, inputs_embeds, position_ids)
        loss, logits = self.per_position(x, attention_mask, labels, output_positions)
        return PerceiverClassifierOutput(loss=loss, logits=logits)


class PerceiverTokenClassificationPipeline(TokenClassificationPipeline):
    """The token-classification pipeline, which finds words and entities in the bytes of our models.

    transformers' own needs a fast tokenizer for that. Results are those of `entities_of`, and all aggregation
    strategies are possible. Texts are read as in training: without special tokens, and "[MASK]" is six characters. Of
    a text that is longer than the model only its beginning is classified, unless `stride` is given: then the text is
    read in windows that have so many bytes in common.

    For other models, or with another tokenizer than `PerceiverTokenizer`, nothing changes.
    """

    model: Any
    tokenizer: Any

    @property
    def reads_bytes(self) -> bool:
        return isinstance(self.model, PerceiverTokenClassifier) and isinstance(self.tokenizer, PerceiverTokenizer)

    def _sanitize_parameters(self, **kwargs: Any) -> Any:  # type: ignore[override]
        if not self.reads_bytes:
            return super()._sanitize_parameters(**kwargs)
        read = {n: kwargs[n] for n in ("is_split_into_words", "delimiter", "stride") if kwargs.get(n) is not None}
        make = {n: kwargs[n] for n in ("aggregation_strategy", "ignore_labels") if kwargs.get(n) is not None}
        if unknown := [name for name in kwargs if name not in read | make and kwargs[name] is not None]:
            raise ValueError(f"{', '.join(unknown)} can't be given: words and offsets are those of the text's bytes")
        if "aggregation_strategy" in make:  # a string, or transformers' enum
            strategy = getattr(make["aggregation_strategy"], "value", make["aggregation_strategy"])
            if strategy not in AGGREGATIONS:
                raise ValueError(f"aggregation_strategy={strategy!r} must be one of {', '.join(AGGREGATIONS)}")
            make["aggregation_strategy"] = strategy
        max_seq_len = self.model.backend_model.config.encoder.max_seq_len
        if not 0 <= read.get("stride", 0) < max_seq_len:
            raise ValueError(f"stride={read['stride']} must be in [0, {max_seq_len}), the model's max_seq_len")
        return read, {}, make

    def preprocess(self, sentence: Any, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        if self.reads_bytes:
            yield from self._windows(sentence, **kwargs)
        else:
            yield from super().preprocess(sentence, *args, **kwargs)

    def _windows(
        self, sentence: Any, is_split_into_words: bool = False, delimiter: str = " ", stride: int | None = None
    ) -> Iterator[dict[str, Any]]:
        words = None
        if is_split_into_words and isinstance(sentence, list):
            words, start = [], 0
            for word in sentence:
                words.append((start, start + len(word)))
                start += len(word) + len(delimiter)
            sentence = delimiter.join(sentence)
        if not isinstance(sentence, str) or (is_split_into_words and words is None):
            raise ValueError(f"expected a text, or with is_split_into_words=True a list of words, not {sentence!r:.40}")
        ids = self.tokenizer(
            sentence, add_special_tokens=False, split_special_tokens=True, return_tensors="pt", verbose=False
        )["input_ids"].long()
        config = self.model.backend_model.config
        size = min(config.encoder.max_seq_len, config.decoder.max_seq_len)
        step = size if stride is None else size - stride
        starts = [0] if stride is None else [0, *range(step, ids.shape[1] - size + step, step)]
        for start in starts:
            window = ids[:, start : start + size]
            yield {
                "input_ids": window,
                "attention_mask": window.new_ones(window.shape),
                "start": start,
                "sentence": sentence,
                "words": words,
                "is_last": start == starts[-1],
            }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        if not self.reads_bytes:
            return super()._forward(model_inputs)
        names = ("input_ids", "attention_mask")
        if model_inputs["input_ids"].shape[1] == 0:  # an empty text
            logits = model_inputs["input_ids"].new_zeros(1, 0, self.model.config.num_labels).float()
        else:
            logits = self.model(**{name: model_inputs[name] for name in names}).logits
        return {"logits": logits, **model_inputs}

    def postprocess(self, all_outputs: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if not self.reads_bytes:
            return super().postprocess(all_outputs, *args, **kwargs)
        scores: list[Tensor] = []  # of each byte
        for output in all_outputs:
            logits = output["logits"][0][output["attention_mask"][0].bool()]  # without what fills a batch up
            common = len(scores) - output["start"]  # with the windows before
            scores[len(scores) - common // 2 :] = logits.float().softmax(dim=-1)[common - common // 2 :]
        names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        output = all_outputs[0]
        return entities_of(output["sentence"], scores, names, words=output["words"], **kwargs)


convert_checkpoint = checkpoint_converter(PerceiverTokenClassifier)
register_model(PerceiverTokenClassifier)
# In place of transformers' own, whose other settings for the task stay. (`register_pipeline` would drop them.)
PIPELINE_REGISTRY.supported_tasks["token-classification"]["impl"] = PerceiverTokenClassificationPipeline
