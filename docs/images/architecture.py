"""Draws architecture.png, Perceiver IO and Perceiver AR side by side: `python docs/images/architecture.py`."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

INPUT, LATENT, OUTPUT, PLAIN = "#dfe7f1", "#f9e0dc", "#e3efe1", "#f4f4f4"


def cells(axes: Axes, left: float, bottom: float, count: int, colour: str, letter: str = "") -> None:
    """A row of vectors, with what counts them at its end."""
    for number in range(count):
        axes.add_patch(Rectangle((left + 0.3 * number, bottom), 0.26, 0.5, facecolor=colour, edgecolor="#555555"))
    axes.text(left + 0.3 * count + 0.1, bottom + 0.25, letter, va="center", fontsize=10)


def box(
    axes: Axes, left: float, bottom: float, width: float, text: str, colour: str = PLAIN, height: float = 0.7
) -> None:
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor="#555555"))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555"})
    axes.text((start[0] + end[0]) / 2 + 0.1, (start[1] + end[1]) / 2, text, va="center", fontsize=8.5, style="italic")


def perceiver_io(axes: Axes) -> None:
    axes.set_title("Perceiver IO reads anything and answers queries", fontsize=12, weight="bold")
    cells(axes, 0.3, 0, 16, INPUT, "M inputs: bytes, pixels, sound, points")
    arrow(axes, (2.6, 0.6), (2.6, 1.4), "keys, values")
    box(axes, 0.3, 1.4, 4.7, "cross-attention")
    cells(axes, 6.6, 1.5, 5, LATENT, "N learned latents")
    arrow(axes, (6.5, 1.75), (5.05, 1.75))
    axes.text(5.75, 1.92, "queries", ha="center", fontsize=8.5, style="italic")
    arrow(axes, (2.6, 2.2), (2.6, 2.8))
    box(axes, 0.3, 2.8, 4.7, "self-attention among N latents, x L", LATENT, 1.1)
    axes.text(5.2, 3.35, "the deep part: its cost\nknows neither M nor O", va="center", fontsize=8.5, style="italic")
    arrow(axes, (2.6, 4.0), (2.6, 4.7), "keys, values")
    box(axes, 0.3, 4.7, 4.7, "cross-attention")
    cells(axes, 6.6, 4.8, 9, OUTPUT, "O queries")
    arrow(axes, (6.5, 5.05), (5.05, 5.05))
    axes.text(5.75, 5.22, "queries", ha="center", fontsize=8.5, style="italic")
    arrow(axes, (2.6, 5.5), (2.6, 6.1))
    cells(axes, 0.3, 6.15, 9, OUTPUT, "O outputs: logits, flow, classes")


def perceiver_ar(axes: Axes) -> None:
    axes.set_title("Perceiver AR continues a long sequence", fontsize=12, weight="bold")
    cells(axes, 0.3, 0, 15, INPUT)
    cells(axes, 4.8, 0, 5, LATENT)
    axes.text(2.55, -0.35, "M positions of prefix", ha="center", fontsize=10)
    axes.text(5.5, -0.35, "N latents", ha="center", fontsize=10)
    arrow(axes, (2.6, 0.6), (2.6, 1.7), "keys, values")
    arrow(axes, (5.5, 0.6), (5.5, 1.7), "queries, keys, values")
    box(axes, 0.3, 1.7, 6.3, "causal cross-attention: a latent sees what precedes it")
    arrow(axes, (5.5, 2.5), (5.5, 3.1))
    box(axes, 3.3, 3.1, 4.4, "causal self-attention\namong N latents, x L", LATENT, 1.1)
    axes.text(7.9, 3.65, "the deep part:\nno prefix in it", va="center", fontsize=8.5, style="italic")
    arrow(axes, (5.5, 4.3), (5.5, 5.3))
    cells(axes, 4.8, 5.35, 5, OUTPUT, "next tokens")


def main() -> None:
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), dpi=110, width_ratios=[10.6, 9.4], layout="constrained")
    for axes, draw, width in ((left, perceiver_io, 10.6), (right, perceiver_ar, 9.4)):
        draw(axes)
        axes.set_xlim(0, width)
        axes.set_ylim(-0.6, 6.9)
        axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
