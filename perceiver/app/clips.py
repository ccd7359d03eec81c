"""Playground of the multimodal autoencoder: the reconstruction beside the clip."""

from __future__ import annotations

import io
import wave
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from transformers import AutoModel

from perceiver.app.playground import Field, Output, Outputs, Playground, data_url, picture, uploaded
from perceiver.processing.video import read_audio, read_video_frames, read_video_rate
from perceiver.tasks import TASKS

Array = npt.NDArray[np.float32]


class ClipPlayground(Playground):
    """Multimodal autoencoder."""

    fields = [
        Field("clip", "Clip, of which the first frames are taken", "file", accept="video/*"),
        Field("top_k", "Classes", value=5, low=1, high=20),
    ]

    def __init__(self, folder: str, task: str):
        self.folder = folder
        self.task = TASKS[task]
        self.model: Any = AutoModel.from_pretrained(folder).eval()  # it has no pipeline
        num_frames, height, width, _ = self.model.backend_model.config.video_shape
        self.hint = f"The model takes {num_frames} frames of {height} x {width} pixels, and what sounds with them."

    def run(self, clip: bytes, top_k: int) -> Outputs:
        config = self.model.backend_model.config
        with uploaded(clip, ".mp4") as file:
            frames, rate, sound = read_clip(file, config.video_shape, config.num_audio_samples)
        video = torch.from_numpy(frames)[None]
        audio = None if sound is None else torch.from_numpy(sound)[None]
        yield {"kind": "progress", "text": "encoding"}
        one = torch.tensor([0])  # of a modality that is decoded elsewhere
        with torch.inference_mode():
            latents = self.model.backend_model.encode(video, audio)
            output = self.model.backend_model.decode(latents, video_points=one)
        decoded: list[Array] = []
        for points in torch.arange(frames[..., 0].size).view(len(frames), -1):
            yield {"kind": "progress", "text": f"decoding frame {len(decoded) + 1} of {len(frames)}"}
            with torch.inference_mode():
                frame = self.model.backend_model.decode(latents, video_points=points, audio_points=one).video[0]
            decoded.append(rearrange(frame, "(h w) c -> h w c", h=frames.shape[1]).float().cpu().numpy())
        rows = [frames_of(video) for video in (frames, np.stack(decoded))]
        yield {"kind": "frames", "titles": ["clip", "reconstruction"], "rate": rate, "rows": rows}
        hertz = round(config.num_audio_samples * rate / len(frames))
        sounds = [("Sound of the clip", sound), ("Sound of the reconstruction", output.audio[0].float().cpu().numpy())]
        for title, samples in sounds:
            if samples is not None:
                yield sound_output(title, samples, hertz)
        if sound is None:
            yield {
                "kind": "note",
                "text": "The clip has no sound: it is masked, which official models were not trained for.",
            }
        best = output.label[0].float().softmax(dim=-1).topk(min(top_k, output.label.shape[-1]))
        names = self.model.config.id2label
        bars = [[names[i], p] for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        yield {"kind": "bars", "title": "Classes", "rows": bars}


def read_clip(file: Path, shape: tuple[int, ...], num_samples: int) -> tuple[Array, float, Array | None]:
    """The first frames of a video and their sound.

    Args:
        file: The video.
        shape: Of the frames (T, H, W, 3).
        num_samples: What the sound of these frames is resampled to.

    Returns:
        Frames, from 0 to 1; frames per second; samples from -1 to 1, None if there is no sound.

    Raises:
        ValueError: if it is no video, or has fewer frames.
    """
    num_frames, height, width, _ = shape
    with closing(read_video_frames(file, (height, width))) as all_frames:
        frames = list(islice(all_frames, num_frames))
    if len(frames) < num_frames:
        raise ValueError(f"Clip: {len(frames)} frames are fewer than the {num_frames} of the model")
    rate = read_video_rate(file)
    sound = read_audio(file, round(num_samples * rate / num_frames), num_samples)
    return np.divide(np.stack(frames), 255, dtype=np.float32), rate, sound


def frames_of(video: Array) -> list[str]:
    """Frames (T, H, W, 3), from 0 to 1, as addresses of PNGs."""
    return [picture(frame) for frame in (video.clip(0, 1) * 255).round().astype(np.uint8)]


def sound_output(title: str, samples: Array, hertz: int) -> Output:
    """Samples (n,) from -1 to 1 as a sound to play, with its curve: the lowest and highest of each part."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, hertz, 0, "NONE", "not compressed"))
        writer.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    parts = np.array_split(samples, min(len(samples), 400))
    curve = [[float(part.min()), float(part.max())] for part in parts]
    return {"kind": "audio", "title": title, "curve": curve, "url": data_url(file.getvalue(), "audio/wav")}
