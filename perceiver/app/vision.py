"""Playgrounds of image classifier and optical flow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import torch
from einops import rearrange

from perceiver.app.playground import Field, Output, Playground, picture, seen_by_outputs
from perceiver.model.core.attention_maps import record_attention
from perceiver.processing.optical_flow import render_optical_flow
from perceiver.processing.pillow import converted_image

MAX_PIXELS = 16_000_000
HEAT = np.array([225.0, 60.0, 20.0])  # the colour of large weights


def image_field(name: str, label: str) -> Field:
    return Field(name, label, "file", accept="image/*")


def read_picture(content: bytes, label: str, *, single_channel: bool = False) -> PIL.Image.Image:
    """The image of an uploaded file.

    Raises:
        ValueError: if it is no image, or too large a one.
    """
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{label}: {image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            return converted_image(image, single_channel=single_channel)
    except (OSError, SyntaxError) as error:  # Pillow raises the latter for damaged PNG files
        raise ValueError(f"{label}: the file is no image that can be read") from error


class ImagePlayground(Playground):
    """Image classifier: the probabilities of the classes, and the weights of the pixels."""

    fields = [image_field("image", "Image"), Field("top_k", "Classes", value=5, low=1, high=20)]

    def run(self, image: bytes, top_k: int) -> Iterator[Output]:  # type: ignore[override]
        num_channels = self.model.backend_model.config.encoder.image_shape[-1]
        pixels = read_picture(image, "Image", single_channel=num_channels == 1)
        num_classes = self.model.config.num_labels
        rows = [[r["label"], r["score"]] for r in self.pipeline(pixels, top_k=min(top_k, num_classes))]
        yield {"kind": "bars", "title": "Classes", "rows": rows}
        inputs = self.pipeline.image_processor(pixels, return_tensors="pt").to(self.model.device)
        with torch.no_grad(), record_attention(self.model, "encoder.cross_attention.0", "decoder.*") as maps:
            self.model(**inputs)
        seen = seen_by_outputs(maps)[0].mean(dim=0).float()
        height, width = inputs["pixel_values"].shape[1:3]
        factor = round((height * width / len(seen)) ** 0.5)  # convolutions make fewer inputs than pixels
        if len(seen) * factor**2 != height * width:
            return
        weights = rearrange(seen / seen.max(), "(h w) -> h w", h=height // factor).cpu().numpy()
        shape = (max(width, 320), max(height, 320) * height // width if height < width else max(height, 320))
        mask = PIL.Image.fromarray((weights * 255).astype(np.uint8)).resize(shape)
        plain = rearrange(inputs["pixel_values"][0].float(), "h w c -> h w c").cpu().numpy()
        plain = (plain - plain.min()) / max(float(plain.max() - plain.min()), 1e-9) * 255
        model_sees = PIL.Image.fromarray(np.broadcast_to(plain, (height, width, 3)).astype(np.uint8)).resize(shape)
        heat = PIL.Image.new("RGB", shape, tuple(HEAT.astype(int).tolist()))
        looked_at = PIL.Image.composite(heat, model_sees, mask)
        titles = ["what the model gets", "what it looks at"]
        yield {"kind": "slider", "titles": titles, "urls": [picture(model_sees), picture(looked_at)]}


class FlowPlayground(Playground):
    """Optical flow: how the pixels of one frame move to the next one."""

    fields = [image_field("first", "First frame"), image_field("second", "Second frame")]

    def run(self, first: bytes, second: bytes) -> Iterator[Output]:  # type: ignore[override]
        frames = read_picture(first, "First frame"), read_picture(second, "Second frame")
        yield {"kind": "progress", "text": "computing the flow"}
        flow: Any = self.pipeline(tuple(np.asarray(frame) for frame in frames))
        urls = [picture(frame) for frame in frames]
        yield {"kind": "slider", "titles": ["first frame", "second frame"], "urls": urls}
        lengths = np.linalg.norm(flow, axis=-1)
        title = f"Flow: {lengths.mean():.2f} pixels on average, at most {lengths.max():.2f}"
        yield {"kind": "image", "title": title, "url": picture(render_optical_flow(flow))}
