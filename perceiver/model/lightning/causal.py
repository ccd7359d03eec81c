"""Base of the Lightning modules that train causal sequence models (Perceiver AR, arXiv 2202.07765, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from perceiver.checks import check_integer
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.packing import latent_indices
from perceiver.model.core.sampling import sample
from perceiver.model.lightning.model import LitModel, padding_if_any

Batch = tuple[Tensor, Tensor, Tensor | list[int] | None]


class LitCausalSequenceModel(LitModel):
    """Trains a causal sequence model. A batch is (labels, input_ids, pad_mask), each (B, M), with M >= `max_latents`.

    Or it is (labels, input_ids, lengths) of documents, one after the other: labels and input_ids (1, T), and a list of
    the numbers of their tokens. Each is trained as if it were alone.

    After each validation, samples are logged. They are `max_latents` / 2 tokens long and as many last tokens of their
    prompt start as latents, so that no more is asked of the model than in training. The same parameters give the same
    sample.

    The training loss may be that of several blocks of latents (see `CausalSequenceModel.loss`). Validation and test are
    always those of the last `max_latents` positions, so that their losses can be compared.

    Subclasses define `prompt_tokens`, `decoded` and `log_sample`.

    Args:
        model: Backend model.
        validation_sample_prompt: What `prompt_tokens` takes, or None for no such sample.
        validation_sample_record: Index of a validation record whose first half is continued, -1 for a random one, or
            None for no such sample.
        num_loss_blocks: Number of blocks of `max_latents` tokens, the last ones, that training predicts.
        params: See `LitModel`.
        params_strict: See `LitModel`.
    """

    model: CausalSequenceModel

    def __init__(
        self,
        model: CausalSequenceModel,
        *,
        validation_sample_prompt: str | None,
        validation_sample_record: int | None,
        num_loss_blocks: int = 1,
        params: str | None,
        params_strict: bool = True,
    ):
        most = model.max_seq_len // model.max_latents
        check_integer(num_loss_blocks=num_loss_blocks)
        if not 1 <= num_loss_blocks <= most:
            raise ValueError(
                f"num_loss_blocks={num_loss_blocks} must be in [1, {most}] for max_seq_len={model.max_seq_len} and "
                f"max_latents={model.max_latents}"
            )
        super().__init__(
            model,
            params,
            params_strict,
            validation_sample_prompt=validation_sample_prompt,
            validation_sample_record=validation_sample_record,
            num_loss_blocks=num_loss_blocks,
        )
        self.validation_sample_prompt = validation_sample_prompt
        self.validation_sample_record = validation_sample_record
        self.num_loss_blocks = num_loss_blocks

    def prompt_tokens(self, prompt: str) -> Tensor:
        """Token ids (n,) of `validation_sample_prompt`."""
        raise NotImplementedError

    def decoded(self, prompt: Tensor, continuation: Tensor) -> Any:
        """What is logged of a sample: token ids (n,) of the prompt, as far as it was seen, and of what follows it."""
        raise NotImplementedError

    def log_sample(self, name: str, sample: Any) -> None:
        """Logs what `decoded` gave. All processes call it."""
        raise NotImplementedError

    def forward(self, x: Tensor, prefix_len: int, pad_mask: Tensor | None = None) -> Tensor:
        """Token ids (B, M + N) -> logits (B, N, vocabulary)"""
        return self.model(x, prefix_len, pad_mask)

    def configure_model(self) -> None:
        super().configure_model()
        if isinstance(self.model, FSDPModule):
            register_fsdp_forward_method(self.model, "forward_packed")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        labels, x, pad_mask = batch
        if isinstance(pad_mask, list) and self.is_step_compiled:
            raise ValueError(
                "packed documents (packing=True) can't be trained with compiled steps (--compile): they are of other "
                "lengths in each batch, and each would be compiled anew"
            )
        return labels, x, pad_mask if isinstance(pad_mask, list) else padding_if_any(pad_mask)

    def step(self, batch: Batch) -> Tensor:
        labels, x, pad_mask = batch
        if not isinstance(pad_mask, list):
            return self.model.loss(labels, x, pad_mask, num_blocks=self.num_loss_blocks if self.training else 1)
        if self.num_loss_blocks > 1:
            raise ValueError(f"num_loss_blocks={self.num_loss_blocks} takes no packed documents: packing must be false")
        return self.model.loss_packed(labels, x, pad_mask)

    def num_targets(self, batch: Batch) -> Tensor:
        labels, _, pad_mask = batch
        if isinstance(pad_mask, list):
            labels = labels[:, latent_indices(pad_mask, self.model.max_latents, device=labels.device)]
            return (labels != -100).sum()
        labels = labels if pad_mask is None else labels.masked_fill(pad_mask, -100)
        num_blocks = self.model.num_loss_blocks(labels.shape[1], self.num_loss_blocks if self.training else 1)
        return (labels[:, -num_blocks * self.model.max_latents :] != -100).sum()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage in ("fit", "validate"):
            self.samples(max_new_tokens=1)  # what is wrong with them is an error now, not after the first epoch

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            for name, sample in self.samples(self.sample_length).items():
                self.log_sample(name, sample)

    @property
    def sample_length(self) -> int:
        return max(self.model.max_latents // 2, 1)

    def samples(self, max_new_tokens: int) -> dict[str, Any]:
        """What is logged of each kind of sample that is asked for, by the argument's name.

        All processes have to call it: if the model is sharded, they all compute the same.
        """
        prompts = {}
        if self.validation_sample_prompt is not None:
            prompts["validation_sample_prompt"] = self.prompt_tokens(self.validation_sample_prompt)
        if self.validation_sample_record is not None:
            record = self._from_data("validation_record", "validation_sample_record")(self.validation_sample_record)
            prompts["validation_sample_record"] = record[: (len(record) + 1) // 2]
        return {name: self._sample(prompt, max_new_tokens) for name, prompt in prompts.items()}

    def _sample(self, prompt: Tensor, max_new_tokens: int) -> Any:
        # the last tokens, so many that prompt and continuation fit into the context
        prompt = prompt[-(self.model.max_seq_len - self.sample_length) :].to(self.device)
        tokens = sample(
            self.model,
            prompt[None],
            max_new_tokens,
            num_latents=max(self.model.max_latents - self.sample_length, 1),
            generator=torch.Generator(self.device).manual_seed(0),  # leaves the numbers that training draws as they are
        )[0]
        return self.decoded(prompt, tokens[len(prompt) :])

    def _from_data(self, name: str, wanted: str) -> Any:
        if not hasattr(self.data_module, name):
            raise ValueError(f"{wanted} needs the {name} of the data module: pass datamodule=...")
        return getattr(self.data_module, name)
