"""Multimodal autoencoder for Hugging Face: `AutoModel`, Trainer; conversion of the official model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PerceiverConfig, PerceiverForMultimodalAutoencoding
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.utils import ModelOutput

from perceiver.model.huggingface.body import PerceiverBody
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter, model_converter
from perceiver.model.huggingface.forward import model_forward
from perceiver.model.huggingface.model import register_model
from perceiver.model.huggingface.official import OfficialWeights, encoder_fields
from perceiver.model.multimodal.autoencoder.adapter import (
    MODALITIES,
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    MultimodalInputAdapter,
)
from perceiver.model.multimodal.autoencoder.backend import MultimodalAutoencoder, autoencoder_loss
from perceiver.tasks import TASKS


@dataclass
class MultimodalAutoencoderOutput(ModelOutput):
    """Output of `PerceiverMultimodalAutoencoder`.

    Attributes:
        loss: The weighted sum of the modalities' losses, if there are labels.
        video: (B, T, H, W, channels), or the pixels (B, P, channels) of P chosen points.
        audio: (B, samples), or the patches (B, P, samples of a patch) of P chosen points.
        logits: Logits of the label (B, classes).
        hidden_states: Latents, if they are asked for.
        attentions: Weights of the self-attention layers (B, H, N, N), if they are asked for.
        cross_attentions: Those of the encoder's cross-attention (B, H, N, M) and of the decoder's (B, H, O, N).
    """

    loss: Tensor | None = None
    video: Tensor | None = None
    audio: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


PerceiverMultimodalAutoencoderConfig = config_class(TASKS["multimodal-autoencoder"])


class PerceiverMultimodalAutoencoderBody(PerceiverBody):
    """Encoder of a multimodal autoencoder, its `base_model`. (`AutoModel` gives the whole model.)"""

    config_class = PerceiverMultimodalAutoencoderConfig
    backend_class = MultimodalAutoencoder
    main_input_name = "video"

    @model_forward()
    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        class_probs: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithCrossAttentions:
        """The inputs of `PerceiverMultimodalAutoencoder` -> latents (B, N, D)"""
        encoder = self.backend_model.encoder
        return self.output(encoder(encoder.input_adapter(video, audio, class_probs), adapted=True))


class PerceiverMultimodalAutoencoder(PerceiverClassifier):
    """Multimodal autoencoder, registered with `AutoModel`."""

    config_class = PerceiverMultimodalAutoencoderConfig
    backend_class = MultimodalAutoencoder
    body_class = PerceiverMultimodalAutoencoderBody
    backend_model: MultimodalAutoencoder
    main_input_name = "video"

    @model_forward()
    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        class_probs: Tensor | None = None,
        video_points: Tensor | None = None,
        audio_points: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MultimodalAutoencoderOutput:
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
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.
        """
        points = {"video_points": video_points, "audio_points": audio_points}
        output = self.backend_model(video, audio, class_probs, **points)
        loss = None
        if labels is not None:
            if video is None or audio is None:
                raise ValueError("the loss needs video and audio, not only labels")
            loss = autoencoder_loss(output, *self.backend_model.targets(video, audio, **points), labels)
        return MultimodalAutoencoderOutput(loss=loss, video=output.video, audio=output.audio, logits=output.label)


def official_backend_config(config: PerceiverConfig) -> MultimodalAutoencoderConfig:
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


OFFICIAL = OfficialWeights(
    PerceiverForMultimodalAutoencoding,
    official_backend_config,
    modules={
        "1.cross_attn": "perceiver.decoder.decoder.decoding_cross_attention",
        "1.output_query_provider.label_query._query": (
            "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"
        ),
        "1.output_adapter.linear": "perceiver.decoder.decoder.final_layer",
        **{
            ours.format(modality): theirs.format("image" if modality == "video" else modality)
            for ours, theirs in {
                "0.input_adapter.padding.{}._query": "perceiver.input_preprocessor.padding.{}",
                "0.input_adapter.mask.{}._query": "perceiver.input_preprocessor.mask.{}",
                "1.output_query_provider.padding.{}._query": "perceiver.decoder.padding.{}",
                "1.output_adapter.heads.{}": "perceiver.output_postprocessor.modalities.{}.classifier",
            }.items()
            for modality in MODALITIES
        },
    },
)
convert_checkpoint = checkpoint_converter(PerceiverMultimodalAutoencoder)
convert_model = model_converter(PerceiverMultimodalAutoencoder, OFFICIAL)
register_model(PerceiverMultimodalAutoencoder)
