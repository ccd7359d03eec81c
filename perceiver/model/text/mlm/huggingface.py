"""Masked language model for Hugging Face: Auto classes, the fill-mask pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PerceiverConfig, PerceiverForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.huggingface.model import PerceiverBackendModel, pad_mask_of, save_converted
from perceiver.model.huggingface.names import converted, cross_attention_layer, encoder_layers
from perceiver.model.huggingface.official import encoder_fields, official_config, official_model
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.common.huggingface import text_tokenizer
from perceiver.model.text.mlm.backend import (
    MaskedLanguageModel,
    MaskedLanguageModelConfig,
    TextDecoderConfig,
)
from perceiver.model.text.mlm.huggingface_config import PerceiverMaskedLanguageModelConfig


class PerceiverMaskedLanguageModel(PerceiverBackendModel):
    """Masked language model, registered with `AutoModelForMaskedLM`."""

    config_class = PerceiverMaskedLanguageModelConfig
    backend_class = MaskedLanguageModel
    pipeline_task = "fill-mask"
    backend_model: MaskedLanguageModel

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_positions: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Predicts tokens.

        Args:
            input_ids: Token ids (B, M).
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: Token ids (B, M) to predict, -100 where nothing is to be predicted. They give the loss.
            output_positions: Indices (B, P) of the positions to predict. By default all, except in training with
                `labels`: then only labelled positions are decoded and `logits` are None.
            return_dict: Whether the result is a `MaskedLMOutput` (default) or a tuple.

        Returns:
            `loss`, if there are labels: mean cross-entropy over labelled positions. `logits`: (B, M, vocabulary), or
            (B, P, vocabulary).
        """
        loss = logits = None
        pad_mask = pad_mask_of(attention_mask)
        if labels is not None and self.training and output_positions is None:
            loss = self.backend_model.loss(labels, input_ids, pad_mask)
        else:
            logits = self.backend_model(input_ids, pad_mask, output_positions)
            if labels is not None:
                labels = labels if output_positions is None else labels.gather(1, output_positions)
                loss = token_cross_entropy(logits, labels)
        output = MaskedLMOutput(loss=loss, logits=logits)
        return output if return_dict is None or return_dict else output.to_tuple()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backend_model.txt_embedding


def convert_checkpoint(save_dir: str | Path, ckpt_url: str | Path, tokenizer_name: str, **kwargs: Any) -> None:
    """Converts a Lightning checkpoint of a masked language model to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint of perceiver-io 0.8 or later.
        tokenizer_name: Folder or hub id of the model's tokenizer.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit, or if the tokenizer has more ids than the model.
    """
    model = PerceiverMaskedLanguageModel.from_checkpoint(ckpt_url)
    save_converted(model, _tokenizer(tokenizer_name, model), save_dir, **kwargs)


def convert_model(save_dir: str | Path, source_repo_id: str, **kwargs: Any) -> None:
    """Converts a `transformers.PerceiverForMaskedLM`, `deepmind/language-perceiver` for example. Outputs are equal.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source_repo_id: Folder or hub id of the transformers model and its tokenizer.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
            library's model can't express. The message says which.
    """
    config = official_config(source_repo_id)
    source = official_model(source_repo_id, PerceiverForMaskedLM, "masked language model")
    model = PerceiverMaskedLanguageModel(
        PerceiverMaskedLanguageModelConfig(backend_config_of(config), tokenizer_class="PerceiverTokenizer")
    )
    load_parameters(model.backend_model, transformers_state_dict(source), source_repo_id)
    save_converted(model, _tokenizer(source_repo_id, model), save_dir, **kwargs)


def backend_config_of(config: PerceiverConfig) -> MaskedLanguageModelConfig:
    """The configuration of a `transformers.PerceiverForMaskedLM` as ours.

    Raises:
        ValueError: if ours can't express it.
    """
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_position_embeddings,
    }
    encoder = TextEncoderConfig(
        num_input_channels=config.d_model, **common, **encoder_fields(config, num_input_channels=config.d_model)
    )
    decoder = TextDecoderConfig(
        # PerceiverForMaskedLM fixes these four, whatever its configuration says.
        num_cross_attention_heads=8,
        num_cross_attention_qk_channels=256,
        cross_attention_widening_factor=1,
        cross_attention_residual=False,
        num_cross_attention_v_channels=config.d_model,
        dropout=config.attention_probs_dropout_prob,
        init_scale=config.initializer_range,
        **common,
    )
    return MaskedLanguageModelConfig(
        encoder, decoder, num_latents=config.num_latents, num_latent_channels=config.d_latents
    )


def transformers_state_dict(source: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of a `transformers.PerceiverForMaskedLM` under the names of our backend model.

    Raises:
        ValueError: if there is a parameter that can't be converted.
    """
    decoder = "perceiver.decoder"
    names = encoder_layers(source.config.num_self_attends_per_block)
    names |= cross_attention_layer("1.cross_attn", f"{decoder}.decoding_cross_attention", attention_residual=False)
    names |= {
        "0.input_adapter.txt_embedding.weight": "perceiver.input_preprocessor.embeddings.weight",
        "0.input_adapter.pos_embedding.weight": "perceiver.input_preprocessor.position_embeddings.weight",
        "1.output_query_provider._query": f"{decoder}.output_position_encodings.position_embeddings",
        "1.output_adapter.bias": "embedding_decoder.bias",
    }
    return converted(source.state_dict(), names)


def _tokenizer(name: str, model: PerceiverMaskedLanguageModel) -> Any:
    config = model.backend_model.config.encoder
    return text_tokenizer(name, vocab_size=config.vocab_size, max_seq_len=config.max_seq_len)


AutoModelForMaskedLM.register(PerceiverMaskedLanguageModelConfig, PerceiverMaskedLanguageModel)
