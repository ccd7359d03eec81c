"""Text classifier for Hugging Face: Auto classes, text-classification pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PerceiverConfig,
    PerceiverForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.model import pad_mask_of, save_converted
from perceiver.model.huggingface.names import converted, cross_attention_layer, encoder_layers
from perceiver.model.huggingface.official import classification_decoder_config, official_config, official_model
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.classifier.huggingface_config import PerceiverTextClassifierConfig
from perceiver.model.text.common.backend import txt_embedding
from perceiver.model.text.common.huggingface import text_tokenizer
from perceiver.model.text.mlm.huggingface import backend_config_of as mlm_backend_config_of


class PerceiverTextClassifier(PerceiverClassifier):
    """Text classifier, registered with `AutoModelForSequenceClassification`."""

    config_class = PerceiverTextClassifierConfig
    backend_class = TextClassifier
    pipeline_task = "text-classification"
    backend_model: TextClassifier

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Classifies texts.

        Args:
            input_ids: Token ids (B, M).
            attention_mask: (B, M), 0 where `input_ids` is padding.
            labels: They give the loss. What they are is said by `config.problem_type`, see `classification_loss`; where
                that is None, the first labels set it, as in transformers.
            return_dict: Whether the result is a `SequenceClassifierOutput` (default) or a tuple.

        Returns:
            `loss`, if there are labels. `logits`: (B, classes), or (B, O, classes) for more than one output query.
        """
        logits = self.backend_model(input_ids, pad_mask_of(attention_mask))
        output = SequenceClassifierOutput(loss=self.loss(logits, labels), logits=logits)
        return output if return_dict is None or return_dict else output.to_tuple()

    def get_input_embeddings(self) -> nn.Embedding:
        return txt_embedding(self.backend_model)


def convert_checkpoint(
    save_dir: str | Path,
    ckpt_url: str | Path,
    tokenizer_name: str,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
    **kwargs: Any,
) -> None:
    """Converts a Lightning checkpoint of a text classifier to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint of perceiver-io 0.8 or later.
        tokenizer_name: Folder or hub id of the model's tokenizer.
        id2label: Names of the classes. Default: those in the checkpoint, or else `LABEL_0` and so on.
        label2id: The inverse of `id2label`, which is its default.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit, if the tokenizer has more ids than the model, or if
            there are more or fewer names than classes.
    """
    model = PerceiverTextClassifier.from_checkpoint(ckpt_url)
    if id2label is not None:
        model.set_labels(id2label, label2id)
    save_converted(model, _tokenizer(tokenizer_name, model), save_dir, **kwargs)


def convert_imdb_classifier_checkpoint(
    save_dir: str | Path, ckpt_url: str | Path, tokenizer_name: str, **kwargs: Any
) -> None:
    """`convert_checkpoint` of a classifier of IMDb reviews, whose classes are NEGATIVE and POSITIVE."""
    convert_checkpoint(save_dir, ckpt_url, tokenizer_name, id2label={0: "NEGATIVE", 1: "POSITIVE"}, **kwargs)


def convert_model(save_dir: str | Path, source_repo_id: str, **kwargs: Any) -> None:
    """Converts a `transformers.PerceiverForSequenceClassification`. Outputs are equal.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source_repo_id: Folder or hub id of the transformers model and its tokenizer.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
            library's model can't express. The message says which.
    """
    config = official_config(source_repo_id)
    source = official_model(source_repo_id, PerceiverForSequenceClassification, "text classifier")
    model = PerceiverTextClassifier(
        PerceiverTextClassifierConfig(
            backend_config_of(config),
            id2label=config.id2label,
            label2id=config.label2id,
            problem_type=config.problem_type,
            tokenizer_class="PerceiverTokenizer",
        )
    )
    load_parameters(model.backend_model, transformers_state_dict(source), source_repo_id)
    save_converted(model, _tokenizer(source_repo_id, model), save_dir, **kwargs)


def backend_config_of(config: PerceiverConfig) -> TextClassifierConfig:
    """The configuration of a `transformers.PerceiverForSequenceClassification` as ours.

    Raises:
        ValueError: if ours can't express it.
    """
    assert config.num_labels is not None
    encoder = mlm_backend_config_of(config).encoder  # the same in both models
    return TextClassifierConfig(
        encoder,
        classification_decoder_config(config),
        num_latents=config.num_latents,
        num_latent_channels=config.d_latents,
    )


def transformers_state_dict(source: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of a `transformers.PerceiverForSequenceClassification` under the names of our backend model.

    Raises:
        ValueError: if there is a parameter that can't be converted.
    """
    decoder = "perceiver.decoder.decoder"
    names = encoder_layers(source.config.num_self_attends_per_block)
    names |= cross_attention_layer("1.cross_attn", f"{decoder}.decoding_cross_attention")
    names |= {
        "0.input_adapter.txt_embedding.weight": "perceiver.input_preprocessor.embeddings.weight",
        "0.input_adapter.pos_embedding.weight": "perceiver.input_preprocessor.position_embeddings.weight",
        "1.output_query_provider._query": f"{decoder}.output_position_encodings.position_embeddings",
        "1.output_adapter.linear.weight": f"{decoder}.final_layer.weight",
        "1.output_adapter.linear.bias": f"{decoder}.final_layer.bias",
    }
    return converted(source.state_dict(), names)


def _tokenizer(name: str, model: PerceiverTextClassifier) -> Any:
    config = model.backend_model.config.encoder
    return text_tokenizer(name, vocab_size=config.vocab_size, max_seq_len=config.max_seq_len)


AutoModelForSequenceClassification.register(PerceiverTextClassifierConfig, PerceiverTextClassifier)
