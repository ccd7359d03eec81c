"""Training of optical flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perceiver.model.lightning.model import LitModel
from perceiver.model.vision.optical_flow.backend import (
    OpticalFlow,
    OpticalFlowConfig,
    OpticalFlowDecoderConfig,
    OpticalFlowEncoderConfig,
    flow_loss,
    outlier_rate,
)


class LitOpticalFlow(LitModel):
    """Optical flow. A batch is {"x": features (B, 2, 27, H, W), "flow": flow in pixels (B, H, W, 2)}.

    Flow that is not finite is unknown, as is that where "valid" (B, H, W) of a batch is False. The loss is the mean
    end-point error in pixels (arXiv 2107.14795, appendix H); validation and test also log the share of outliers.

    Args:
        encoder: Encoder configuration.
        decoder: Decoder configuration.
        params: Checkpoint, folder or hub id of an optical flow model that the model is initialised from.
        params_strict: Refuse parameters of a model that has the same shapes and computes something else.
        kwargs: The other fields of `OpticalFlowConfig`.
    """

    config_class = OpticalFlowConfig
    model: OpticalFlow

    def __init__(
        self,
        encoder: OpticalFlowEncoderConfig,
        decoder: OpticalFlowDecoderConfig,
        params: str | None = None,
        params_strict: bool = True,
        **kwargs: Any,
    ):
        super().__init__(OpticalFlow(OpticalFlowConfig(encoder, decoder, **kwargs)), params, params_strict)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 2, 27, H, W) -> flow (B, H, W, 2) in units of `PIXELS_PER_UNIT` pixels"""
        return self.model(x)

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        return flow_loss(self.model(batch["x"]), known_flow(batch))

    def num_targets(self, batch: dict[str, Tensor]) -> Tensor:
        return known_flow(batch).isfinite().all(dim=-1).sum()

    def metrics(self, batch: dict[str, Tensor], split: str) -> dict[str, Any]:
        if split == "train":
            return super().metrics(batch, split)
        flow, target = self.model(batch["x"]), known_flow(batch)
        return {"loss": flow_loss(flow, target), "outliers": outlier_rate(flow, target)}


def known_flow(batch: dict[str, Tensor]) -> Tensor:
    """Flow (B, H, W, 2) of a batch, NaN where it is not valid."""
    flow = batch["flow"]
    return flow.where(batch["valid"][..., None], float("nan")) if "valid" in batch else flow
