"""Optical flow for Hugging Face: `AutoModel`, optical-flow pipeline, Trainer; conversion of the official model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModel, PerceiverConfig, PerceiverForOpticalFlow, Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.huggingface.model import PerceiverBackendModel, save_converted
from perceiver.model.huggingface.names import converted, cross_attention_layer, encoder_layers
from perceiver.model.huggingface.official import encoder_fields, official_config, official_model
from perceiver.model.vision.optical_flow.backend import (
    PIXELS_PER_UNIT,
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    OpticalFlowInputAdapter,
    flow_loss,
)
from perceiver.model.vision.optical_flow.huggingface_config import OpticalFlowPerceiverConfig


@dataclass
class OpticalFlowOutput(ModelOutput):
    """Output of `OpticalFlowPerceiver`.

    Attributes:
        loss: Mean end-point error in pixels, if there are labels.
        logits: Flow (B, H, W, 2) in units of `PIXELS_PER_UNIT` pixels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class OpticalFlowPerceiver(PerceiverBackendModel):
    """Optical flow, registered with `AutoModel`."""

    config_class = OpticalFlowPerceiverConfig
    backend_class = OpticalFlow
    pipeline_task = "optical-flow"
    backend_model: OpticalFlow
    main_input_name = "inputs"

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> OpticalFlowOutput | tuple[Tensor, ...]:
        """Estimates flow.

        Args:
            inputs: Features of two frames (B, 2, 27, H, W), as `OpticalFlowProcessor` makes them.
            labels: Flow (B, H, W, 2) in pixels, not finite where it is unknown. It gives the loss.
            return_dict: Whether the result is an `OpticalFlowOutput` (default) or a tuple.

        Returns:
            `loss`, if there are labels: mean end-point error in pixels. `logits`: flow (B, H, W, 2) in units of
            `PIXELS_PER_UNIT` pixels.
        """
        flow = self.backend_model(inputs)
        output = OpticalFlowOutput(loss=None if labels is None else flow_loss(flow, labels), logits=flow)
        return output if return_dict is None or return_dict else output.to_tuple()


class OpticalFlowPipeline(Pipeline):
    """Flow between the two frames of a pair: `pipeline("optical-flow", model=...)(frame_pairs)`.

    A pair is a tuple of frames (H, W, 3), uint8 RGB: arrays or Pillow images, at least as big as the model's
    `image_shape`. Bigger ones are cut into tiles that overlap. A list of pairs gives a list of results. An iterator
    over pairs, those of a video for example, gives an iterable: pairs are read as results are asked for.

    Args of the pipeline, or of a call:
        render: Whether the result is a picture (H, W, 3), uint8, see `render_optical_flow`. Default: flow (H, W, 2),
            float32, in pixels.
        micro_batch_size: Tiles of a frame that the model gets at a time (default 1).
    """

    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_processor = False  # type: ignore[assignment]

    model: OpticalFlowPerceiver

    def __init__(self, *args: Any, **kwargs: Any):
        from perceiver.processing.optical_flow import OpticalFlowProcessor, render_optical_flow

        super().__init__(*args, **kwargs)
        self.render = render_optical_flow
        height, width = self.model.backend_model.config.encoder.image_shape
        self.flow_processor = OpticalFlowProcessor(
            patch_size=(height, width),
            patch_min_overlap=min(20, min(height, width) - 1),
            flow_scale_factor=PIXELS_PER_UNIT,
        )

    def __call__(self, image_pairs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
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

    def preprocess(self, image_pair: Sequence[Any]) -> dict[str, Any]:  # type: ignore[override]
        # Arrays stay where they are; transformers would move tensors to the model's device.
        return {"image_pair": [np.asarray(frame) for frame in image_pair]}

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
        return self.render(flow) if render else flow


def convert_checkpoint(save_dir: str | Path, ckpt_url: str | Path, **kwargs: Any) -> None:
    """Converts a Lightning checkpoint of optical flow to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        ckpt_url: Path or URL of a checkpoint.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint can't be read or does not fit.
    """
    save_converted(OpticalFlowPerceiver.from_checkpoint(ckpt_url), None, save_dir, **kwargs)


def convert_model(save_dir: str | Path, source_repo_id: str = "deepmind/optical-flow-perceiver", **kwargs: Any) -> None:
    """Converts a `transformers.PerceiverForOpticalFlow`. Outputs are equal.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source_repo_id: Folder or hub id of the transformers model.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Raises:
        ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
            library's model can't express. The message says which.
    """
    config = official_config(source_repo_id)
    source = official_model(source_repo_id, PerceiverForOpticalFlow, "optical flow model")
    model = OpticalFlowPerceiver(OpticalFlowPerceiverConfig(backend_config_of(config)))
    load_parameters(model.backend_model, transformers_state_dict(source), source_repo_id)
    save_converted(model, None, save_dir, **kwargs)


def backend_config_of(config: PerceiverConfig) -> OpticalFlowConfig:
    """The configuration of a `transformers.PerceiverForOpticalFlow` as ours.

    Raises:
        ValueError: if ours can't express it.
    """
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


def transformers_state_dict(source: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of a `transformers.PerceiverForOpticalFlow` under the names of our backend model.

    Raises:
        ValueError: if there is a parameter that can't be converted.
    """
    decoder = "perceiver.decoder.decoder"
    names = encoder_layers(source.config.num_self_attends_per_block)
    names |= cross_attention_layer("1.cross_attn", f"{decoder}.decoding_cross_attention", attention_residual=False)
    names |= {
        "0.input_adapter.linear.weight": "perceiver.input_preprocessor.conv_after_patches.weight",
        "0.input_adapter.linear.bias": "perceiver.input_preprocessor.conv_after_patches.bias",
        "1.output_adapter.linear.weight": f"{decoder}.final_layer.weight",
        "1.output_adapter.linear.bias": f"{decoder}.final_layer.bias",
    }
    return converted(source.state_dict(), names)


AutoModel.register(OpticalFlowPerceiverConfig, OpticalFlowPerceiver)
PIPELINE_REGISTRY.register_pipeline("optical-flow", pipeline_class=OpticalFlowPipeline, pt_model=OpticalFlowPerceiver)
