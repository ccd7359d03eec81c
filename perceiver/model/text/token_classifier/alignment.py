"""Words and the bytes they are made of: labels of words become labels of bytes, and labels of bytes those of words.

Each byte of a word has the word's label. What is between words has none (-100), and belongs to no word.

Labels follow the scheme BIO: B-X begins an entity of type X, I-X goes on, O is none. I-X after anything but X begins an
entity as well. Any other name is a type of its own (a part of speech, for example), which neighbours share.
"""

from __future__ import annotations

from collections.abc import Sequence

IGNORED = -100
OUTSIDE = "O"


def byte_word_ids(words: Sequence[str], delimiter: str = " ") -> tuple[str, list[int | None]]:
    """The text of words, joined by `delimiter`, and for each of its UTF-8 bytes the index of its word, None between."""
    word_ids: list[int | None] = []
    for i, word in enumerate(words):
        word_ids += [None] * len(delimiter.encode()) if i > 0 else []
        word_ids += [i] * len(word.encode())
    return delimiter.join(words), word_ids


def align_labels(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Labels of words -> labels of tokens, by the word id of each."""
    num_words = max((word + 1 for word in word_ids if word is not None), default=0)
    if len(labels) != num_words:
        raise ValueError(f"{num_words} words have {len(labels)} labels")
    return [IGNORED if word is None else labels[word] for word in word_ids]


def word_labels(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Labels of tokens -> labels of words, those of their first tokens. A text that was cut has fewer words."""
    if len(labels) > len(word_ids):
        raise ValueError(f"{len(word_ids)} tokens have {len(labels)} labels")
    found: dict[int, int] = {}
    for label, word in zip(labels, word_ids, strict=False):
        if word is not None:
            found.setdefault(word, label)
    return list(found.values())


def entity_type(label: str) -> str:
    """X of B-X and I-X, and otherwise the label itself."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def label_spans(labels: Sequence[str], starts: Sequence[bool] | None = None) -> list[tuple[str, int, int]]:
    """Runs of labels of one entity, in order. O is a type like any other.

    Args:
        labels: Labels of words, or of their parts.
        starts: Whether a word starts there; by default always. Parts of a word have equal labels: B-X after B-X begins
            another entity only where a word starts.

    Returns:
        (type, first, last + 1) of each run.
    """
    spans: list[tuple[str, int, int]] = []
    for i, label in enumerate(labels):
        begins = label.startswith("B-") and (starts is None or starts[i] or label != labels[i - 1])
        if spans and not begins and spans[-1][0] == entity_type(label):
            spans[-1] = (spans[-1][0], spans[-1][1], i + 1)
        else:
            spans.append((entity_type(label), i, i + 1))
    return spans


def entity_counts(predicted: Sequence[str], labels: Sequence[str]) -> tuple[int, int, int]:
    """Entities of a text that are right (same type, same words), that are predicted, and that are there."""
    found, there = ({span for span in label_spans(names) if span[0] != OUTSIDE} for names in (predicted, labels))
    return len(found & there), len(found), len(there)
