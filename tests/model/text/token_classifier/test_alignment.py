"""Labels of words and bytes, there and back; entities by hand-made cases and by rules."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from perceiver.model.text.token_classifier.alignment import (
    align_labels,
    byte_word_ids,
    entity_counts,
    entity_type,
    label_spans,
    word_labels,
)

words_and_labels = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 4)), max_size=9)


def test_each_byte_has_the_label_of_its_word() -> None:
    text, word_ids = byte_word_ids(["Zoë", "is", "in", "日本"])
    assert text == "Zoë is in 日本"
    assert word_ids == [0] * 4 + [None, 1, 1, None, 2, 2, None] + [3] * 6
    labels = align_labels([1, 0, 0, 3], word_ids)
    assert labels == [1] * 4 + [-100, 0, 0, -100, 0, 0, -100] + [3] * 6
    assert word_labels(labels, word_ids) == [1, 0, 0, 3]
    assert word_labels(labels[:7], word_ids) == [1, 0]  # a text that was cut


@given(words_and_labels, st.text(st.characters(codec="utf-8"), max_size=3))
def test_there_and_back(pairs: list[tuple[str, int]], delimiter: str) -> None:
    words, labels = [word for word, _ in pairs], [label for _, label in pairs]
    text, word_ids = byte_word_ids(words, delimiter)
    data = text.encode()
    assert len(word_ids) == len(data)
    for i, word in enumerate(words):
        assert bytes(b for b, j in zip(data, word_ids, strict=True) if j == i).decode() == word
    assert word_labels(align_labels(labels, word_ids), word_ids) == labels


def test_wrong_lengths() -> None:
    with pytest.raises(ValueError, match="2 words have 3 labels"):
        align_labels([0, 1, 2], [0, None, 1])
    with pytest.raises(ValueError, match="3 tokens have 4 labels"):
        word_labels([0, 1, 2, 0], [0, None, 1])


@pytest.mark.parametrize(
    "labels, spans",
    [
        ("", []),
        ("O O", [("O", 0, 2)]),
        ("B-A I-A O B-A", [("A", 0, 2), ("O", 2, 3), ("A", 3, 4)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("I-A I-A B-B I-A", [("A", 0, 2), ("B", 2, 3), ("A", 3, 4)]),  # I- may begin an entity
        ("B-A I-B", [("A", 0, 1), ("B", 1, 2)]),
        ("NOUN NOUN VERB", [("NOUN", 0, 2), ("VERB", 2, 3)]),
    ],
)
def test_spans(labels: str, spans: list[tuple[str, int, int]]) -> None:
    assert label_spans(labels.split()) == spans


def test_spans_of_parts_of_words() -> None:
    labels = "B-A B-A I-A B-A B-A I-A B-A".split()
    starts = [True, False, True, True, False, False, False]
    assert label_spans(labels, starts) == [("A", 0, 3), ("A", 3, 6), ("A", 6, 7)]


LABELS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "X"]), max_size=12)


@given(LABELS)
def test_spans_cover_all_labels_once(labels: list[str]) -> None:
    spans = label_spans(labels)
    assert [i for _, start, end in spans for i in range(start, end)] == list(range(len(labels)))
    for name, start, end in spans:
        assert {entity_type(label) for label in labels[start:end]} == {name}
        assert not any(label.startswith("B-") for label in labels[start + 1 : end])


@pytest.mark.parametrize(
    "predicted, labels, counts",
    [
        ("B-A I-A O B-B", "B-A I-A O B-B", (2, 2, 2)),
        ("B-A O O B-B", "B-A I-A O B-B", (1, 2, 2)),  # one word is missing
        ("B-B I-B O B-B", "B-A I-A O B-B", (1, 2, 2)),  # another type
        ("I-A I-A O I-B", "B-A I-A O B-B", (2, 2, 2)),  # the same spans
        ("B-A B-A O O", "B-A I-A O O", (0, 2, 1)),
        ("O O O", "B-A O B-A", (0, 0, 2)),
        ("B-A O B-A", "O O O", (0, 2, 0)),
    ],
)
def test_counts_of_entities(predicted: str, labels: str, counts: tuple[int, int, int]) -> None:
    assert entity_counts(predicted.split(), labels.split()) == counts


@given(LABELS, LABELS)
def test_counts_are_symmetric_and_bounded(a: list[str], b: list[str]) -> None:
    right, found, there = entity_counts(a, b)
    assert entity_counts(b, a) == (right, there, found)
    assert right <= min(found, there)
    assert entity_counts(a, a) == (found, found, found)
