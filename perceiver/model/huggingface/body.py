"""Bodies of Perceiver IO models, what `AutoModel` gives. That of Perceiver AR is in `perceiver_ar.py`."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions

from perceiver.model.core.perceiver_io import PerceiverEncoder, PerceiverIO
from perceiver.model.huggingface.model import PerceiverBackendModel


class BackendEncoder(nn.Sequential):
    """The encoder of a `PerceiverIO`, under the name that it has there."""

    def __init__(self, model: Any):
        super().__init__(model.encoder)
        self.config = model.config

    @property
    def encoder(self) -> PerceiverEncoder:
        return cast(PerceiverEncoder, self[0])

    def init_parameters(self) -> None:
        self.encoder.init_parameters()


class PerceiverBody(PerceiverBackendModel):
    """The encoder of a Perceiver IO model, what `AutoModel` gives: `last_hidden_state` are its latents (B, N, D)."""

    _keys_to_ignore_on_load_unexpected = [
        *(PerceiverBackendModel._keys_to_ignore_on_load_unexpected or ()),
        r"^backend_model[.]1[.]",
    ]

    @classmethod
    def backend(cls, model: nn.Module) -> nn.Module:
        assert isinstance(model, PerceiverIO)
        return BackendEncoder(model)

    def output(self, latents: Tensor) -> BaseModelOutputWithCrossAttentions:
        return BaseModelOutputWithCrossAttentions(last_hidden_state=latents)
