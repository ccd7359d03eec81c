"""The byte path equals PerceiverTokenizer on any text, and the recorded word structure of the published library."""

import json
import pickle
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer, PerceiverTokenizer, PreTrainedTokenizerFast

from perceiver.processing.tokenization import (
    INSIDE,
    SPECIAL,
    START,
    check_tokenizer,
    encode,
    plain_text_tokenizer,
    tokenizer_fingerprint,
    word_ids,
)
from tests.data.text.conftest import word_piece_tokenizer

BYTES = PerceiverTokenizer()
RECORDED = json.loads((Path(__file__).parent / "word_ids.json").read_text())
# Any string, and strings in which what is special here is frequent.
TEXTS = st.lists(st.text() | st.text(alphabet=" \t\n\r\v\fab\x1c\x85\u00a0é☕") | st.just("x[MASK]y [SEP]"), max_size=6)


def word_lengths(ids: list[int | None]) -> list[tuple[bool, int]]:
    """Word ids up to renumbering: (is a word, number of tokens) of each run; every special token is its own run."""
    runs = groupby(enumerate(ids), key=lambda item: (item[0], None) if item[1] in (None, -1) else (0, item[1]))
    return [(word is not None, len(list(run))) for (_, word), run in runs]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: repr(case["text"]) + "+" * case["add_special_tokens"])
def test_recorded_word_ids(case):
    encoded = encode(BYTES, [case["text"]], case["add_special_tokens"])
    assert encoded.tokens.tolist() == case["input_ids"]
    assert word_lengths(word_ids(encoded.marks).tolist()) == word_lengths(case["word_ids"])


@given(TEXTS, st.booleans())
@settings(max_examples=200)
def test_bytes_equal_perceiver_tokenizer_and_round_trip(texts, add_special_tokens):
    encoded = encode(BYTES, texts, add_special_tokens)
    documents = np.split(encoded.tokens, encoded.offsets[1:-1]) if texts else []
    for text, document in zip(texts, documents, strict=True):
        expected = BYTES(text, add_special_tokens=add_special_tokens, split_special_tokens=True)["input_ids"]
        assert document.tolist() == expected
        assert BYTES.decode(document, skip_special_tokens=True) == text
    assert encoded.offsets[-1] == len(encoded.tokens) == len(encoded.marks)


@given(TEXTS, st.booleans())
@settings(max_examples=200)
def test_bytes_words_equal_a_naive_loop(texts, add_special_tokens):
    expected = []
    for text in texts:
        previous_is_space = None
        marks = []
        for byte in text.encode():
            is_space = byte in b" \t\n\r\v\f"
            marks.append(START if previous_is_space is None or (is_space and not previous_is_space) else INSIDE)
            previous_is_space = is_space
        expected += [SPECIAL, *marks, SPECIAL] if add_special_tokens else marks
    assert encode(BYTES, texts, add_special_tokens).marks.tolist() == expected


def test_special_tokens_written_in_a_text_are_characters(fast_tokenizer):
    assert encode(BYTES, ["[MASK]"]).tokens.tolist() == [ord(c) + 6 for c in "[MASK]"]
    expected = fast_tokenizer.convert_tokens_to_ids(["[", "MASK", "]"])
    assert encode(fast_tokenizer, ["[MASK]"]).tokens.tolist() == expected


def test_words_of_neighbouring_documents_never_merge():
    assert word_ids(encode(BYTES, ["ab", "cd ", "", " e"]).marks).tolist() == [1, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_and_missing_texts_of_arrow(kind):
    texts = pa.array(["drop", "ä b", None, "", "c", "drop"], kind)[1:5]
    encoded = encode(BYTES, texts)
    assert encoded.tokens.tolist() == [b + 6 for b in "ä bc".encode()]
    assert encoded.offsets.tolist() == [0, 4, 4, 4, 5]


@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_no_documents(add_special_tokens, fast_tokenizer):
    for tokenizer in (BYTES, fast_tokenizer):
        encoded = encode(tokenizer, [], add_special_tokens)
        assert (len(encoded.tokens), len(encoded.marks), encoded.offsets.tolist()) == (0, 0, [0])


def test_fast_tokenizer(fast_tokenizer):
    encoded = encode(fast_tokenizer, ["unbelievable worlds", "", "hello"], add_special_tokens=True)
    assert encoded.tokens.tolist() == [2, 5, 6, 7, 9, 10, 3, 2, 3, 2, 8, 3]
    assert encoded.marks.tolist() == [-1, 1, 0, 0, 1, 0, -1, -1, -1, -1, 1, -1]
    assert encoded.offsets.tolist() == [0, 7, 9, 12]
    assert word_ids(encoded.marks).tolist() == [-1, 1, 1, 1, 2, 2, -1, -1, -1, -1, 3, -1]


@pytest.fixture
def xlnet(xlnet_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(xlnet_tokenizer_dir)
    assert (len(tokenizer), tokenizer.is_fast, tokenizer.padding_side) == (500, True, "left")
    assert tokenizer.convert_ids_to_tokens(range(7)) == ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]
    return tokenizer


def pieces(tokenizer, text: str, add_special_tokens: bool = False) -> list[tuple[int, str]]:
    encoded = encode(plain_text_tokenizer(tokenizer), [text], add_special_tokens)
    return list(zip(encoded.marks.tolist(), tokenizer.convert_ids_to_tokens(encoded.tokens.tolist()), strict=True))


def test_sentencepiece_words_and_special_tokens(xlnet):
    expected = [(1, "▁The"), (1, "▁statement"), (0, "s"), (0, ","), (1, "▁and"), (1, "▁object"), (0, "s")]
    assert pieces(xlnet, "The statements,\n  and objects ") == expected
    assert pieces(xlnet, "the", add_special_tokens=True) == [(1, "▁the"), (-1, "<sep>"), (-1, "<cls>")]
    assert pieces(xlnet, "") == []


@pytest.mark.parametrize("text", ["<mask>", "<unk>", "a<cls>b", "</s> <eop>", "<pad><pad>"])
def test_sentencepiece_takes_written_special_tokens_for_text(xlnet, text):
    """transformers alone does not: special tokens are pieces of the vocabulary."""
    special = set(xlnet.all_special_ids)
    assert special & set(xlnet(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    tokens = encode(plain_text_tokenizer(xlnet), [text]).tokens.tolist()
    assert not special & set(tokens)
    assert xlnet.decode(tokens) == text


@pytest.fixture(scope="module")
def plain_and_pickled(xlnet_tokenizer_dir):
    """Made once for all examples."""
    tokenizer = AutoTokenizer.from_pretrained(xlnet_tokenizer_dir)
    plain = plain_text_tokenizer(tokenizer)
    assert len(plain) == len(tokenizer)
    return tokenizer, plain, pickle.loads(pickle.dumps(plain))


@given(st.lists(st.text() | st.text(alphabet="the statemn.\n\u2581\ufffe☕"), max_size=4), st.booleans())
@settings(max_examples=100)
def test_sentencepiece_is_otherwise_the_same(plain_and_pickled, texts, add_special_tokens):
    tokenizer, *both = plain_and_pickled
    for one in both:
        encoded = encode(one, texts, add_special_tokens)
        expected = encode(tokenizer, texts, add_special_tokens)
        assert encoded.tokens.tolist() == expected.tokens.tolist()
        assert encoded.marks.tolist() == expected.marks.tolist()
        assert encoded.offsets.tolist() == expected.offsets.tolist()


def test_sentencepiece_fingerprint_covers_which_tokens_are_special(xlnet, xlnet_tokenizer_dir):
    """`<eop>` may be plain in the tokenizer's own file."""
    fewer = AutoTokenizer.from_pretrained(xlnet_tokenizer_dir, extra_special_tokens=["<eod>"])
    assert set(xlnet.all_special_tokens) - set(fewer.all_special_tokens) == {"<eop>"}
    assert tokenizer_fingerprint(fewer) != tokenizer_fingerprint(xlnet)
    again = AutoTokenizer.from_pretrained(xlnet_tokenizer_dir)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(xlnet)


def test_other_tokenizers_take_written_special_tokens_for_text_anyway(fast_tokenizer):
    assert plain_text_tokenizer(BYTES) is BYTES
    assert plain_text_tokenizer(fast_tokenizer) is fast_tokenizer


def test_lone_surrogate_is_a_value_error():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(BYTES, ["\ud800"])


def test_unfit_tokenizers():
    with pytest.raises(ValueError, match=r"ByT5Tokenizer .* has no word ids"):
        check_tokenizer(ByT5Tokenizer())
    extended = PerceiverTokenizer()
    extended.add_tokens(["foo"])
    with pytest.raises(ValueError, match="263 tokens, must have 262"):
        check_tokenizer(extended)


def test_fingerprint_is_that_of_the_content(fast_tokenizer: PreTrainedTokenizerFast):
    fingerprint = tokenizer_fingerprint(fast_tokenizer)
    fast_tokenizer(["hello", "a b"], padding=True, truncation=True, max_length=2)  # leaves its settings behind
    assert tokenizer_fingerprint(fast_tokenizer) == fingerprint == tokenizer_fingerprint(word_piece_tokenizer())
    assert tokenizer_fingerprint(word_piece_tokenizer(1)) != fingerprint
    assert tokenizer_fingerprint(BYTES) != fingerprint
