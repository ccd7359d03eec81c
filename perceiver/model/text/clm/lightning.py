"""Training of the causal language model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from perceiver.model.core.lightning import LitModel
from perceiver.model.core.sampling import sample
from perceiver.model.text.clm.backend import CausalLanguageModel, CausalLanguageModelConfig


class LitCausalLanguageModel(LitModel):
    """Causal language model. A batch is (labels, input_ids, pad_mask), each (B, M), with M at least `max_latents`.

    Where the data module has `bytes_per_token`, losses are also logged as bits per byte. These are estimates: only the
    last `max_latents` tokens of an example are targets, and `bytes_per_token` is a mean over the validation text.
    `perceiver.model.text.clm.evaluation` scores a whole text.

    Samples are `max_latents` / 2 tokens long and as many last tokens of their prompt start as latents, so that no more
    is asked of the model than in training. The same parameters give the same sample.

    Args:
        validation_sample_prompt: Text that is continued and logged after each validation.
        validation_sample_record: Index of a validation record whose first half is continued and logged after each
            validation, -1 for a random one.
        params: Checkpoint, folder or hub id that the model is initialised from.
        kwargs: The fields of `CausalLanguageModelConfig`.
    """

    config_class = CausalLanguageModelConfig
    model: CausalLanguageModel

    def __init__(
        self,
        validation_sample_prompt: str | None = None,
        validation_sample_record: int | None = None,
        params: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            CausalLanguageModel(CausalLanguageModelConfig(**kwargs)),
            params,
            validation_sample_prompt=validation_sample_prompt,
            validation_sample_record=validation_sample_record,
        )
        self.validation_sample_prompt = validation_sample_prompt
        self.validation_sample_record = validation_sample_record

    def forward(self, x: Tensor, prefix_len: int, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M + N) -> logits (B, N, vocabulary)"""
        return self.model(x, prefix_len, pad_mask)

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        labels, x, pad_mask = batch
        # Asked once for a batch, whatever the device: without padding there are faster kernels in every layer.
        return self.model.loss(labels, x, pad_mask if pad_mask.any() else None)

    def num_targets(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        labels, _, pad_mask = batch
        return int((labels.masked_fill(pad_mask, -100)[:, -self.model.max_latents :] != -100).sum())

    def _logged_step(self, batch: tuple[Tensor, Tensor, Tensor], split: str) -> Tensor:
        loss = super()._logged_step(batch, split)
        bytes_per_token = getattr(self._data_module, "bytes_per_token", None)
        if bytes_per_token is not None:
            bits_per_byte = loss.detach() / math.log(2) / bytes_per_token
            if split == "train":
                self.log("train_bits_per_byte", bits_per_byte)
            else:
                self.log(f"{split}_bits_per_byte", bits_per_byte, sync_dist=True, batch_size=self.num_targets(batch))
        return loss

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate"):
            self.samples(max_new_tokens=1)  # what is wrong with them is an error now, not after the first epoch

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            for name, (prompt, continuation) in self.samples(self.sample_length).items():
                self.log_text(name, f"{prompt}\n\n---\n\n{continuation}")

    @property
    def sample_length(self) -> int:
        return max(self.model.max_latents // 2, 1)

    def samples(self, max_new_tokens: int) -> dict[str, tuple[str, str]]:
        """Prompt and continuation for each kind of sample that is asked for, by the argument's name.

        All processes have to call it: if the model is sharded, they all compute the same.

        Raises:
            ValueError: if there is no such prompt, or no data module for its tokens.
        """
        prompts = {}
        if self.validation_sample_prompt is not None:
            tokenizer = self._from_data("tokenizer", "validation_sample_prompt")
            encoding = tokenizer(self.validation_sample_prompt, add_special_tokens=False)
            prompts["validation_sample_prompt"] = torch.tensor(encoding["input_ids"], dtype=torch.int64)
        if self.validation_sample_record is not None:
            record = self._from_data("validation_record", "validation_sample_record")(self.validation_sample_record)
            prompts["validation_sample_record"] = record[: (len(record) + 1) // 2]
        return {name: self._sample(prompt, max_new_tokens) for name, prompt in prompts.items()}

    def _sample(self, prompt: Tensor, max_new_tokens: int) -> tuple[str, str]:
        tokenizer = self._from_data("tokenizer", "a sample")
        # the last tokens, so many that prompt and continuation fit into the context
        prompt = prompt[-(self.model.max_seq_len - self.sample_length) :].to(self.device)
        tokens = sample(
            self.model,
            prompt[None],
            max_new_tokens,
            num_latents=max(self.model.max_latents - self.sample_length, 1),
            generator=torch.Generator(self.device).manual_seed(0),  # leaves the numbers that training draws as they are
        )[0]
        return tokenizer.decode(prompt), tokenizer.decode(tokens[len(prompt) :])

    @property
    def _data_module(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _from_data(self, name: str, wanted: str) -> Any:
        if not hasattr(self._data_module, name):
            raise ValueError(f"{wanted} needs the {name} of the data module: pass datamodule=...")
        return getattr(self._data_module, name)
