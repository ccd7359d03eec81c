"""What the tests of the token classifier share: a tiny model, a trained one that knows capital letters, sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PerceiverTokenizer

from perceiver.model.text.token_classifier import (
    PerceiverTokenClassifier,
    PerceiverTokenClassifierConfig,
    TokenClassificationDecoderConfig,
    TokenClassifier,
    TokenClassifierConfig,
    align_labels,
    byte_word_ids,
)
from tests.model.helpers import mlm_config, randomise_vectors

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = [
    (["Zoë", "Müller", "lives", "in", "Łódź", "."], [1, 2, 0, 0, 3, 0]),
    (["in", "New", "York"], [0, 3, 4]),
    (["Ann", "Bob", "met", "Ray"], [1, 1, 0, 1]),
]


def tc_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> TokenClassifierConfig:
    """Encoder, queries and attention have the shapes of `mlm_config`."""
    mlm = mlm_config(encoder, {"vocab_size": (encoder or {}).get("vocab_size", 37)})
    values: dict[str, Any] = {
        "max_seq_len": 19,
        "num_classes": 5,
        "num_cross_attention_heads": 1,
        "num_cross_attention_qk_channels": 7,
        "num_cross_attention_v_channels": 5,
        "init_scale": 0.2,
    }
    return TokenClassifierConfig(
        mlm.encoder,
        TokenClassificationDecoderConfig(**(values | (decoder or {}))),
        **({"num_latents": mlm.num_latents, "num_latent_channels": mlm.num_latent_channels} | kwargs),
    )


def byte_config(max_seq_len: int = 64) -> TokenClassifierConfig:
    sizes = {"max_seq_len": max_seq_len}
    return tc_config({"vocab_size": 262, **sizes}, sizes)


def tc_model(config: TokenClassifierConfig | None = None, seed: int = 0) -> TokenClassifier:
    torch.manual_seed(seed)
    model = TokenClassifier(config or tc_config())
    randomise_vectors(model)
    return model.eval()


def saved_model(folder: Path, max_seq_len: int = 64) -> PerceiverTokenClassifier:
    """Writes a model over bytes with random weights and its tokenizer."""
    config = byte_config(max_seq_len)
    model = PerceiverTokenClassifier(PerceiverTokenClassifierConfig(config, id2label=dict(enumerate(NAMES)))).eval()
    model.backend_model.load_state_dict(tc_model(config).state_dict())
    with torch.no_grad():  # other classes at other positions
        model.backend_model.decoder.output_query_provider._query.normal_()
        model.backend_model.decoder.output_adapter.linear.weight.normal_()
    model.save_pretrained(folder)
    PerceiverTokenizer(model_max_length=max_seq_len).save_pretrained(folder)
    return model


def sentence_batch() -> tuple[Tensor, Tensor, Tensor]:
    """(labels, input_ids, pad_mask) of the sentences, as the data module makes them."""
    labels, input_ids = [], []
    for words, word_labels in SENTENCES:
        text, word_ids = byte_word_ids(words)
        labels.append(torch.tensor(align_labels(word_labels, word_ids)))
        input_ids.append(torch.tensor(list(text.encode())) + 6)
    ids = pad_sequence(input_ids, batch_first=True)
    return pad_sequence(labels, batch_first=True, padding_value=-100), ids, ids == 0
