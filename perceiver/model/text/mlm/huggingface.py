"""Masked language model for Hugging Face: Auto classes, the fill-mask pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PerceiverConfig, PerceiverForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.core.convert import converted, cross_attention_layer, encoder_layers
from perceiver.model.core.huggingface import PerceiverBackendModel, pad_mask_of, save_converted
from perceiver.model.core.loss import token_cross_entropy
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
    config = AutoConfig.from_pretrained(source_repo_id)
    if not isinstance(config, PerceiverConfig):
        raise ValueError(f"{source_repo_id} is a {config.model_type!r} model, expected 'perceiver'")
    loaded: Any = PerceiverForMaskedLM.from_pretrained(source_repo_id, output_loading_info=True)
    source, report = loaded
    if lacking := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        raise ValueError(f"{source_repo_id} is no masked language model, it lacks {', '.join(lacking[:5])}")
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
    if config.hidden_act not in ("gelu", "gelu_python"):
        raise ValueError(f"hidden_act={config.hidden_act!r} can't be converted, only 'gelu' (exact)")
    if not config.use_query_residual:
        raise ValueError("use_query_residual=False can't be converted: our encoder always has a query residual")
    cross_qk_channels = config.qk_channels
    if cross_qk_channels is None:
        cross_qk_channels = {"q": config.d_latents, "kv": config.d_model}[config.cross_attention_shape_for_attention]
    self_qk_channels = config.qk_channels or config.d_latents
    self_v_channels = config.v_channels or self_qk_channels
    if self_v_channels != config.d_latents:
        raise ValueError(
            f"v_channels={self_v_channels} of the self-attention must equal d_latents={config.d_latents}, its residual"
        )
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_position_embeddings,
        "dropout": config.attention_probs_dropout_prob,
        "init_scale": config.initializer_range,
    }
    encoder = TextEncoderConfig(
        num_input_channels=config.d_model,
        num_cross_attention_heads=config.num_cross_attention_heads,
        num_cross_attention_qk_channels=cross_qk_channels,
        num_cross_attention_v_channels=config.v_channels or cross_qk_channels,
        cross_attention_widening_factor=config.cross_attention_widening_factor,
        num_self_attention_heads=config.num_self_attention_heads,
        num_self_attention_qk_channels=self_qk_channels,
        num_self_attention_v_channels=self_v_channels,
        num_self_attention_layers_per_block=config.num_self_attends_per_block,
        num_self_attention_blocks=config.num_blocks,
        self_attention_widening_factor=config.self_attention_widening_factor,
        **common,
    )
    decoder = TextDecoderConfig(
        # PerceiverForMaskedLM fixes these four, whatever its configuration says.
        num_cross_attention_heads=8,
        num_cross_attention_qk_channels=256,
        cross_attention_widening_factor=1,
        cross_attention_residual=False,
        num_cross_attention_v_channels=config.d_model,
        **common,
    )
    return MaskedLanguageModelConfig(
        encoder, decoder, num_latents=config.num_latents, num_latent_channels=config.d_latents
    )


def transformers_state_dict(source: PerceiverForMaskedLM) -> dict[str, Tensor]:
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
