"""The loss of several blocks of latents in Hugging Face models: in training, if the config asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perceiver.model.text import clm
from tests.model.clm_helpers import clm_config, clm_model
from tests.model.helpers import token_ids

BACKEND = clm_config(cross_attention_dropout=0.0)


def hf_model(**kwargs: int) -> clm.PerceiverCausalLanguageModel:
    config = clm.PerceiverCausalLanguageModelConfig(BACKEND, **kwargs)
    return clm.PerceiverCausalLanguageModel(config, clm_model(BACKEND)).train()


def test_the_loss_of_training_is_that_of_all_blocks() -> None:
    model = hf_model(num_loss_blocks=3)
    for length, num_blocks in ((17, 3), (16, 3), (11, 2), (5, 1), (4, 1)):
        x = token_ids(2, length)
        attention_mask = torch.ones_like(x)
        attention_mask[0, :3] = 0
        num_latents = min(5 * num_blocks, length)
        labels = x.masked_fill(attention_mask == 0, -100)
        found = model(x, labels=labels, attention_mask=attention_mask)
        assert found.logits.shape == (2, num_latents, 37) and found.past_key_values is None
        logits = model.backend_model(x, length - num_latents, attention_mask == 0, num_blocks=num_blocks)
        targets = labels.masked_fill(attention_mask.roll(1, 1) == 0, -100)[:, 1:][:, 1 - num_latents :]
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
        torch.testing.assert_close(found.loss, expected)


def test_nothing_else_is_changed_by_it(tmp_path: Path) -> None:
    model, plain = hf_model(num_loss_blocks=3), hf_model()
    x = token_ids(2, 17)
    for arguments in ({"labels": x, "prefix_len": 12}, {}):
        torch.testing.assert_close(model(x, **arguments).logits, plain(x, **arguments).logits)
    torch.testing.assert_close(model.eval()(x, labels=x).loss, plain(x, labels=x).loss)
    assert torch.equal(model.generate(x[:, :7], max_new_tokens=3), plain.eval().generate(x[:, :7], max_new_tokens=3))
    model.save_pretrained(tmp_path / "blocks")
    plain.save_pretrained(tmp_path / "plain")
    assert clm.PerceiverCausalLanguageModel.from_pretrained(tmp_path / "blocks").config.num_loss_blocks == 3
    assert "num_loss_blocks" not in (tmp_path / "plain" / "config.json").read_text()
    loaded = clm.PerceiverCausalLanguageModel.from_pretrained(tmp_path / "plain", num_loss_blocks=2)
    assert loaded.train()(x, labels=x).logits.shape == (2, 10, 37)


def test_what_it_does_not_support() -> None:
    model, x = hf_model(num_loss_blocks=3), token_ids(1, 17)
    with pytest.raises(ValueError, match="num_loss_blocks=3 takes no packed documents"):
        model(x, labels=x, position_ids=torch.tensor([[*range(9), *range(8)]]))
    for arguments in ({"output_hidden_states": True}, {"use_cache": True}, {"past_key_values": model.new_cache()}):
        with pytest.raises(
            ValueError, match="a loss of 3 blocks of latents supports no cache and no output_hidden_states"
        ):
            model(x, labels=x, **arguments)
    with pytest.raises(ValueError, match="a loss of 0 blocks"):
        hf_model(num_loss_blocks=0)(x, labels=x)
