"""Parameters in groups, for optimizers that treat matrices apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from perceiver.model.core.bixt import BidirectionalLayer
from perceiver.model.core.layers import AttentionLayer


def muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups for Muon (https://kellerjordan.github.io/posts/muon), as `pytorch_optimizer.Muon` takes them.

    The first has the matrices of attention and MLPs, which Muon trains. The second has all else, for AdamW: embeddings,
    latents, queries, norms, biases, adapters and outputs.

    Args:
        model: A model, or what holds one. Parameters that are not trained are in no group.

    Raises:
        ValueError: if no attention layer of the model is trained.
    """
    layers = [part for part in model.modules() if isinstance(part, AttentionLayer | BidirectionalLayer)]
    matrices = {id(p) for p in trained(*layers) if p.ndim == 2}
    if not matrices:
        raise ValueError("no attention layer of the model is trained: Muon has nothing to do")
    groups = [[p for p in trained(model) if (id(p) in matrices) is use_muon] for use_muon in (True, False)]
    return [
        {"params": group, "use_muon": use_muon} for group, use_muon in zip(groups, (True, False), strict=True) if group
    ]


def trained(*modules: nn.Module) -> Iterator[nn.Parameter]:
    for module in modules:
        yield from (p for p in module.parameters() if p.requires_grad)
