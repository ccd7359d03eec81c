"""Entities in a text, from probabilities for its bytes: what the token-classification pipeline returns.

Offsets are those of characters, whole ones: a character of several bytes is never divided. `alignment.py` says what
labels mean.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.model.text.token_classifier.alignment import OUTSIDE, label_spans

AGGREGATIONS = ("none", "simple", "first", "average", "max")


def entities_of(
    text: str,
    scores: Sequence[Tensor],
    label_names: Sequence[str],
    *,
    words: Sequence[tuple[int, int]] | None = None,
    aggregation_strategy: str = "none",
    ignore_labels: Sequence[str] = (OUTSIDE,),
) -> list[dict[str, Any]]:
    """Entities in a text, in order.

    Args:
        text: The text.
        scores: Probabilities (classes,) for each of its bytes, or only for the first ones. What comes after them is no
            part of any entity.
        label_names: Names of the classes.
        words: (start, end) of each word in characters, by default `split_words` of the text.
        aggregation_strategy: "none": bytes, with the class that is most probable. Otherwise entities, made of
            neighbours of one type: "simple": characters; "first", "average", "max": whole words, with the label of
            their first byte, of all of them together, or of the one that is surest. White space between neighbours
            belongs to their entity.
        ignore_labels: Types that are left out, and with "none" labels.

    Returns:
        With "none" `entity`, `score`, `index` of the byte, `word` (its character), `start` and `end`. Otherwise
        `entity_group`, `score` (the mean over what the entity is made of), `word` (its text), `start` and `end`.
    """
    starts, num_bytes = byte_starts(text), len(scores)
    if num_bytes == 0:
        return []
    spans = split_words(text) if words is None else words
    word_starts = {start for start, _ in spans}
    if aggregation_strategy in ("none", "simple"):
        spans = [(i, i + 1) for start, end in spans for i in range(start, end)]
    spans = [span for span in spans if span[0] < span[1] and starts[span[0]] < num_bytes]
    byte_spans = [(starts[start], min(starts[end], num_bytes)) for start, end in spans]
    table = torch.stack(list(scores))  # bytes, classes
    if aggregation_strategy == "none":
        best = table.max(dim=-1)
        labelled = [
            (label_names[int(best.indices[i])], float(best.values[i]), i, span)
            for span, byte_span in zip(spans, byte_spans, strict=True)
            for i in range(*byte_span)
        ]
        return [
            {"entity": label, "score": score, "index": i, "word": text[start:end], "start": start, "end": end}
            for label, score, i, (start, end) in labelled
            if label not in ignore_labels
        ]
    pooled = pooled_labels(table, byte_spans, label_names, aggregation_strategy)
    return [
        {
            "entity_group": name,
            "score": sum(score for _, score in pooled[first:last]) / (last - first),
            "word": text[spans[first][0] : spans[last - 1][1]],
            "start": spans[first][0],
            "end": spans[last - 1][1],
        }
        for name, first, last in label_spans(
            [label for label, _ in pooled], [start in word_starts for start, _ in spans]
        )
        if name not in ignore_labels
    ]


def split_words(text: str) -> list[tuple[int, int]]:
    """Words of a text: (start, end) in characters. Punctuation marks and symbols are words of their own."""
    words: list[tuple[int, int]] = []
    inside = False
    for i, character in enumerate(text):
        separate = unicodedata.category(character)[0] in "PS"
        if character.isspace():
            inside = False
        elif inside and not separate:
            words[-1] = (words[-1][0], i + 1)
        else:
            words.append((i, i + 1))
            inside = not separate
    return words


def byte_starts(text: str) -> list[int]:
    """Index of the first byte of each character, and the number of bytes: (characters + 1,)"""
    starts = [0]
    for character in text:
        starts.append(starts[-1] + len(character.encode()))
    return starts


def pooled_labels(
    scores: Tensor, spans: Sequence[tuple[int, int]], label_names: Sequence[str], strategy: str
) -> list[tuple[str, float]]:
    """A label and its probability for each span of bytes, a word or a character.

    Args:
        scores: Probabilities (bytes, classes).
        spans: (first, last + 1) of bytes.
        label_names: Names of the classes.
        strategy: Whose probabilities count: those of the "first" byte, of the one that is surest ("max"), or the mean
            over all (any other).
    """
    results = []
    for start, end in spans:
        pool = scores[start:end]  # bytes, classes
        if strategy == "first":
            pooled = pool[0]
        else:
            pooled = pool[pool.amax(dim=1).argmax()] if strategy == "max" else pool.mean(dim=0)
        best = int(pooled.argmax())
        results.append((label_names[best], float(pooled[best])))
    return results
