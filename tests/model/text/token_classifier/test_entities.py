"""Entities and their exact characters, whatever bytes they are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from perceiver.model.text.token_classifier.alignment import align_labels, byte_word_ids
from perceiver.model.text.token_classifier.entities import AGGREGATIONS, byte_starts, entities_of, split_words
from tests.model.text.token_classifier.helpers import NAMES, SENTENCES

texts = st.text(st.characters(codec="utf-8"), max_size=20)


def certain(labels: list[int]) -> list[Tensor]:
    """Probabilities of bytes that have these labels; between words any."""
    scores = torch.rand(len(labels), len(NAMES)) / 10
    for row, label in zip(scores, labels, strict=True):
        row[label if label >= 0 else 3] = 1
    return list(scores / scores.sum(dim=1, keepdim=True))


@given(texts)
def test_words_of_a_text(text: str) -> None:
    words = split_words(text)
    characters = [i for start, end in words for i in range(start, end)]
    assert characters == [i for i, character in enumerate(text) if not character.isspace()]  # in order, each once
    assert all(start < end for start, end in words)


def test_punctuation_is_a_word_of_its_own() -> None:
    text = "Zoë's U.S. €5, naïve 日本語。 हिन्दी"
    assert [text[start:end] for start, end in split_words(text)] == [
        *("Zoë", "'", "s", "U", ".", "S", ".", "€", "5", ",", "naïve", "日本語", "。", "हिन्दी")
    ]


@given(texts)
def test_bytes_of_characters(text: str) -> None:
    starts, data = byte_starts(text), text.encode()
    assert [data[a:b].decode() for a, b in pairwise(starts)] == list(text)


@pytest.mark.parametrize("strategy", AGGREGATIONS[1:])
@pytest.mark.parametrize("words, labels", SENTENCES)
def test_labelled_words_become_entities(words: list[str], labels: list[int], strategy: str) -> None:
    text, word_ids = byte_word_ids(words)
    found = entities_of(text, certain(align_labels(labels, word_ids)), NAMES, aggregation_strategy=strategy)
    expected = {
        "Zoë": [("PER", "Zoë Müller"), ("LOC", "Łódź")],
        "in": [("LOC", "New York")],
        "Ann": [("PER", "Ann"), ("PER", "Bob"), ("PER", "Ray")],
    }[words[0]]
    assert [(entity["entity_group"], entity["word"]) for entity in found] == expected
    for entity in found:
        assert text[entity["start"] : entity["end"]] == entity["word"] and 0.5 < entity["score"] <= 1


WORDS = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C", "P", "S"]), min_size=1, max_size=5)
              .filter(lambda word: len(word.split()) == 1), st.integers(0, 4)),
    min_size=1, max_size=8,
)  # fmt: skip


@given(WORDS)
def test_offsets_are_those_of_whole_words(pairs: list[tuple[str, int]]) -> None:
    words, labels = [word for word, _ in pairs], [label for _, label in pairs]
    text, word_ids = byte_word_ids(words)
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
    spans = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    scores = certain(align_labels(labels, word_ids))
    results = [
        entities_of(text, scores, NAMES, aggregation_strategy=strategy, ignore_labels=[], words=given_words)
        for strategy in AGGREGATIONS[1:]
        for given_words in (None, spans)
    ]
    for entities in results:
        assert [(e["start"], e["end"], e["entity_group"]) for e in entities] == [
            (e["start"], e["end"], e["entity_group"]) for e in results[0]
        ]
        assert [start for start, _ in spans if start in {e["start"] for e in entities}] == [
            e["start"] for e in entities
        ]
        assert {e["end"] for e in entities} <= {end for _, end in spans}
        assert all(e["word"] == text[e["start"] : e["end"]] for e in entities)
        assert [w for e in entities for w in e["word"].split(" ")] == words  # each word once


@given(texts, st.randoms(use_true_random=False), st.sampled_from(AGGREGATIONS), st.integers(0, 80))
def test_any_text_and_scores(text: str, random: Any, strategy: str, num_bytes: int) -> None:
    """Also a text whose end was not read, within a character perhaps."""
    starts = byte_starts(text)
    num_bytes = min(num_bytes, starts[-1])
    generator = torch.Generator().manual_seed(random.randrange(1000))
    scores = list(torch.rand(num_bytes, len(NAMES), generator=generator).softmax(dim=-1))
    entities = entities_of(text, scores, NAMES, aggregation_strategy=strategy, ignore_labels=[])
    for entity in entities:
        assert entity["word"] == text[entity["start"] : entity["end"]] and 0 <= entity["score"] <= 1
    if strategy == "none":
        data = text.encode()
        for entity in entities:
            assert starts[entity["start"]] <= entity["index"] < starts[entity["end"]]
        indices = [entity["index"] for entity in entities]
        spaces = {b for i, c in enumerate(text) if c.isspace() for b in range(starts[i], starts[i + 1])}
        assert indices == [i for i in range(len(data[:num_bytes])) if i not in spaces]
    else:
        ends = [0, *(entity["end"] for entity in entities)]
        assert all(end <= entity["start"] for end, entity in zip(ends, entities, strict=False))  # no overlap


def test_strategies() -> None:
    """The first byte of the word is for O, the second, which is surer, and the mean of both for a person."""
    scores = [torch.tensor([0.6, 0.4, 0, 0, 0]), torch.tensor([0.3, 0.7, 0, 0, 0])]

    def labels(strategy: str, **kwargs: Any) -> list[tuple[Any, ...]]:
        found = entities_of("ab", scores, NAMES, aggregation_strategy=strategy, ignore_labels=[], **kwargs)
        key = "entity" if strategy == "none" else "entity_group"
        return [(e[key], round(e["score"], 3), e["start"], e["end"]) for e in found]

    assert labels("none") == [("O", 0.6, 0, 1), ("B-PER", 0.7, 1, 2)]
    assert labels("simple") == [("O", 0.6, 0, 1), ("PER", 0.7, 1, 2)]
    assert labels("first") == [("O", 0.6, 0, 2)]
    assert labels("max") == [("PER", 0.7, 0, 2)]
    assert labels("average") == [("PER", 0.55, 0, 2)]


def test_ignored_labels() -> None:
    scores = certain([1, -100, 0, -100, 3])
    text = "a b c"
    assert [e["word"] for e in entities_of(text, scores, NAMES, aggregation_strategy="first")] == ["a", "c"]
    found = entities_of(text, scores, NAMES, aggregation_strategy="first", ignore_labels=["PER", "O"])
    assert [e["word"] for e in found] == ["c"]
    found = entities_of(text, scores, NAMES, ignore_labels=["B-LOC"])
    assert [(e["entity"], e["word"]) for e in found] == [("B-PER", "a"), ("O", "b")]
