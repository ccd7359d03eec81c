"""Draws docs/images/attention-{text,image,piano-roll}.png: attention maps of small models, trained here.

python docs/images/attention_maps.py

Three models, each trained for a minute or two: a classifier of made-up film reviews, whose label one word decides;
one of scikit-learn's handwritten digits; and a Perceiver AR over the piano pieces that the library makes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

mpl.use("Agg")
import matplotlib.pyplot as plt

from perceiver.data.audio.synthetic import read_piece
from perceiver.model.audio import symbolic
from perceiver.model.core.attention_maps import AttentionMaps, record_attention
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text import classifier, mlm
from perceiver.model.vision import image_classifier
from perceiver.processing.midi import NOTE_OFF, TIME_SHIFT, VELOCITY, encode_midi

FOLDER = Path(__file__).parent
COLOURS = "YlOrRd"
LAYERS: dict[str, Any] = {
    "num_cross_attention_heads": 1,
    "num_self_attention_heads": 4,
    "num_self_attention_layers_per_block": 2,
    "init_scale": 0.1,
}
GOOD, BAD = ("great", "superb", "lovely"), ("dreadful", "boring", "awful")
FILLERS = ("the film that we saw", "its music", "last night at home", "with my old friends", "the second half of it")


def train(model: nn.Module, loss: Callable[[], Tensor], num_steps: int, lr: float = 2e-3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, num_steps)
    for step in range(num_steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == num_steps - 1:
            print(f"{type(model).__name__} step {step}: loss {value.item():.4f}", flush=True)
    model.eval()


def seen_by_output(maps: AttentionMaps) -> Tensor:
    """How much an output takes of each input (B, M), through the latents, if self-attention mixed nothing."""
    to_latents = maps["encoder.cross_attention.0"].mean(dim=1)  # B N M
    to_output = maps["decoder.cross_attention"].mean(dim=(1, 2))  # B N
    return torch.einsum("bn,bnm->bm", to_output, to_latents)


def review() -> tuple[str, int]:
    label = random.randrange(2)
    word = random.choice((BAD, GOOD)[label])
    before, after = random.sample(FILLERS, 2)
    return f"{before} was {word} and {after} ended", label


def draw_text() -> None:
    length = 72
    encoder = mlm.TextEncoderConfig(vocab_size=128, max_seq_len=length, num_input_channels=32, **LAYERS)
    decoder = ClassificationDecoderConfig(num_classes=2, num_output_query_channels=32)
    model = classifier.TextClassifier(
        classifier.TextClassifierConfig(encoder, decoder, num_latents=8, num_latent_channels=64)
    )

    def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
        x = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(x, texts, strict=True):
            row[: len(text)] = torch.tensor(list(text.encode("ascii")))
        return x, x == 0

    def loss() -> Tensor:
        texts, labels = zip(*(review() for _ in range(32)), strict=True)
        return nn.functional.cross_entropy(model(*encode(list(texts))), torch.tensor(labels))

    train(model, loss, 600)
    texts = [review()[0] for _ in range(4)]
    x, pad_mask = encode(texts)
    with torch.no_grad(), record_attention(model, "*cross_attention*") as maps:
        probabilities = model(x, pad_mask).softmax(dim=-1)
    figure, axes = plt.subplots(len(texts), 1, figsize=(10, 1.9), dpi=90)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.02, top=0.98)
    for ax, text, weights, p in zip(axes, texts, seen_by_output(maps), probabilities, strict=True):
        ax.imshow(weights[None, : len(text)], cmap=COLOURS, aspect="auto", extent=(0, len(text), 0, 1), vmin=0)
        for i, character in enumerate(text):
            dark = weights[i] > 0.6 * weights.max()
            ax.text(i + 0.5, 0.5, character, ha="center", va="center", family="monospace", color="w" if dark else "k")
        ax.text(length - 6, 0.5, f"good: {p[1]:.2f}", va="center")
        ax.set_xlim(0, length)
        ax.axis("off")
    save(figure, "attention-text.png")


def draw_image() -> None:
    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[..., None]
    labels = torch.tensor(digits.target)
    encoder = image_classifier.ImageEncoderConfig(image_shape=(8, 8, 1), num_frequency_bands=6, **LAYERS)
    decoder = ClassificationDecoderConfig(num_classes=10, num_output_query_channels=32)
    model = image_classifier.ImageClassifier(
        image_classifier.ImageClassifierConfig(encoder, decoder, num_latents=8, num_latent_channels=64)
    )

    def loss() -> Tensor:
        rows = torch.randint(1500, (64,))
        return nn.functional.cross_entropy(model(images[rows]), labels[rows])

    train(model, loss, 600)
    rows = torch.tensor([1500 + int((labels[1500:] == digit).nonzero()[0]) for digit in (0, 2, 4, 7)])
    with torch.no_grad(), record_attention(model, "*cross_attention*") as maps:
        predicted = model(images[rows]).argmax(dim=-1)
    figure, axes = plt.subplots(2, 6, figsize=(10, 3.6), dpi=90)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.02, top=0.92, wspace=0.05)
    for ax, image, weights, label in zip(axes.T[:4], images[rows], seen_by_output(maps), predicted, strict=True):
        ax[0].imshow(image[..., 0], cmap="gray_r")
        ax[0].set_title(f"predicted: {label}", fontsize=11)
        ax[1].imshow(weights.unflatten(0, (8, 8)), cmap=COLOURS, vmin=0)
    latents = maps["encoder.cross_attention.0"][1, 0]  # N M, of the second image
    for n, ax in enumerate(axes.T[4:].ravel()):
        ax.imshow(latents[n].unflatten(0, (8, 8)), cmap=COLOURS, vmin=0)
        ax.set_title(f"latent {n} of the 2", fontsize=11)
    for ax in axes.ravel():
        ax.axis("off")
    save(figure, "attention-image.png")


def draw_piano_roll() -> None:
    pieces = [piece for seed in range(100) if len(piece := np.array(encode_midi(read_piece(seed)))) > 200]
    config = symbolic.SymbolicAudioModelConfig(
        max_seq_len=192, max_latents=64, num_channels=64, num_heads=4, num_self_attention_layers=2, init_scale=0.05
    )
    model = symbolic.SymbolicAudioModel(config)

    def sequences(some: list[Any], num_tokens: int) -> Tensor:
        starts = [random.randrange(len(piece) - num_tokens) for piece in some]
        return torch.stack([torch.tensor(p[s : s + num_tokens]) for p, s in zip(some, starts, strict=True)])

    def loss() -> Tensor:
        x = sequences(random.choices(pieces, k=16), 193)
        return model.loss(x[:, 1:], x[:, :-1])

    train(model, loss, 700, lr=4e-3)
    piece = np.array(encode_midi(read_piece(1000)))[:192]  # one that training did not see
    note_ons = np.flatnonzero(piece < NOTE_OFF)
    position = int(note_ons[-1])  # its latent predicts what comes after the last note on
    with torch.no_grad(), record_attention(model, "cross_attention") as maps:
        model(torch.tensor(piece)[None], prefix_len=128)
    weights = maps["cross_attention"][0, :, position - 128].mean(dim=0)  # M + N
    time = np.cumsum(np.where((piece >= TIME_SHIFT) & (piece < VELOCITY), piece - TIME_SHIFT + 1, 0)) / 100
    figure, ax = plt.subplots(figsize=(10, 3), dpi=90, layout="constrained")
    notes = []
    for on in note_ons:
        off = on + np.flatnonzero(piece[on:] == piece[on] + NOTE_OFF)[:1]  # none: it still sounds
        end = time[off[0]] if len(off) else time[-1]
        notes.append((piece[on], time[on], end, weights[[on, *off]].sum().item()))
    largest = max(share for *_, share in notes)
    for pitch, start, end, share in notes:
        color = plt.get_cmap(COLOURS)(share / largest)
        ax.barh(pitch, end - start, left=start, height=0.9, color=color, ec="0.6")
    ax.axvline(time[127], color="0.5", linestyle=":")
    ax.text(time[127], piece[note_ons].max() + 1.5, " latents", color="0.4")
    ax.plot(time[position], piece[position], "kv", markersize=9)
    ax.set(xlabel="seconds", ylabel="pitch", ylim=(None, piece[note_ons].max() + 4))
    save(figure, "attention-piano-roll.png")


def save(figure: Any, name: str) -> None:
    figure.savefig(FOLDER / name, facecolor="white", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    torch.set_num_threads(2)
    for draw in (draw_text, draw_image, draw_piano_roll):
        random.seed(0)
        torch.manual_seed(0)
        draw()
