"""Playgrounds of the models that read a whole text: masks, classes, entities."""

from __future__ import annotations

from typing import Any

import torch

from perceiver.app.playground import Field, Output, Outputs, Playground, coloured, seen_by_outputs
from perceiver.model.core.attention_maps import record_attention
from perceiver.model.text.mlm.mask_filler import with_mask_tokens

MAX_CHARACTERS = 20_000


def text_field(label: str, value: str) -> Field:
    return Field("text", label, "text", value, high=MAX_CHARACTERS)


class TextPlayground(Playground):
    """Base of the three: what outputs look at."""

    def looked_at(self, text: str, mask_token_id: int | None = None) -> Output:
        """Weights of the tokens: the mean over all outputs, or over those of masks.

        Raises:
            ValueError: if the model can't take a text of that length.
        """
        encoding = self.pipeline.tokenizer(text, return_tensors="pt", truncation=True).to(self.model.device)
        ids = encoding["input_ids"][0]
        with torch.no_grad(), record_attention(self.model, "encoder.cross_attention.0", "decoder.*") as maps:
            self.model(**encoding)
        seen = seen_by_outputs(maps)[0]  # O M
        if mask_token_id is not None:
            seen = seen[ids == mask_token_id]
        return coloured("What it looks at", self.pipeline.tokenizer, ids.tolist(), seen.mean(dim=0).float())


class MaskPlayground(TextPlayground):
    """Masked language model: the best fillings of every mask."""

    hint = "Write <mask> where something is missing."

    def __init__(self, folder: str, task: str):
        super().__init__(folder, task)
        self.fields = [
            text_field("Text with masks", "This is a <mask>ext."),
            Field("top_k", "Fillings", value=5, low=1, high=min(20, self.model.vocab_size)),
        ]

    def run(self, text: str, top_k: int) -> Outputs:
        (text,) = with_mask_tokens([text], self.pipeline.tokenizer)
        if self.pipeline.tokenizer.mask_token not in text:
            raise ValueError("there is no <mask> in the text")
        results = self.pipeline(text, top_k=top_k)
        of_masks: list[Any] = results if isinstance(results[0], list) else [results]
        for number, fillings in enumerate(of_masks, start=1):
            rows = [[filling["token_str"], filling["score"]] for filling in fillings]
            yield {"kind": "bars", "title": f"Mask {number}", "rows": rows}
        yield self.looked_at(text, self.pipeline.tokenizer.mask_token_id)


class ClassifierPlayground(TextPlayground):
    """Text classifier: the probabilities of the classes."""

    def __init__(self, folder: str, task: str):
        super().__init__(folder, task)
        self.fields = [text_field("Text", "I did not expect to like it, but I do.")]

    def run(self, text: str) -> Outputs:
        rows = [[result["label"], result["score"]] for result in self.pipeline(text, top_k=None)]
        yield {"kind": "bars", "title": "Classes", "rows": rows}
        yield self.looked_at(text)


class EntityPlayground(TextPlayground):
    """Token classifier: entities where they stand in the text."""

    def __init__(self, folder: str, task: str):
        super().__init__(folder, task)
        self.fields = [text_field("Text", "Ada Lovelace worked in London.")]

    def run(self, text: str) -> Outputs:
        parts: list[list[Any]] = []
        end = 0
        entities = self.pipeline(text, aggregation_strategy="simple")
        for entity in entities:
            parts += [[text[end : entity["start"]], 0.0]]
            parts += [[f"{text[entity['start'] : entity['end']]} [{entity['entity_group']}]", float(entity["score"])]]
            end = entity["end"]
        yield {"kind": "weights", "title": f"{len(entities)} entities", "parts": [*parts, [text[end:], 0.0]]}
        yield self.looked_at(text)
