"""Draws docs/images/optical-flow.png: a synthetic example, its flow in colours, and what the colours mean.

python docs/images/optical_flow.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from perceiver.data.vision.flow_synthetic import synthetic_example
from perceiver.processing.optical_flow import render_optical_flow

SHAPE, MAX_DISPLACEMENT, SEED = (144, 192), 24, 10
STEP = 24  # pixels between arrows
RADIUS = 24  # pixels at which colours are full
DARK = "#222222"


def color_wheel(ax: plt.Axes) -> None:
    """The colour of each flow vector that begins in the middle."""
    y, x = np.mgrid[-RADIUS:RADIUS:400j, -RADIUS:RADIUS:400j]
    flow = np.stack([x, y], axis=-1)
    flow[np.hypot(x, y) > RADIUS] = 0
    ax.imshow(render_optical_flow(flow), extent=(-RADIUS, RADIUS, RADIUS, -RADIUS))
    for x, y, text in ((1, 0, "right"), (0, 1, "down"), (-1, 0, "left"), (0, -1, "up")):
        ax.annotate("", (RADIUS * x, RADIUS * y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": DARK})
        ax.text(RADIUS * 1.14 * x, RADIUS * 1.14 * y, text, fontsize=11, ha="center", va="center", rotation=-90 * x)
    ax.set(xlim=(-1.3 * RADIUS, 1.3 * RADIUS), ylim=(1.3 * RADIUS, -1.3 * RADIUS))


def main() -> None:
    example = synthetic_example(SHAPE, MAX_DISPLACEMENT, np.random.default_rng(SEED))
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.35), dpi=90, width_ratios=[4, 4, 4, 3])
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.02, top=0.88, wspace=0.03)
    for ax, image in zip(axes, (*example.frames, render_optical_flow(example.flow)), strict=False):
        ax.imshow(image)
    y, x = (grid[STEP // 2 :: STEP, STEP // 2 :: STEP] for grid in np.mgrid[: SHAPE[0], : SHAPE[1]])
    u, v = example.flow[y, x, 0], example.flow[y, x, 1]
    axes[2].quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color=DARK, width=0.006)
    color_wheel(axes[3])
    for ax, title in zip(axes, ("first frame", "second frame", "flow", f"full colour: {RADIUS} pixels"), strict=True):
        ax.set_title(title, fontsize=12)
        ax.axis("off")
    path = Path(__file__).parent / "optical-flow.png"
    figure.savefig(path, facecolor="white", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
