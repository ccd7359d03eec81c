"""Playgrounds of image classifier and optical flow."""

from __future__ import annotations

import io
from contextlib import closing
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import torch
from einops import rearrange

from perceiver.app.playground import Field, Outputs, Playground, picture, seen_by_outputs, uploaded
from perceiver.model.core.attention_maps import record_attention
from perceiver.processing.optical_flow import render_optical_flow
from perceiver.processing.pillow import converted_image
from perceiver.processing.video import read_video_frames, read_video_rate

MAX_PIXELS, MAX_FRAMES = 16_000_000, 32
HEAT = np.array([225.0, 60.0, 20.0])  # the colour of large weights
ARROW = (225, 40, 40)


def image_field(name: str, label: str, *, optional: bool = False) -> Field:
    return Field(name, label, "file", accept="image/*", optional=optional)


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

    def run(self, image: bytes, top_k: int) -> Outputs:
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

    hint = "Two frames, or the beginning of a video."
    fields = [
        image_field("first", "First frame", optional=True),
        image_field("second", "Second frame", optional=True),
        Field("video", "Video", "file", accept="video/*", optional=True),
        Field("num_frames", "Frames of the video", value=6, low=2, high=MAX_FRAMES),
    ]

    def run(self, first: bytes, second: bytes, video: bytes, num_frames: int) -> Outputs:
        if video:
            with uploaded(video, ".mp4") as file, closing(read_video_frames(file)) as all_frames:
                frames, rate = list(islice(all_frames, num_frames)), read_video_rate(file)
            if len(frames) < 2:
                raise ValueError("Video: it has only one frame")
        else:
            if not (first and second):
                raise ValueError("choose two frames, or a video")
            pictures = read_picture(first, "First frame"), read_picture(second, "Second frame")
            frames, rate = [np.asarray(frame) for frame in pictures], 1.0
        flows: list[npt.NDArray[np.float32]] = []
        for pair in pairwise(frames):
            yield {"kind": "progress", "text": f"computing flow {len(flows) + 1} of {len(frames) - 1}"}
            flows.append(self.pipeline(pair))
        urls = [picture(frame) for frame in frames]
        if not video:
            yield {"kind": "slider", "titles": ["first frame", "second frame"], "urls": urls}
        lengths = np.linalg.norm(flows, axis=-1)
        yield {"kind": "note", "text": f"{lengths.mean():.2f} pixels on average, at most {lengths.max():.2f}"}
        colours = [picture(render_optical_flow(flow)) for flow in flows]
        drawn = [picture(with_arrows(frame, flow)) for frame, flow in zip(frames, flows, strict=False)]
        yield {"kind": "frames", "titles": ["flow in colours", "arrows"], "rate": rate, "rows": [colours, drawn]}


def with_arrows(frame: npt.NDArray[np.uint8], flow: npt.NDArray[np.float32]) -> PIL.Image.Image:
    """A frame (H, W, 3) with arrows along its flow (H, W, 2), x and y. The longest is as long as they are apart."""
    height, width = flow.shape[:2]
    scale = max(1, round(480 / max(height, width)))
    image = PIL.Image.fromarray(frame).resize((scale * width, scale * height))
    draw, apart = PIL.ImageDraw.Draw(image), max(scale * max(height, width) // 20, 8)
    stretch = apart / max(float(np.linalg.norm(flow, axis=-1).max()), 1e-9)
    for y in range(apart // 2, image.height, apart):
        for x in range(apart // 2, image.width, apart):
            dx, dy = stretch * flow[y // scale, x // scale]
            tip = x + dx, y + dy
            head = [(tip[0] - 0.3 * (dx + s * dy), tip[1] - 0.3 * (dy - s * dx)) for s in (0.6, -0.6)]
            draw.line([(x, y), tip], fill=ARROW, width=2)
            draw.line([head[0], tip, head[1]], fill=ARROW, width=2)
    return image
