"""Training of the causal language model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from perceiver.model.lightning.causal import Batch, LitCausalSequenceModel
from perceiver.model.text.clm.backend import CausalLanguageModel, CausalLanguageModelConfig


class LitCausalLanguageModel(LitCausalSequenceModel):
    """Causal language model. A batch is (labels, input_ids, pad_mask), each (B, M), with M at least `max_latents`,
    or of packed documents (see `LitCausalSequenceModel`).

    Where the data module has `bytes_per_token`, losses are also logged as bits per byte. These are estimates: only the
    last `max_latents` tokens of an example are targets, and `bytes_per_token` is a mean over the validation text.
    `perceiver.model.text.clm.evaluation` scores a whole text.

    Args:
        validation_sample_prompt: Text that is continued and logged after each validation.
        validation_sample_record: Index of a validation record whose first half is continued and logged after each
            validation, -1 for a random one.
        num_loss_blocks: Number of blocks of `max_latents` tokens, the last ones, that training predicts, each with all
            tokens before it as its prefix. Validation predicts one.
        params: Checkpoint, folder or hub id that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The fields of `CausalLanguageModelConfig`.
    """

    config_class = CausalLanguageModelConfig
    data_task = "clm"
    model: CausalLanguageModel

    def __init__(
        self,
        validation_sample_prompt: str | None = None,
        validation_sample_record: int | None = None,
        params: str | None = None,
        params_strict: bool = True,
        num_loss_blocks: int = 1,
        **kwargs: Any,
    ):
        super().__init__(
            CausalLanguageModel(CausalLanguageModelConfig(**kwargs)),
            validation_sample_prompt=validation_sample_prompt,
            validation_sample_record=validation_sample_record,
            num_loss_blocks=num_loss_blocks,
            params=params,
            params_strict=params_strict,
        )

    def metrics(self, batch: Batch, split: str) -> dict[str, Any]:
        values = super().metrics(batch, split)
        bytes_per_token = getattr(self.data_module, "bytes_per_token", None)
        if bytes_per_token is not None:
            values["bits_per_byte"] = values["loss"].detach() / math.log(2) / bytes_per_token
        return values

    def prompt_tokens(self, prompt: str) -> Tensor:
        tokenizer = self._from_data("tokenizer", "validation_sample_prompt")
        return torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    def decoded(self, prompt: Tensor, continuation: Tensor) -> tuple[str, str]:
        tokenizer = self._from_data("tokenizer", "a sample")
        return tokenizer.decode(prompt), tokenizer.decode(continuation)

    def log_sample(self, name: str, sample: tuple[str, str]) -> None:
        prompt, continuation = sample
        self.log_text(name, f"{prompt}\n\n---\n\n{continuation}")
