"""Text classifier for Hugging Face: Auto classes, text-classification pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PerceiverConfig,
    PerceiverForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from perceiver.model.core.checkpoint import Checkpoint, load_parameters
from perceiver.model.core.classification import classification_loss, problem_type_of
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.core.convert import converted, cross_attention_layer, encoder_layers
from perceiver.model.core.huggingface import pad_mask_of, save_converted
from perceiver.model.core.huggingface_classification import PerceiverClassifier
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.classifier.huggingface_config import PerceiverTextClassifierConfig
from perceiver.model.text.common.backend import txt_embedding
from perceiver.model.text.common.huggingface import text_tokenizer
from perceiver.model.text.mlm.huggingface import backend_config_of as mlm_backend_config_of


class PerceiverTextClassifier(PerceiverClassifier):
    """Text classifier, registered with `AutoModelForSequenceClassification`."""

    config_class = PerceiverTextClassifierConfig
    backend_class = TextClassifier
    backend_model: TextClassifier

    @classmethod
    def checkpoint_config(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        problem_type = checkpoint.hyper_parameters.get("problem_type")
        return {**super().checkpoint_config(checkpoint), "problem_type": problem_type}

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
        loss = None
        if labels is not None:
            if self.config.problem_type is None:  # what is saved tells the pipeline what to make of logits
                self.config.problem_type = problem_type_of(labels, logits.shape[-1])
            loss = classification_loss(logits, labels, self.config.problem_type)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
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
    config = AutoConfig.from_pretrained(source_repo_id)
    if not isinstance(config, PerceiverConfig):
        raise ValueError(f"{source_repo_id} is a {config.model_type!r} model, expected 'perceiver'")
    loaded: Any = PerceiverForSequenceClassification.from_pretrained(source_repo_id, output_loading_info=True)
    source, report = loaded
    if lacking := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        raise ValueError(f"{source_repo_id} is no text classifier, it lacks {', '.join(lacking[:5])}")
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
    decoder = ClassificationDecoderConfig(
        # PerceiverForSequenceClassification fixes all but the last three, whatever its configuration says.
        num_cross_attention_heads=1,
        cross_attention_widening_factor=1,
        cross_attention_residual=True,
        num_output_queries=1,
        num_output_query_channels=config.d_latents,
        num_classes=config.num_labels,
        dropout=config.attention_probs_dropout_prob,
        init_scale=config.initializer_range,
    )
    encoder = mlm_backend_config_of(config).encoder  # the same in both models
    return TextClassifierConfig(encoder, decoder, num_latents=config.num_latents, num_latent_channels=config.d_latents)


def transformers_state_dict(source: PerceiverForSequenceClassification) -> dict[str, Tensor]:
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
