"""Optical flow for Hugging Face: `AutoModel`, optical-flow pipeline, Trainer; conversion of the official model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PerceiverConfig, PerceiverForOpticalFlow, Pipeline
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput

from perceiver.model.huggingface.body import PerceiverBody
from perceiver.model.huggingface.config import config_class
from perceiver.model.huggingface.convert import checkpoint_converter, model_converter
from perceiver.model.huggingface.forward import model_forward
from perceiver.model.huggingface.model import PerceiverBackendModel, register_model
from perceiver.model.huggingface.official import OfficialWeights, encoder_fields
from perceiver.model.vision.optical_flow.backend import (
    PIXELS_PER_UNIT,
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    OpticalFlowInputAdapter,
    flow_loss,
)
from perceiver.processing.optical_flow import OpticalFlowProcessor, frame_pair, is_frame, render_optical_flow
from perceiver.tasks import TASKS


@dataclass
class OpticalFlowOutput(ModelOutput):
    """Output of `OpticalFlowPerceiver`.

    Attributes:
        loss: Mean end-point error in pixels, if there are labels.
        logits: Flow (B, H, W, 2) in units of `PIXELS_PER_UNIT` pixels.
        hidden_states: Latents, if they are asked for.
        attentions: Weights of the self-attention layers (B, H, N, N), if they are asked for.
        cross_attentions: Those of the encoder's cross-attention (B, H, N, M) and of the decoder's (B, H, O, N).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


OpticalFlowPerceiverConfig = config_class(TASKS["optical-flow"])


class OpticalFlowPerceiverBody(PerceiverBody):
    """Encoder of an optical flow model, its `base_model`. (`AutoModel` gives the whole model.)"""

    config_class = OpticalFlowPerceiverConfig
    backend_class = OpticalFlow
    main_input_name = "inputs"

    @model_forward()
    def forward(self, inputs: Tensor, **kwargs: Any) -> BaseModelOutputWithCrossAttentions:
        """Features of two frames (B, 2, 27, H, W) -> latents (B, N, D)"""
        return self.output(self.backend_model.encoder(inputs))


class OpticalFlowPerceiver(PerceiverBackendModel):
    """Optical flow, registered with `AutoModel`."""

    config_class = OpticalFlowPerceiverConfig
    backend_class = OpticalFlow
    body_class = OpticalFlowPerceiverBody
    backend_model: OpticalFlow
    main_input_name = "inputs"

    @model_forward()
    def forward(self, inputs: Tensor, labels: Tensor | None = None, **kwargs: Any) -> OpticalFlowOutput:
        """Estimates flow.

        Args:
            inputs: Features of two frames (B, 2, 27, H, W), as `OpticalFlowProcessor` makes them.
            labels: Flow (B, H, W, 2) in pixels, not finite where it is unknown. It gives the loss.
            kwargs: `return_dict`, `output_hidden_states`, `output_attentions`, see `model_forward`.

        Returns:
            `loss`, if there are labels: mean end-point error in pixels. `logits`: flow (B, H, W, 2) in units of
            `PIXELS_PER_UNIT` pixels.
        """
        flow = self.backend_model(inputs)
        return OpticalFlowOutput(loss=None if labels is None else flow_loss(flow, labels), logits=flow)


class OpticalFlowPipeline(Pipeline):
    """Flow between the two frames of a pair: `pipeline("optical-flow", model=...)(frame_pairs)`.

    A pair is two frames: paths, Pillow images, or uint8 arrays, RGB (H, W, 3) or RGBA, at least as big as the model's
    `image_shape`. Bigger ones are cut into tiles that overlap. A list of pairs gives a list of results. An iterator
    over pairs, those of a video for example, gives an iterable: pairs are read as results are asked for.

    Args of the pipeline, or of a call:
        render: Whether the result is a picture (H, W, 3), uint8, see `render_optical_flow`. Default: flow (H, W, 2),
            float32, in pixels.
        micro_batch_size: Tiles of a frame that the model gets at a time (default 1).
        device: Where the model runs, in this call and from now on.
    """

    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_processor = False  # type: ignore[assignment]

    model: OpticalFlowPerceiver

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        height, width = self.model.backend_model.config.encoder.image_shape
        self.flow_processor = OpticalFlowProcessor(
            patch_size=(height, width),
            patch_min_overlap=min(20, min(height, width) - 1),
            flow_scale_factor=PIXELS_PER_UNIT,
        )

    def __call__(  # type: ignore[override]
        self, image_pairs: Any, *, device: torch.device | str | int | None = None, **kwargs: Any
    ) -> Any:
        if device is not None:
            self.device = torch.device(device)
            model: torch.nn.Module = self.model  # transformers' own `to` has lost its type
            model.to(self.device)
        if isinstance(image_pairs, list) and image_pairs and all(map(is_frame, image_pairs)):
            image_pairs = tuple(image_pairs)  # one pair; a list would be one of pairs
        if isinstance(image_pairs, Iterator):  # transformers knows no iterators but generators
            image_pairs = (image_pair for image_pair in image_pairs)
        return super().__call__(image_pairs, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]
        self, micro_batch_size: int | None = None, render: bool | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # Only what is given: arguments of a call are put over those of the pipeline.
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size={micro_batch_size} must be at least 1")
        forward = {} if micro_batch_size is None else {"micro_batch_size": micro_batch_size}
        return {}, forward, {} if render is None else {"render": render}

    def preprocess(self, image_pair: Any) -> dict[str, Any]:  # type: ignore[override]
        # As arrays they stay where they are; transformers would move tensors to the model's device.
        return {"image_pair": frame_pair(image_pair)}

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Any], micro_batch_size: int = 1
    ) -> dict[str, Any]:
        # Features are made here, those of few tiles at a time: all of a big frame together would be gigabytes.
        flows = self.flow_processor.process(self.model, [model_inputs["image_pair"]], micro_batch_size)
        return {"flow": next(flows)}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any], render: bool = False
    ) -> npt.NDArray[Any]:
        flow = model_outputs["flow"].numpy()
        return render_optical_flow(flow) if render else flow


def official_backend_config(config: PerceiverConfig) -> OpticalFlowConfig:
    height, width = config.train_size
    encoder = OpticalFlowEncoderConfig(image_shape=(height, width))
    num_input_channels = OpticalFlowInputAdapter(encoder).num_input_channels
    encoder = replace(encoder, **encoder_fields(config, num_input_channels))
    decoder_channels = {"q": num_input_channels, "kv": config.d_latents}[config.cross_attention_shape_for_attention]
    decoder = OpticalFlowDecoderConfig(
        image_shape=(height, width),
        num_cross_attention_qk_channels=decoder_channels,
        num_cross_attention_v_channels=decoder_channels,
        # PerceiverForOpticalFlow fixes these four, whatever its configuration says.
        num_cross_attention_heads=1,
        cross_attention_widening_factor=1,
        cross_attention_residual=False,
        rescale_factor=100.0,
        dropout=config.attention_probs_dropout_prob,
        init_scale=config.initializer_range,
    )
    return OpticalFlowConfig(encoder, decoder, num_latents=config.num_latents, num_latent_channels=config.d_latents)


OFFICIAL = OfficialWeights(
    PerceiverForOpticalFlow,
    official_backend_config,
    modules={
        "0.input_adapter.linear": "perceiver.input_preprocessor.conv_after_patches",
        "1.cross_attn": "perceiver.decoder.decoder.decoding_cross_attention",
        "1.output_adapter.linear": "perceiver.decoder.decoder.final_layer",
    },
)
convert_checkpoint = checkpoint_converter(OpticalFlowPerceiver)
convert_model = model_converter(OpticalFlowPerceiver, OFFICIAL)
register_model(OpticalFlowPerceiver)
PIPELINE_REGISTRY.register_pipeline("optical-flow", pipeline_class=OpticalFlowPipeline, pt_model=OpticalFlowPerceiver)
