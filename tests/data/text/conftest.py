"""Tokenizers that build offline, as objects and as folders."""

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PerceiverTokenizer, PreTrainedTokenizerFast

from tests import tokenizers

datasets.disable_progress_bars()

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0..4
PIECES = ["un", "##believ", "##able", "hello", "world", "##s", "[", "]", "mask", "MASK", "a", "b", "c"]  # ids 5..17


def word_piece_tokenizer(num_extra_tokens: int = 0) -> PreTrainedTokenizerFast:
    tokens = SPECIAL + PIECES + [f"extra{i}" for i in range(num_extra_tokens)]
    core = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **names)


@pytest.fixture
def byte_tokenizer() -> PerceiverTokenizer:
    return PerceiverTokenizer()


@pytest.fixture
def fast_tokenizer() -> PreTrainedTokenizerFast:
    return word_piece_tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bytes")
    tokenizers.byte_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def fast_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fast")
    word_piece_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def xlnet_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("xlnet")
    tokenizers.xlnet_tokenizer(folder)
    return str(folder)
