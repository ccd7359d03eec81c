"""Draws house.png, the rooms of the library: `python docs/images/house.py`."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

# Rooms: left, bottom, width, height, title, what is in it, colour.
ROOMS = [
    (
        0,
        8.4,
        12,
        1.2,
        "scripts",
        "perceiver mlm fit ...     perceiver convert ...     perceiver preproc ...",
        "#dfe7f1",
    ),
    (8.6, 3.6, 3.4, 4.5, "data", "Lightning data modules:\ntext, vision, audio,\nmultimodal", "#e9e4f2"),
    (0, 5.9, 4.1, 2.2, "lightning.py", "Lit<Task>\nits signature is the command line", "#e3efe1"),
    (4.3, 5.9, 4.1, 2.2, "huggingface.py", "Perceiver<Task>\nforward, pipelines, official weights", "#fbeed5"),
    (0, 3.6, 8.4, 2.0, "backend.py", "<Task>, <Task>Config: the model, and the paper's variants", "#f9e0dc"),
    (0, 1.8, 4.1, 1.5, "model/lightning", "base of training", "#e3efe1"),
    (4.3, 1.8, 4.1, 1.5, "model/huggingface", "base of inference", "#fbeed5"),
    (8.6, 1.8, 3.4, 1.5, "processing", "text, images, flow, MIDI", "#ececec"),
    (
        0,
        0,
        12,
        1.5,
        "model/core",
        "attention, layers, Perceiver IO, Perceiver AR, adapters, configs, checkpoints",
        "#f9e0dc",
    ),
]


def main() -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(10, 7.6), dpi=130)
    for left, bottom, width, height, title, text, colour in ROOMS:
        box = FancyBboxPatch(
            (left + 0.06, bottom + 0.06),
            width - 0.12,
            height - 0.12,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor="#555555",
            linewidth=1,
        )
        axes.add_patch(box)
        middle = left + width / 2
        axes.text(middle, bottom + height / 2 + 0.02, title, ha="center", va="bottom", fontsize=12, weight="bold")
        axes.text(middle, bottom + height / 2 - 0.08, text, ha="center", va="top", fontsize=9.5)
    axes.text(
        4.2, 8.2, "a task: three modules and a row in perceiver/tasks.py", ha="center", fontsize=9, style="italic"
    )
    axes.annotate("", (-0.35, 0.2), (-0.35, 9.4), arrowprops={"arrowstyle": "->", "color": "#555555"})
    axes.text(-0.55, 4.8, "imports run downwards", rotation=90, ha="center", va="center", fontsize=9.5)
    axes.set_xlim(-0.9, 12.1)
    axes.set_ylim(-0.1, 9.7)
    axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"), bbox_inches="tight")


if __name__ == "__main__":
    main()
