"""Another number of tokens: what stays, and what new ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from perceiver.model.text import clm
from perceiver.model.text.mlm import PerceiverMaskedLanguageModel, PerceiverMaskedLanguageModelConfig as Config
from tests.model.helpers import mlm_config, randomise_vectors, token_ids


@pytest.mark.parametrize("size", [41, 31], ids=["more", "fewer"])
@pytest.mark.parametrize("decoder", [{}, {"num_output_query_channels": 9}], ids=["tied", "untied"])
def test_resize_token_embeddings(tmp_path: Path, size: int, decoder: dict[str, Any]) -> None:
    config = Config(mlm_config(decoder=decoder, encoder={"freeze": True}))
    model = PerceiverMaskedLanguageModel(config).eval()
    randomise_vectors(model)
    x, kept = token_ids(2, 7, vocab_size=31), min(size, 37)
    before, old = model(x).logits, {name: p.clone() for name, p in model.backend_model.state_dict().items()}
    trained = [p.requires_grad for p in model.parameters()]

    embedding = model.resize_token_embeddings(size)
    assert embedding is model.get_input_embeddings() and embedding.num_embeddings == size
    assert model.config.backend_config.encoder.vocab_size == model.config.backend_config.decoder.vocab_size == size
    assert not model.training and [p.requires_grad for p in model.parameters()] == trained
    logits = model(x).logits
    torch.testing.assert_close(logits[..., :kept], before[..., :kept])
    for name, parameter in model.backend_model.state_dict().items():
        if parameter.shape != old[name].shape:
            expected = old[name].mean(dim=0).expand_as(parameter[37:])
            torch.testing.assert_close(parameter[37:], expected)

    model.save_pretrained(tmp_path)
    torch.testing.assert_close(PerceiverMaskedLanguageModel.from_pretrained(tmp_path)(x).logits, logits)


def test_resize_token_embeddings_options() -> None:
    config = clm.CausalLanguageModelConfig(
        vocab_size=37, max_seq_len=8, max_latents=4, num_channels=12, num_heads=2, num_self_attention_layers=1
    )
    model = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).to(torch.bfloat16)
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == model.config.vocab_size == 40
    embedding = model.resize_token_embeddings(50, mean_resizing=False)
    assert embedding.weight.dtype == torch.bfloat16 and embedding.weight[40:].std() > 0
    assert model.vocab_size == 50
    embedding = model.get_input_embeddings().weight.clone()
    model.post_init()  # libraries call it again: what is initialised stays
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    with pytest.raises(ValueError, match=r"pad_to_multiple_of=1.5 must be an integer"):
        model.resize_token_embeddings(pad_to_multiple_of=1.5)
    with pytest.raises(ValueError, match="new_num_tokens=0 must be at least 1"):
        model.resize_token_embeddings(0)
