"""Image classifier for Hugging Face: Auto classes, image-classification pipeline, Trainer; conversion to its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PerceiverConfig,
    PerceiverForImageClassificationConvProcessing,
    PerceiverForImageClassificationFourier,
    PerceiverForImageClassificationLearned,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.model import save_converted
from perceiver.model.huggingface.names import converted, cross_attention_layer, encoder_layers
from perceiver.model.huggingface.official import (
    classification_decoder_config,
    encoder_fields,
    official_config,
    official_model,
)
from perceiver.model.vision.image_classifier.backend import (
    ADAPTERS,
    ImageClassifier,
    ImageClassifierConfig,
    ImageEncoderConfig,
)
from perceiver.model.vision.image_classifier.huggingface_config import PerceiverImageClassifierConfig
from perceiver.processing.image import PerceiverImageClassifierInputProcessor


class PerceiverImageClassifier(PerceiverClassifier):
    """Image classifier, registered with `AutoModelForImageClassification`."""

    config_class = PerceiverImageClassifierConfig
    backend_class = ImageClassifier
    pipeline_task = "image-classification"
    backend_model: ImageClassifier
    main_input_name = "pixel_values"

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Classifies images.

        Args:
            pixel_values: Images (B, H, W, channels) as `PerceiverImageClassifierInputProcessor` makes them.
            labels: They give the loss. What they are is said by `config.problem_type`, see `classification_loss`; where
                that is None, the first labels set it, as in transformers.
            return_dict: Whether the result is an `ImageClassifierOutput` (default) or a tuple.

        Returns:
            `loss`, if there are labels. `logits`: (B, classes), or (B, O, classes) for more than one output query.
        """
        logits = self.backend_model(pixel_values)
        output = ImageClassifierOutput(loss=self.loss(logits, labels), logits=logits)
        return output if return_dict is None or return_dict else output.to_tuple()


def convert_checkpoint(
    save_dir: str | Path,
    ckpt_url: str | Path,
    image_processor: Any,
    id2label: Mapping[int, Any] | None = None,
    label2id: Mapping[Any, int] | None = None,
    **kwargs: Any,
) -> None:
    """Converts a Lightning checkpoint of an image classifier to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint of perceiver-io 0.8 or later.
        image_processor: Image processor that makes of images what the model was trained with, or folder or hub id of
            one.
        id2label: Names of the classes. Default: those in the checkpoint, or else `LABEL_0` and so on.
        label2id: The inverse of `id2label`, which is its default.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit, or if there are more or fewer names than classes.
    """
    if isinstance(image_processor, str | Path):
        image_processor = AutoImageProcessor.from_pretrained(image_processor)
    model = PerceiverImageClassifier.from_checkpoint(ckpt_url)
    if id2label is not None:
        model.set_labels(id2label, label2id)
    save_converted(model, image_processor, save_dir, **kwargs)


def convert_mnist_classifier_checkpoint(save_dir: str | Path, ckpt_url: str | Path, **kwargs: Any) -> None:
    """`convert_checkpoint` of a classifier of MNIST digits: grayscale images of -1 to 1, classes 0 to 9."""
    image_processor = PerceiverImageClassifierInputProcessor(
        single_channel=True, do_center_crop=False, do_resize=False, image_mean=0.5, image_std=0.5
    )
    convert_checkpoint(save_dir, ckpt_url, image_processor, id2label={i: i for i in range(10)}, **kwargs)


# The official models, by their class in transformers: what is fixed in the class, and not in its configuration.
_OFFICIAL: dict[type[PreTrainedModel], ImageEncoderConfig] = {
    PerceiverForImageClassificationFourier: ImageEncoderConfig(adapter="fourier", num_frequency_bands=64),
    PerceiverForImageClassificationLearned: ImageEncoderConfig(adapter="learned", num_adapter_channels=256),
    PerceiverForImageClassificationConvProcessing: ImageEncoderConfig(
        adapter="conv", num_frequency_bands=64, num_adapter_channels=64
    ),
}


def convert_model(save_dir: str | Path, source_repo_id: str, **kwargs: Any) -> None:
    """Converts an official image classifier, in transformers' format. Outputs are equal.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source_repo_id: Folder or hub id of a transformers Perceiver for image classification, of any of its three
            kinds, and its image processor.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
            library's model can't express. The message says which.
    """
    config = official_config(source_repo_id)
    architecture = (config.architectures or ["unknown"])[0]
    model_class = next((kind for kind in _OFFICIAL if kind.__name__ == architecture), None)
    if model_class is None:
        names = ", ".join(kind.__name__ for kind in _OFFICIAL)
        raise ValueError(f"{source_repo_id} has the architecture {architecture!r}, expected one of {names}")
    source = official_model(source_repo_id, model_class, "image classifier")
    model = PerceiverImageClassifier(
        PerceiverImageClassifierConfig(
            backend_config_of(config, model_class),
            id2label=config.id2label,
            label2id=config.label2id,
            problem_type=config.problem_type,
        )
    )
    load_parameters(model.backend_model, transformers_state_dict(source), source_repo_id)
    save_converted(model, _image_processor(source_repo_id), save_dir, **kwargs)


def backend_config_of(config: PerceiverConfig, model_class: type[PreTrainedModel]) -> ImageClassifierConfig:
    """The configuration of an official image classifier of a certain class as ours.

    Raises:
        ValueError: if ours can't express it.
    """
    encoder = _OFFICIAL[model_class]
    if encoder.adapter == "learned":
        assert isinstance(config.image_size, int)  # as in transformers, which squares it
        encoder = replace(encoder, image_shape=(config.image_size, config.image_size, 3))
    with torch.device("meta"):
        num_input_channels = ADAPTERS[encoder.adapter](encoder).num_input_channels
    return ImageClassifierConfig(
        replace(encoder, **encoder_fields(config, num_input_channels)),
        classification_decoder_config(config),
        num_latents=config.num_latents,
        num_latent_channels=config.d_latents,
    )


def transformers_state_dict(source: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of an official image classifier under the names of our backend model.

    Raises:
        ValueError: if there is a parameter that can't be converted.
    """
    decoder, preprocessor = "perceiver.decoder.decoder", "perceiver.input_preprocessor"
    names = encoder_layers(source.config.num_self_attends_per_block)
    names |= cross_attention_layer("1.cross_attn", f"{decoder}.decoding_cross_attention")
    names |= {
        "1.output_query_provider._query": f"{decoder}.output_position_encodings.position_embeddings",
        "1.output_adapter.linear.weight": f"{decoder}.final_layer.weight",
        "1.output_adapter.linear.bias": f"{decoder}.final_layer.bias",
    }
    adapter = {
        "linear.weight": "convnet_1x1.weight",
        "linear.bias": "convnet_1x1.bias",
        "pos_embedding.weight": "position_embeddings.position_embeddings",
        "pos_projection.weight": "positions_projection.weight",
        "pos_projection.bias": "positions_projection.bias",
        "conv.weight": "convnet.conv.weight",
        **{
            f"norm.{name}": f"convnet.batchnorm.{name}"
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        },
    }
    state_dict = source.state_dict()
    names |= {
        f"0.input_adapter.{ours}": name
        for ours, theirs in adapter.items()
        if (name := f"{preprocessor}.{theirs}") in state_dict
    }
    result = converted(state_dict, names)
    if (name := "0.input_adapter.linear.weight") in result:  # a 1x1 convolution is a linear layer
        result[name] = rearrange(result[name], "c_out c_in 1 1 -> c_out c_in")
    return result


def _image_processor(source_repo_id: str) -> PerceiverImageClassifierInputProcessor:
    """Ours with the settings of the official one, whose images have their channels first."""
    settings, _ = PerceiverImageClassifierInputProcessor.get_image_processor_dict(source_repo_id)
    for name in ("image_processor_type", "feature_extractor_type"):
        settings.pop(name, None)
    return PerceiverImageClassifierInputProcessor(**settings | {"channels_last": True})


AutoModelForImageClassification.register(PerceiverImageClassifierConfig, PerceiverImageClassifier)
