"""Multimodal autoencoder for Hugging Face: `AutoModel`, Trainer; conversion of the official model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PerceiverConfig, PerceiverForMultimodalAutoencoding, PreTrainedModel
from transformers.utils import ModelOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.model import save_converted
from perceiver.model.huggingface.names import converted, cross_attention_layer, encoder_layers
from perceiver.model.huggingface.official import encoder_fields, official_config, official_model
from perceiver.model.multimodal.autoencoder.backend import (
    MODALITIES,
    MultimodalAutoencoder,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    MultimodalInputAdapter,
    autoencoder_loss,
)
from perceiver.model.multimodal.autoencoder.huggingface_config import PerceiverMultimodalAutoencoderConfig


@dataclass
class MultimodalAutoencoderOutput(ModelOutput):
    """Output of `PerceiverMultimodalAutoencoder`.

    Attributes:
        loss: The weighted sum of the modalities' losses, if there are labels.
        video: (B, T, H, W, channels), or the pixels (B, P, channels) of P chosen points.
        audio: (B, samples), or the patches (B, P, samples of a patch) of P chosen points.
        logits: Logits of the label (B, classes).
    """

    loss: Tensor | None = None
    video: Tensor | None = None
    audio: Tensor | None = None
    logits: Tensor | None = None


class PerceiverMultimodalAutoencoder(PerceiverClassifier):
    """Multimodal autoencoder, registered with `AutoModel`."""

    config_class = PerceiverMultimodalAutoencoderConfig
    backend_class = MultimodalAutoencoder
    backend_model: MultimodalAutoencoder
    main_input_name = "video"

    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        class_probs: Tensor | None = None,
        video_points: Tensor | None = None,
        audio_points: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalAutoencoderOutput | tuple[Tensor, ...]:
        """Encodes and decodes.

        Args:
            video: (B, T, H, W, channels), values from 0 to 1.
            audio: (B, samples), values from -1 to 1.
            class_probs: Probabilities of classes (B, classes), an input like video and audio. Default: the label is
                masked. (It is not called label: transformers' Trainer takes such names for targets.)
            video_points: Numbers of pixels (P,) or (B, P) to decode, see `MultimodalAutoencoder.decode`. Default: all.
            audio_points: Numbers of audio patches, likewise.
            labels: Classes (B,). They give the loss (`autoencoder_loss`), of video and audio as well, at the chosen
                points; training wants a few random ones. An example with -100 counts for nothing.
            return_dict: Whether the result is a `MultimodalAutoencoderOutput` (default) or a tuple.

        Raises:
            ValueError: see `MultimodalAutoencoder`, or if there are labels, and no video or no audio.
        """
        points = {"video_points": video_points, "audio_points": audio_points}
        output = self.backend_model(video, audio, class_probs, **points)
        loss = None
        if labels is not None:
            if video is None or audio is None:
                raise ValueError("the loss needs video and audio, not only labels")
            loss = autoencoder_loss(output, *self.backend_model.targets(video, audio, **points), labels)
        result = MultimodalAutoencoderOutput(loss=loss, video=output.video, audio=output.audio, logits=output.label)
        return result if return_dict is None or return_dict else result.to_tuple()


def convert_checkpoint(
    save_dir: str | Path,
    ckpt_url: str | Path,
    id2label: Mapping[int, Any] | None = None,
    label2id: Mapping[Any, int] | None = None,
    **kwargs: Any,
) -> None:
    """Converts a Lightning checkpoint of a multimodal autoencoder to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint.
        id2label: Names of the classes. Default: those in the checkpoint, or else `LABEL_0` and so on.
        label2id: The inverse of `id2label`, which is its default.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit, or if there are more or fewer names than classes.
    """
    model = PerceiverMultimodalAutoencoder.from_checkpoint(ckpt_url)
    if id2label is not None:
        model.set_labels(id2label, label2id)
    save_converted(model, None, save_dir, **kwargs)


def convert_model(save_dir: str | Path, source_repo_id: str = "deepmind/multimodal-perceiver", **kwargs: Any) -> None:
    """Converts a `transformers.PerceiverForMultimodalAutoencoding`. Outputs are equal, if the label is masked: that
    model always masks it.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source_repo_id: Folder or hub id of the transformers model.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
            library's model can't express. The message says which.
    """
    config = official_config(source_repo_id)
    source = official_model(source_repo_id, PerceiverForMultimodalAutoencoding, "multimodal autoencoder")
    model = PerceiverMultimodalAutoencoder(
        PerceiverMultimodalAutoencoderConfig(
            backend_config_of(config), id2label=config.id2label, label2id=config.label2id
        )
    )
    load_parameters(model.backend_model, transformers_state_dict(source), source_repo_id)
    save_converted(model, None, save_dir, **kwargs)


def backend_config_of(config: PerceiverConfig) -> MultimodalAutoencoderConfig:
    """The configuration of a `transformers.PerceiverForMultimodalAutoencoding` as ours.

    Raises:
        ValueError: if ours can't express it.
    """
    assert isinstance(config.image_size, int) and config.num_labels is not None  # as in transformers
    result = MultimodalAutoencoderConfig(
        # PerceiverForMultimodalAutoencoding fixes numbers of frequencies, padding, video patches and decoder heads.
        MultimodalEncoderConfig(num_modality_channels=4),
        MultimodalDecoderConfig(
            num_classes=config.num_labels,
            num_label_query_channels=config._label_trainable_num_channels,
            num_modality_channels=2,
            num_output_channels=config.output_num_channels,
            num_cross_attention_heads=1,
            # our default are the query's channels
            num_cross_attention_qk_channels=(
                None if config.cross_attention_shape_for_attention == "q" else config.d_latents
            ),
            cross_attention_widening_factor=1,
            cross_attention_residual=False,
            dropout=config.attention_probs_dropout_prob,
            init_scale=config.initializer_range,
        ),
        num_latents=config.num_latents,
        num_latent_channels=config.d_latents,
        video_shape=(config.num_frames, 4 * config.image_size, 4 * config.image_size, 3),
        video_patch_size=4,
        num_video_frequency_bands=32,
        num_audio_samples=config.num_frames * config.audio_samples_per_frame,
        audio_patch_size=config.samples_per_patch,
        num_audio_frequency_bands=192,
    )
    if tuple(config.output_shape[1:]) != result.video_shape[:3]:
        raise ValueError(
            f"output_shape={tuple(config.output_shape)} can't be converted: num_frames={config.num_frames} and "
            f"image_size={config.image_size} make videos of {result.video_shape[:3]}"
        )
    with torch.device("meta"):
        num_input_channels = MultimodalInputAdapter(result).num_input_channels
    return replace(result, encoder=replace(result.encoder, **encoder_fields(config, num_input_channels)))


def transformers_state_dict(source: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of a `transformers.PerceiverForMultimodalAutoencoding` under the names of our backend model.

    Raises:
        ValueError: if there is a parameter that can't be converted.
    """
    names = encoder_layers(source.config.num_self_attends_per_block)
    names |= cross_attention_layer(
        "1.cross_attn", "perceiver.decoder.decoder.decoding_cross_attention", attention_residual=False
    )
    names["1.output_query_provider.label_query._query"] = (
        "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"
    )
    names |= {
        f"1.output_adapter.linear.{parameter}": f"perceiver.decoder.decoder.final_layer.{parameter}"
        for parameter in ("weight", "bias")
    }
    for ours in MODALITIES:
        theirs = "image" if ours == "video" else ours
        head = f"perceiver.output_postprocessor.modalities.{theirs}.classifier"
        names |= {
            f"0.input_adapter.padding.{ours}._query": f"perceiver.input_preprocessor.padding.{theirs}",
            f"0.input_adapter.mask.{ours}._query": f"perceiver.input_preprocessor.mask.{theirs}",
            f"1.output_query_provider.padding.{ours}._query": f"perceiver.decoder.padding.{theirs}",
            f"1.output_adapter.heads.{ours}.weight": f"{head}.weight",
            f"1.output_adapter.heads.{ours}.bias": f"{head}.bias",
        }
    return converted(source.state_dict(), names)


AutoModel.register(PerceiverMultimodalAutoencoderConfig, PerceiverMultimodalAutoencoder)
