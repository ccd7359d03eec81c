"""Parity with an independent implementation: `transformers.PerceiverForMaskedLM` with random weights, converted.

Contract: equal outputs (1e-4; tiny models 1e-5) at any geometry that their configuration can express, and an error that
says why for what ours can't.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PerceiverConfig, PerceiverForMaskedLM, PerceiverTokenizer

from perceiver.model.text import mlm
from perceiver.model.text.mlm.huggingface import official_backend_config

TINY: dict[str, Any] = {
    "num_latents": 5,
    "d_latents": 24,
    "d_model": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 2,
    "qk_channels": 12,
    "v_channels": 24,
    "vocab_size": 262,
    "max_position_embeddings": 20,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk None, shape of kv": {"qk_channels": None, "v_channels": None},
    "qk None, shape of q": {"qk_channels": None, "v_channels": None, "cross_attention_shape_for_attention": "q"},
    "qk None, v given": {"qk_channels": None, "cross_attention_shape_for_attention": "q"},
    "v None": {"qk_channels": 24, "v_channels": None},
    "two blocks": {"num_blocks": 2},
    "four blocks of one": {"num_blocks": 4, "num_self_attends_per_block": 1},
    "wide self-attention": {"self_attention_widening_factor": 2},
    "wide cross-attention": {"cross_attention_widening_factor": 2},
    "wide both": {"self_attention_widening_factor": 3, "cross_attention_widening_factor": 2},
    "more heads": {"num_self_attention_heads": 6, "num_cross_attention_heads": 3},
    "one head": {"num_self_attention_heads": 1, "num_cross_attention_heads": 1},
    "other vocabulary": {"vocab_size": 301},
    "no query residual": {"use_query_residual": False},
    "gelu_python": {"hidden_act": "gelu_python"},
    "other channels": {"d_model": 40, "d_latents": 12, "v_channels": 12, "num_latents": 7},
}


def source_model(folder: Path, seed: int = 0, **kwargs: Any) -> PerceiverForMaskedLM:
    """Saved with its tokenizer. All parameters are random, biases and norms, too."""
    torch.manual_seed(seed)
    model = PerceiverForMaskedLM(PerceiverConfig(**(TINY | kwargs))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    PerceiverTokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_converted_model_is_equal(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    theirs = source_model(tmp_path / "source", **kwargs)
    mlm.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert type(ours) is mlm.PerceiverMaskedLanguageModel
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    for length in (20, 7):
        ids = torch.randint(0, theirs.config.vocab_size, (3, length))
        attention_mask = (torch.arange(length) < torch.tensor([length, 3, length - 1])[:, None]).long()
        with torch.no_grad():
            expected = theirs(ids, attention_mask=attention_mask).logits[:, :length]  # theirs pads to 20
            logits = ours(ids, attention_mask=attention_mask).logits
            latents = theirs.perceiver(ids, attention_mask=attention_mask).last_hidden_state
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
        assert_same_attention(ours, theirs, ids, attention_mask)
        pad_mask = attention_mask == 0
        torch.testing.assert_close(ours.backend_model.encoder(ids, pad_mask), latents, atol=2e-5, rtol=1e-5)
    assert expected.std() > 0.5  # the outputs are no zeros


def assert_same_attention(ours: Any, theirs: Any, ids: Tensor, attention_mask: Tensor) -> None:
    with torch.no_grad():
        actual, expected = (
            model(ids, attention_mask=attention_mask, output_attentions=True) for model in (ours, theirs)
        )
    assert len(actual.attentions) == len(expected.attentions) and len(actual.cross_attentions) == 2
    for weights, of_theirs in zip(actual.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(weights, of_theirs, atol=2e-5, rtol=1e-5)
    encoder, decoder = actual.cross_attentions
    torch.testing.assert_close(encoder, expected.cross_attentions[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(decoder, expected.cross_attentions[1][:, :, : ids.shape[1]], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' can't be converted"),
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new' can't be converted"),
        # their own forward fails: the residual adds v_channels to d_latents
        ({"v_channels": 18}, "v_channels=18.*d_latents=24"),
        ({"qk_channels": 18, "v_channels": None}, "18.*d_latents=24"),
    ],
)
def test_what_cannot_be_converted_says_why(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    source_model(tmp_path / "source", **kwargs)
    with pytest.raises(ValueError, match=message):
        mlm.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    assert not (tmp_path / "out").exists()


def test_losses_and_gradients_are_equal(tmp_path: Path) -> None:
    theirs = source_model(tmp_path / "source")
    mlm.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path / "out")
    ids, labels = torch.randint(0, 262, (3, 20)), torch.randint(0, 262, (3, 20))
    labels[torch.rand(3, 20) < 0.7] = -100
    losses = [model(ids, labels=labels).loss for model in (ours, theirs)]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    for loss in losses:
        loss.backward()
    gradients = [
        ours.backend_model.txt_embedding.weight.grad,
        theirs.perceiver.input_preprocessor.embeddings.weight.grad,
    ]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_official_geometry(tmp_path: Path) -> None:
    config = PerceiverConfig(qk_channels=256, v_channels=1280)
    torch.manual_seed(0)
    theirs = PerceiverForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path / "source")
    PerceiverTokenizer().save_pretrained(tmp_path / "source")
    assert official_backend_config(config) == mlm.perceiver_io_language_base()
    mlm.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in ours.parameters()) == 201_108_230
    encoding = PerceiverTokenizer()(
        ["This is an incomplete sentence[MASK]", "short"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**encoding).logits[:, : encoding["input_ids"].shape[1]]
        torch.testing.assert_close(ours(**encoding).logits, expected, atol=1e-4, rtol=1e-4)
