"""Training of the masked language model."""

from __future__ import annotations

from typing import Any

from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.common.lightning import LitPerPositionModel
from perceiver.model.text.mlm.backend import MaskedLanguageModel, MaskedLanguageModelConfig, TextDecoderConfig
from perceiver.model.text.mlm.mask_filler import fill_masks


class LitMaskedLanguageModel(LitPerPositionModel):
    """Masked language model. A batch is (labels, input_ids, pad_mask), each (B, M).

    Args:
        encoder: Encoder configuration.
        decoder: Decoder configuration.
        num_predictions: Number of fillings logged for each of `masked_samples`.
        masked_samples: Texts with `<mask>` in them, filled and logged after each validation.
        params: Checkpoint, folder or hub id that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The other fields of `MaskedLanguageModelConfig`.
    """

    config_class = MaskedLanguageModelConfig
    data_task = "mlm"
    model: MaskedLanguageModel

    def __init__(
        self,
        encoder: TextEncoderConfig,
        decoder: TextDecoderConfig,
        num_predictions: int = 5,
        masked_samples: list[str] | None = None,
        params: str | None = None,
        params_strict: bool = True,
        **kwargs: Any,
    ):
        model = MaskedLanguageModel(MaskedLanguageModelConfig(encoder, decoder, **kwargs))
        super().__init__(model, params, params_strict, num_predictions=num_predictions, masked_samples=masked_samples)
        self.num_predictions = num_predictions
        self.masked_samples = masked_samples

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage in ("fit", "validate"):
            self.filled_samples()  # what is wrong with them is an error now, not after the first epoch

    def on_validation_epoch_end(self) -> None:
        if self.masked_samples and not self.trainer.sanity_checking:
            filled = zip(self.masked_samples, self.filled_samples(), strict=True)
            self.log_text("masked_samples", "\n\n---\n\n".join("\n\n".join([text, *texts]) for text, texts in filled))

    def filled_samples(self) -> list[list[str]]:
        """`num_predictions` fillings of each of `masked_samples`, with the tokenizer of the trainer's data module."""
        if not self.masked_samples:
            return []
        data = self.data_module
        if not hasattr(data, "tokenizer"):
            raise ValueError("masked_samples are filled with the tokenizer of the data module: pass datamodule=...")
        special = getattr(data, "add_special_tokens", False)
        return fill_masks(
            self.model, data.tokenizer, self.masked_samples, self.num_predictions, add_special_tokens=special
        )
