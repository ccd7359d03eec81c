"""Videos with sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, frames: list[np.ndarray], fps: int, sound: np.ndarray, rate: int) -> None:
    """Writes frames (H, W, 3) uint8, even sizes, and a sound (n,) from -1 to 1, which stays as it is: a .mkv file."""
    with av.open(path, "w") as container:
        pictures, samples = container.add_stream("libx264", rate=fps), container.add_stream("pcm_s16le", rate=rate)
        pictures.height, pictures.width = frames[0].shape[:2]
        samples.layout = "mono"
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode(None))
        part = av.AudioFrame.from_ndarray((sound[None] * 32767).round().astype(np.int16), format="s16", layout="mono")
        part.sample_rate = rate
        container.mux(samples.encode(part))
        container.mux(samples.encode(None))
