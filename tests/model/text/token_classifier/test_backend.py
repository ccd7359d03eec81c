"""The token classifier: positions, loss, padding, what each setting changes, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from perceiver.model.text.token_classifier import TokenClassifier, TokenClassifierConfig
from tests.model.helpers import assert_close, gradients, json_copy, mlm_model, token_ids
from tests.model.text.classifier.helpers import padded_ids
from tests.model.text.token_classifier.helpers import tc_config, tc_model


def test_logits_of_all_and_of_some_positions() -> None:
    model, (x, pad_mask) = tc_model(), padded_ids(3, 11)
    logits = model(x, pad_mask)
    assert logits.shape == (3, 11, 5)
    positions = torch.tensor([[3, 0], [10, 10], [2, 5]])
    some = model(x, pad_mask, positions)
    torch.testing.assert_close(some, logits.gather(1, positions[..., None].expand(-1, -1, 5)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(x, pad_mask, torch.tensor([[4]])), logits[:, 4:5], atol=1e-6, rtol=1e-5)


def test_one_token_keeps_its_dimension() -> None:
    assert tc_model()(token_ids(2, 1)).shape == (2, 1, 5)


def test_padding_changes_nothing() -> None:
    model, (x, pad_mask) = tc_model(), padded_ids(5, 11)
    logits = model(x, pad_mask)
    for i, pads in enumerate(pad_mask):
        alone = model(x[i : i + 1, ~pads])
        torch.testing.assert_close(alone[0], logits[i, ~pads], atol=1e-6, rtol=1e-5)


def test_loss_is_that_of_labelled_positions() -> None:
    model, (x, pad_mask) = tc_model(), padded_ids(4, 11)
    labels = torch.where((torch.rand(4, 11) < 0.5) & ~pad_mask, torch.randint(0, 5, (4, 11)), -100)
    expected = F.cross_entropy(model(x, pad_mask).flatten(0, 1), labels.flatten())
    expected.backward()
    full = gradients(model)
    decoded: list[int] = []
    model.decoder.output_adapter.register_forward_pre_hook(lambda module, args: decoded.append(args[0].shape[1]))
    loss = model.loss(labels, x, pad_mask)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert_close(gradients(model), full, atol=1e-6, rtol=1e-4)
    assert decoded == [int((labels != -100).sum(dim=1).max())]
    assert model.loss(torch.full_like(labels, -100), x, pad_mask) == 0


def test_names_and_shapes_are_those_of_a_tied_masked_language_model() -> None:
    model, mlm = tc_model().state_dict(), mlm_model().state_dict()
    assert model.keys() - mlm.keys() == {"1.output_adapter.linear.weight", "1.output_adapter.linear.bias"}
    assert mlm.keys() - model.keys() == {"1.output_adapter.bias"}
    assert all(model[name].shape == mlm[name].shape for name in model.keys() & mlm.keys())


@pytest.mark.parametrize(
    "decoder, name, shape",
    [
        ({"num_classes": 7}, "output_adapter.linear.weight", (7, 11)),
        ({"max_seq_len": 17}, "output_query_provider._query", (17, 11)),
        ({"num_output_query_channels": 14}, "output_query_provider._query", (19, 14)),
    ],
)
def test_each_field_of_the_decoder_has_an_effect(decoder: dict[str, Any], name: str, shape: tuple[int, ...]) -> None:
    assert tuple(tc_model(tc_config(decoder=decoder)).decoder.state_dict()[name].shape) == shape


def test_config_survives_its_json() -> None:
    config = tc_config({"params": "x"}, {"params": "y", "num_output_query_channels": 3})
    assert TokenClassifierConfig(**json_copy(config)) == config
    TokenClassifier(config)  # the backend reads no files


def test_bad_input() -> None:
    model, x = tc_model(), token_ids(2, 5)
    with pytest.raises(ValueError, match=r"num_classes=0 of TokenClassificationDecoderConfig must be"):
        TokenClassifier(tc_config(decoder={"num_classes": 0}))
    with pytest.raises(ValueError, match=r"sequence length 20 exceeds max_seq_len=19"):
        model(token_ids(1, 20))
    with pytest.raises(ValueError, match=r"sequence length 18 exceeds max_seq_len=17 of the decoder"):
        tc_model(tc_config(decoder={"max_seq_len": 17}))(token_ids(1, 18))
    with pytest.raises(ValueError, match=r"output_positions have shape \(3, 1\), expected \(2 or 1, positions\)"):
        model(x, output_positions=torch.zeros(3, 1).long())
    with pytest.raises(ValueError, match=r"labels span \[0, 5\], allowed is \[0, 4\]"):
        model.loss(torch.tensor([[0, 1, 5, 0, 0]] * 2), x)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), inputs \(2, 5\): they must be equal"):
        model.loss(torch.tensor([0, 1]), x)
