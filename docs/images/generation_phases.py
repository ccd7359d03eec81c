"""Draws docs/images/generation-phases.png: what cached generation sees, step by step.

python docs/images/generation_phases.py
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

MAX_SEQ_LEN, MAX_LATENTS = 12, 5
PROMPT_LEN, NUM_LATENTS = 5, 2
NUM_STEPS = 12
LENGTH = PROMPT_LEN + NUM_STEPS

COLOURS = {"not seen any more": "#dedede", "prefix": "#8ec5ea", "latent": "#0b4f8a", "new token": "#f0a202"}
DARK = "#222222"


def kind(position: int, num_tokens: int) -> str:
    """What a token is in the step that predicts the token at position `num_tokens`."""
    num_latents = min(NUM_LATENTS + num_tokens - PROMPT_LEN, MAX_LATENTS)
    if position == num_tokens:
        return "new token"
    if position >= num_tokens - num_latents:
        return "latent"
    return "prefix" if position >= num_tokens - MAX_SEQ_LEN else "not seen any more"


def bracket(ax: plt.Axes, first: int, last: int, title: str, text: str) -> None:
    """Names the steps `first` to `last`, to the right of their rows."""
    x, top, bottom = LENGTH + 0.4, first - 0.9, last - 0.1
    ax.plot([x - 0.2, x, x, x - 0.2], [top, top, bottom, bottom], color=DARK, linewidth=1.4, clip_on=False)
    middle = (top + bottom) / 2 - 0.35
    ax.text(x + 0.3, middle - 0.1, title, fontsize=12.5, fontweight="bold", va="bottom")
    ax.text(x + 0.3, middle + 0.08, text, fontsize=11.5, va="top", linespacing=1.25)


def main() -> None:
    figure, ax = plt.subplots(figsize=(8, 4.9), dpi=150)
    figure.subplots_adjust(left=0.085, right=0.725, bottom=0.115, top=0.785)
    for step in range(1, NUM_STEPS + 1):
        num_tokens = PROMPT_LEN + step - 1
        for position in range(num_tokens + 1):
            colour = COLOURS[kind(position, num_tokens)]
            ax.add_patch(Rectangle((position + 0.06, step - 0.94), 0.88, 0.88, color=colour, linewidth=0))

    num_growing = MAX_LATENTS - NUM_LATENTS + 1
    num_growing_prefix = MAX_SEQ_LEN - MAX_LATENTS - (PROMPT_LEN - NUM_LATENTS)
    last = num_growing + num_growing_prefix
    bracket(ax, 1, num_growing, "1  latents grow", "until there are\nmax_latents")
    bracket(ax, num_growing + 1, last, "2  prefix grows", "until max_seq_len\ntokens are seen")
    bracket(ax, last + 1, NUM_STEPS, "3  window slides", "the oldest token\nis seen no more")

    ax.axvline(PROMPT_LEN, ymax=1.06, color=DARK, linewidth=1.2, linestyle=(0, (3, 2)), clip_on=False)
    for x, text in ((PROMPT_LEN / 2, "prompt"), (PROMPT_LEN + NUM_STEPS / 2, "generated")):
        ax.text(x, -0.15, text, fontsize=11.5, ha="center", va="bottom")
    ax.set(xlim=(0, LENGTH), ylim=(NUM_STEPS, 0))
    ax.set_xticks([i + 0.5 for i in range(0, LENGTH, 2)], [str(i) for i in range(0, LENGTH, 2)])
    ax.set_yticks([i + 0.5 for i in range(NUM_STEPS)], [str(i + 1) for i in range(NUM_STEPS)])
    ax.tick_params(length=0, labelsize=11)
    ax.set_xlabel("position in the sequence", fontsize=12)
    ax.set_ylabel("step", fontsize=12)
    for spine in ax.spines.values():
        spine.set_visible(False)

    sizes = f"max_seq_len={MAX_SEQ_LEN}, max_latents={MAX_LATENTS}; prompt of {PROMPT_LEN}, num_latents={NUM_LATENTS}"
    figure.text(0.088, 0.94, sizes, fontsize=12, va="bottom")
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()],
        list(COLOURS),
        loc="upper left",
        bbox_to_anchor=(0.076, 0.935),
        ncols=len(COLOURS),
        fontsize=11.5,
        frameon=False,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1.8,
        handletextpad=0.5,
    )
    figure.savefig(Path(__file__).parent / "generation-phases.png", facecolor="white", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
