"""Text -> model input, equal to the recorded outputs of the published library."""

import pytest
import torch
from transformers import PerceiverTokenizer

from perceiver.processing.text import TextPreprocessor, load_tokenizer

TEXTS = ["hello world", "  two  leading\tand  inner ", "a"]


def test_recorded_outputs(byte_tokenizer_dir):
    preprocessor = TextPreprocessor(byte_tokenizer_dir, max_seq_len=12, add_special_tokens=True)
    input_ids, pad_mask = preprocessor.preprocess_batch(TEXTS)
    assert input_ids.tolist() == [
        [4, 110, 107, 114, 114, 117, 38, 125, 117, 120, 114, 5],
        [4, 38, 38, 122, 125, 117, 38, 38, 114, 107, 103, 5],
        [4, 103, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert pad_mask.tolist() == [[False] * 12, [False] * 12, [False] * 3 + [True] * 9]
    single_ids, single_mask = preprocessor.preprocess(TEXTS[0])
    assert torch.equal(single_ids, input_ids[0])
    assert torch.equal(single_mask, pad_mask[0])
    assert (input_ids.dtype, pad_mask.dtype) == (torch.int64, torch.bool)


def test_padding_side_and_length_of_the_longest_text(byte_tokenizer):
    preprocessor = TextPreprocessor(byte_tokenizer, max_seq_len=100, padding_side="left")
    input_ids, pad_mask = preprocessor.preprocess_batch(["ab", "c", ""])
    assert input_ids.tolist() == [[103, 104], [0, 105], [0, 0]]
    assert pad_mask.tolist() == [[False, False], [True, False], [True, True]]


def test_a_mask_token_in_the_text_is_the_mask_token(byte_tokenizer, fast_tokenizer):
    assert TextPreprocessor(byte_tokenizer, 9).preprocess("a[MASK]")[0].tolist() == [103, 3]
    assert TextPreprocessor(fast_tokenizer, 9).preprocess("hello [MASK]")[0].tolist() == [8, 4]


def test_empty_text(byte_tokenizer):
    input_ids, pad_mask = TextPreprocessor(byte_tokenizer, 9).preprocess("")
    assert (input_ids.shape, input_ids.dtype, pad_mask.dtype) == ((0,), torch.int64, torch.bool)


def test_bad_arguments():
    with pytest.raises(ValueError, match="max_seq_len=0 must be at least 1"):
        TextPreprocessor(PerceiverTokenizer(), 0)
    with pytest.raises(ValueError, match="padding_side='up' must be 'left' or 'right'"):
        TextPreprocessor(PerceiverTokenizer(), 1, padding_side="up")
    with pytest.raises(TypeError, match="texts is a string, it must be a sequence of strings"):
        TextPreprocessor(PerceiverTokenizer(), 9).preprocess_batch("a text")
    with pytest.raises(TypeError, match="a text is a float, it must be a string: nan"):  # a missing value of a table
        TextPreprocessor(PerceiverTokenizer(), 9).preprocess_batch(["a text", float("nan")])
    with pytest.raises(ValueError, match="there are no texts"):
        TextPreprocessor(PerceiverTokenizer(), 9).preprocess_batch([])


@pytest.mark.parametrize("name", ["bytes", "deepmind/language-perceiver"])
def test_bytes_need_no_file(name, tmp_path, monkeypatch, byte_tokenizer):
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(name, padding_side="left")
    assert (tokenizer.name_or_path, tokenizer.padding_side, len(tokenizer)) == (name, "left", 262)
    assert tokenizer(TEXTS).input_ids == byte_tokenizer(TEXTS).input_ids
    assert TextPreprocessor(name, 9).preprocess("a[MASK]")[0].tolist() == [103, 3]


def test_a_folder_comes_before_the_bytes(tmp_path, monkeypatch, fast_tokenizer):
    monkeypatch.chdir(tmp_path)
    fast_tokenizer.save_pretrained("bytes")
    assert load_tokenizer("bytes")("hello").input_ids == fast_tokenizer("hello").input_ids != [107]
    with pytest.raises(OSError):
        load_tokenizer("byte")
