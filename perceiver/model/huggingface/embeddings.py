"""Token embeddings of Hugging Face models: another number of tokens, an output that is tied to them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import nn

from perceiver.model.core.adapter import TiedTokenOutputAdapter

if TYPE_CHECKING:
    from perceiver.model.huggingface.model import PerceiverBackendModel


@torch.no_grad()
def resize_token_embeddings(
    model: PerceiverBackendModel, new_num_tokens: int | None, pad_to_multiple_of: int | None, mean_resizing: bool
) -> nn.Embedding:
    """See `PerceiverBackendModel.resize_token_embeddings`."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise NotImplementedError(f"{type(model).__name__} has no token embeddings")
    if pad_to_multiple_of is not None and not isinstance(pad_to_multiple_of, int):
        raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} must be an integer")
    size = embedding.num_embeddings if new_num_tokens is None else new_num_tokens
    size = -(-size // pad_to_multiple_of) * pad_to_multiple_of if pad_to_multiple_of else size
    if size < 1:
        raise ValueError(f"new_num_tokens={new_num_tokens} must be at least 1")
    if size == embedding.num_embeddings:
        return embedding
    model.config.vocab_size = size
    config = model.backend_model.config
    for part in (config, *(getattr(config, field.name) for field in fields(config))):
        if hasattr(part, "vocab_size"):
            part.vocab_size = size
    with torch.device("meta" if mean_resizing else embedding.weight.device):
        fresh = dict(model.backend(model.backend_class(config)).named_parameters())
    for name, old in list(model.backend_model.named_parameters()):
        if old.shape != fresh[name].shape:  # those with a row per token id
            new = old.mean(dim=0).expand(fresh[name].shape).clone() if mean_resizing else fresh[name].to(old.dtype)
            new[: len(old)] = old[: len(new)]
            path, _, parameter = name.rpartition(".")
            module = model.backend_model.get_submodule(path)
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            new._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' mark
            setattr(module, parameter, new)
            setattr(module, "num_embeddings" if isinstance(module, nn.Embedding) else "out_features", size)
    return embedding


def tied_output(embedding: nn.Embedding, adapter: TiedTokenOutputAdapter) -> nn.Linear:
    """A linear layer whose parameters are those of the tied output, the same tensors."""
    linear = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
    linear.weight = embedding.weight
    linear.register_parameter("bias", adapter.bias)
    return linear
