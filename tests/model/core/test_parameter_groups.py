"""Which parameters Muon trains: the matrices of layers, each parameter in one group."""

import pytest
import torch
from torch import nn

from perceiver.model.core.parameter_groups import muon_groups
from perceiver.model.text import clm


@pytest.fixture
def model() -> clm.CausalLanguageModel:
    torch.manual_seed(0)
    config = clm.CausalLanguageModelConfig(
        vocab_size=11,
        max_seq_len=12,
        max_latents=5,
        num_channels=8,
        num_heads=2,
        num_self_attention_layers=2,
        init_scale=0.3,
    )
    return clm.CausalLanguageModel(config)


def test_groups(model: clm.CausalLanguageModel) -> None:
    names = {id(p): name for name, p in model.named_parameters()}
    muon, others = muon_groups(nn.ModuleList([model]))
    assert muon["use_muon"] is True and others["use_muon"] is False
    assert sorted(names[id(p)] for p in [*muon["params"], *others["params"]]) == sorted(names.values())
    assert len(muon["params"]) == 3 * 6 and all(p.ndim == 2 for p in muon["params"])  # a layer: q, k, v, o and the MLP
    kept = {names[id(p)] for p in others["params"] if p.ndim == 2}
    assert kept == {"input_adapter.txt_embedding.weight", "input_adapter.pos_embedding.weight"}


def test_what_is_frozen_is_in_no_group(model: clm.CausalLanguageModel) -> None:
    model.self_attention.requires_grad_(False)
    assert len(muon_groups(model)[0]["params"]) == 6
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no attention layer of the model is trained"):
        muon_groups(model)


def test_muon_of_pytorch_optimizer_trains_it(model: clm.CausalLanguageModel) -> None:
    from pytorch_optimizer import Muon

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Muon(muon_groups(model), lr=0.02, adamw_lr=2e-3)
    x = torch.randint(11, (2, 13))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.loss(x[:, 1:], x[:, :-1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all((p != before[name]).any() for name, p in model.named_parameters() if p.grad is not None and p.grad.any())
