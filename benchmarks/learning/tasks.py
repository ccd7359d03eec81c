"""Tasks that need no download: each is a generator, or data that comes with Python or a package.

`NextTokens`: a stream of sequences, of which some tokens are to be predicted.
`Classification`: a fixed set of examples for training, another for the test.

    copy          the second half of a sequence repeats the first (Perceiver AR, arXiv 2202.07765, section 5.1.1)
    recall        pairs of key and value in random order, then each key asks for its value (arXiv 2312.04927, MQAR)
    passkey       five digits somewhere in random letters are asked for at the end
    pydoc         bytes of the help topics that come with Python
    chorales      Bach's chorales as MIDI events (music21)
    digits        8 x 8 images of scikit-learn
    mnist1d       series of 40 values, made as arXiv 2011.14439 describes them
    leaf          outlines of leaves as series of 427 values, OSULeaf of the UCR archive (aeon)
    points        clouds of 256 points of eight shapes, at any angle around an axis, with noise
    listops       nested operations on digits (Long Range Arena, arXiv 2011.04006), shorter: up to 256 symbols
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning import corpora
from perceiver.processing.midi import PAD, VOCAB_SIZE

TEST_SEED = 20_000  # of what is drawn for the test: no seed of a run

# Inputs (B, M) and labels (B, M), the token after each input, -100 where none is to be predicted
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class NextTokens:
    """Tokens to be predicted from those before them.

    Attributes:
        vocab_size: Number of token ids.
        seq_len: Positions M.
        num_scored: The last positions, the only ones that the test scores.
        num_latents: Latents of Perceiver AR. Divides `num_scored`.
        num_layers: Layers of attention and MLP of each model.
        metric: "accuracy" over the scored labels, or "bits" per label.
        draw: (examples, generator, whether for the test) -> inputs and labels.
        batch_size: Examples in a step.
        num_test: Examples in the test.
        text: What training draws from, if it draws from a text.
    """

    vocab_size: int
    seq_len: int
    num_scored: int
    num_latents: int
    metric: str
    draw: Callable[[int, torch.Generator, bool], Batch]
    batch_size: int = 32
    num_test: int = 64
    text: Tensor | None = None
    num_layers: int = 4

    def batch(self, generator: torch.Generator) -> Batch:
        return self.draw(self.batch_size, generator, False)

    def test(self) -> Batch:
        x, labels = self.draw(self.num_test, torch.Generator().manual_seed(TEST_SEED), True)
        return x, labels.clone().index_fill_(1, torch.arange(self.seq_len - self.num_scored), -100)


@dataclass(frozen=True)
class Classification:
    """Examples x, each of one of `num_classes` classes y.

    Attributes:
        x: Points with values (n, M, d + values), coordinates first, from -1 to 1; or tokens (n, M), 0 is padding.
        y: Classes (n,).
        num_train: The first examples are for training, the others for the test.
        num_classes: Number of classes.
        shape: Cells of the grid that the points are on, or how fine points in space are told apart.
        is_grid: Whether every example has all cells of the grid, in their order.
        vocab_size: Number of token ids, 0 if examples are no tokens.
        batch_size: Examples in a step.
    """

    x: Tensor
    y: Tensor
    num_train: int
    num_classes: int
    shape: tuple[int, ...]
    is_grid: bool = True
    vocab_size: int = 0
    batch_size: int = 64
    metric: str = "accuracy"

    def batch(self, generator: torch.Generator) -> Batch:
        chosen = torch.randint(self.num_train, (self.batch_size,), generator=generator)
        return self.x[chosen], self.y[chosen]

    def test(self) -> Batch:
        return self.x[self.num_train :], self.y[self.num_train :]


Task = NextTokens | Classification


def copy(seq_len: int = 256) -> NextTokens:
    def draw(n: int, generator: torch.Generator, for_test: bool) -> Batch:
        half = torch.randint(1, 257, (n, seq_len // 2), generator=generator)
        tokens = torch.cat([torch.zeros(n, 1, dtype=torch.long), half, half], dim=1)  # 0: the sequence begins
        labels = tokens[:, 1:].clone()
        labels[:, : seq_len // 2] = -100
        return tokens[:, :-1], labels

    return NextTokens(257, seq_len, seq_len // 2, seq_len // 8, "accuracy", draw, batch_size=16, num_test=32)


def recall(num_pairs: int = 16, num_symbols: int = 32, num_others: int = 0) -> NextTokens:
    """Pairs, with other tokens anywhere between them."""
    context, vocab_size = 2 * num_pairs + num_others, (3 if num_others else 2) * num_symbols

    def among_others(pairs: Tensor, generator: torch.Generator) -> Tensor:
        """Pairs (n, pairs, 2) -> tokens (n, context)"""
        n, num_places = len(pairs), num_pairs + num_others
        places = torch.rand(n, num_places, generator=generator).topk(num_pairs).indices.sort(dim=1).values
        starts = places + torch.arange(num_pairs)  # each pair before takes one place and two tokens
        tokens = torch.randint(2 * num_symbols, vocab_size, (n, context), generator=generator)
        return tokens.scatter(1, starts, pairs[..., 0]).scatter(1, starts + 1, pairs[..., 1])

    def draw(n: int, generator: torch.Generator, for_test: bool) -> Batch:
        keys = torch.rand(n, num_symbols, generator=generator).topk(num_pairs).indices  # no key twice
        values = torch.randint(num_symbols, (n, num_pairs), generator=generator) + num_symbols
        order = torch.rand(n, num_pairs, generator=generator).argsort()
        pairs = torch.stack([keys, values], dim=2)
        asked = pairs.gather(1, order[..., None].expand(-1, -1, 2))
        known = among_others(pairs, generator) if num_others else pairs.flatten(1)
        x = torch.cat([known, asked.flatten(1)], dim=1)
        labels = torch.full_like(x, -100)
        labels[:, context::2] = asked[..., 1]
        return x, labels

    num_asked = 2 * num_pairs
    return NextTokens(
        vocab_size, context + num_asked, num_asked, num_asked, "accuracy", draw, batch_size=16, num_test=128
    )


def passkey(seq_len: int = 256, num_digits: int = 5) -> NextTokens:
    mark, ask, letters = 10, 11, (12, 38)

    def draw(n: int, generator: torch.Generator, for_test: bool) -> Batch:
        tokens = torch.randint(*letters, (n, seq_len + 1), generator=generator)
        digits = torch.randint(10, (n, num_digits), generator=generator)
        key = torch.cat([torch.full((n, 1), mark), digits], dim=1)
        start = torch.randint(seq_len - 32 - num_digits, (n, 1), generator=generator)
        tokens.scatter_(1, start + torch.arange(num_digits + 1), key)
        tokens[:, -num_digits - 1 :] = torch.cat([torch.full((n, 1), ask), digits], dim=1)
        labels = torch.full((n, seq_len), -100)
        labels[:, -num_digits:] = digits
        return tokens[:, :-1], labels

    return NextTokens(letters[1], seq_len, 32, 32, "accuracy", draw, num_test=128)


def stream(train: list[int], test: list[int], vocab_size: int, seq_len: int, num_latents: int) -> NextTokens:
    """Windows that begin anywhere in a text; the last tokens, as many as latents, are scored."""
    text, test_text = torch.tensor(train), torch.tensor(test)

    def draw(n: int, generator: torch.Generator, for_test: bool) -> Batch:
        source = test_text if for_test else text
        start = torch.randint(len(source) - seq_len, (n, 1), generator=generator)
        tokens = source[start + torch.arange(seq_len + 1)]
        return tokens[:, :-1], tokens[:, 1:]

    return NextTokens(vocab_size, seq_len, num_latents, num_latents, "bits", draw, batch_size=8, text=text)


def pydoc(seq_len: int = 512, num_latents: int = 128) -> NextTokens:
    from pydoc_data.topics import topics

    text = list("\n".join(topics[name] for name in sorted(topics)).encode())
    num_train = len(text) * 9 // 10
    return stream(text[:num_train], text[num_train:], 256, seq_len, num_latents)


def chorales(seq_len: int = 512, num_latents: int = 128) -> NextTokens:
    train: list[int] = []
    test: list[int] = []
    for i, piece in enumerate(corpora.chorales()):
        (test if i % 10 == 9 else train).extend([*piece, PAD])
    return stream(train, test, VOCAB_SIZE, seq_len, num_latents)


def on_grid(values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Values (n, *shape) -> coordinates of the cell, then its value (n, M, d + 1)"""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    coordinates = torch.stack(axes, dim=-1).flatten(0, -2).expand(len(values), -1, -1)
    return torch.cat([coordinates, torch.as_tensor(values, dtype=torch.float32).reshape(len(values), -1, 1)], dim=-1)


def digits() -> Classification:
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    order = np.random.default_rng(TEST_SEED).permutation(len(y))
    x = on_grid(images[order] / 8 - 1, (8, 8))
    return Classification(x, torch.as_tensor(y[order]), 1347, 10, (8, 8))


# Ten curves of twelve points (arXiv 2011.14439, figure 1; values from the authors' package mnist1d, Apache-2.0)
_CURVES = """
5 6 6.5 6.75 7 7 7 7 6.75 6.5 6 5
5 3 3 3.4 3.8 4.2 4.6 5 5.4 5.8 5 5
5 6 6.5 6.5 6 5.25 4.75 4 3.5 3.5 4 5
5 6 6.5 6.5 6 5 5 6 6.5 6.5 6 5
5 4.4 3.8 3.2 2.6 2.6 5 5 5 5 5 5
5 3 3 3 3 5 6 6.5 6.5 6 4.5 5
5 4 3.5 3.25 3 3 3 3 3.25 3.5 4 5
5 7 7 6.6 6.2 5.8 5.4 5 4.6 4.2 5 5
5 4 3.5 3.5 4 5 5 4 3.5 3.5 4 5
5 4 3.5 3.5 4 5 5 5 5 4.7 4.3 5
"""


def resample(x: np.ndarray, size: int) -> np.ndarray:
    return np.interp(np.linspace(0, 1, size), np.linspace(0, 1, len(x)), x)


def mnist1d(num_train: int = 4000, num_test: int = 1000) -> Classification:
    from scipy.ndimage import gaussian_filter1d

    curves = np.array([line.split() for line in _CURVES.strip().splitlines()], dtype=float)
    curves = (curves - curves.mean(1, keepdims=True)) / curves.std(1, keepdims=True)
    curves = (curves - curves[:, :1]) / 6  # they begin at 0
    rng = np.random.default_rng(TEST_SEED)
    y = rng.integers(10, size=num_train + num_test)
    series = []
    for curve in curves[y]:
        x = np.concatenate([curve, np.zeros(rng.integers(36, 61))])  # the shorter, the wider after resampling
        x = resample(x, 72) * (1 + 0.4 * (rng.random() - 0.5))
        x = np.roll(x, rng.integers(48))
        x = np.where(x != 0, x, gaussian_filter1d(0.25 * rng.standard_normal(72), 2))
        x = x + 0.02 * rng.standard_normal(72) - 0.75 * (rng.random() - 0.5) * np.linspace(-0.5, 0.5, 72)
        series.append(resample(x, 40))
    x = np.stack(series)
    return Classification(on_grid(x / x[:num_train].std(), (40,)), torch.as_tensor(y), num_train, 10, (40,))


def leaf() -> Classification:
    x, y, num_train = corpora.leaves()  # each series has mean 0 and variance 1
    return Classification(on_grid(x, (x.shape[1],)), torch.as_tensor(y), num_train, 6, (x.shape[1],), batch_size=32)


def points(num_train: int = 4000, num_test: int = 500, num_points: int = 256) -> Classification:
    rng = np.random.default_rng(TEST_SEED)
    y = rng.integers(8, size=num_train + num_test)
    clouds = [_cloud(int(shape), num_points, rng) for shape in y]
    x = torch.as_tensor(np.stack(clouds), dtype=torch.float32)
    return Classification(x, torch.as_tensor(y), num_train, 8, (16, 16, 16), is_grid=False, batch_size=32)


def _cloud(shape: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3) of a sphere, cube, cylinder, cone, torus, helix, two planes or a full ball, from -1 to 1."""
    u, v, angle = rng.random(n), rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    if shape == 0:
        x = direction
    elif shape == 1:
        x = direction / np.abs(direction).max(axis=1, keepdims=True)
    elif shape == 2:
        x = np.concatenate([circle, v[:, None]], axis=1)
    elif shape == 3:
        x = np.concatenate([circle * np.sqrt(u)[:, None], 1 - 2 * np.sqrt(u)[:, None]], axis=1)
    elif shape == 4:
        tube = 2 * np.pi * u
        x = np.concatenate([circle * (1 + 0.4 * np.cos(tube))[:, None], 0.4 * np.sin(tube)[:, None]], axis=1)
    elif shape == 5:
        x = np.stack([np.cos(6 * v), np.sin(6 * v), v], axis=1)
    elif shape == 6:
        x = np.stack([rng.uniform(-1, 1, n), v, np.where(u < 0.5, 0.5, -0.5)], axis=1)
    else:
        x = direction * np.cbrt(u)[:, None]
    cosine, sine = np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)
    x = x * rng.uniform(0.6, 1.0, 3) @ np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    x = x + 0.05 * rng.standard_normal((n, 3)) + rng.uniform(-0.1, 0.1, 3)
    return x / max(1.0, np.abs(x).max())


# Tokens of ListOps: 0 is padding, 1 to 10 are the digits 0 to 9, then four operations and the closing bracket.
OPERATIONS: dict[int, Callable[[list[int]], int]] = {
    11: max,
    12: min,
    13: lambda values: int(statistics.median(values)),
    14: lambda values: sum(values) % 10,
}
CLOSE = 15


def listops(num_train: int = 4000, num_test: int = 500, max_len: int = 256) -> Classification:
    rng = random.Random(TEST_SEED)  # faster than numpy's where numbers are drawn one by one
    x = torch.zeros(num_train + num_test, max_len, dtype=torch.long)
    y = torch.zeros(num_train + num_test, dtype=torch.long)
    for i in range(len(x)):
        tokens: list[int] = []
        while not max_len // 4 <= len(tokens) <= max_len:
            tokens = []
            value = _expression(rng, tokens, max_len, depth=1)
        x[i, : len(tokens)], y[i] = torch.tensor(tokens), value
    return Classification(x, y, num_train, 10, (max_len,), vocab_size=16, batch_size=32)


def _expression(rng: random.Random, tokens: list[int], max_len: int, depth: int) -> int:
    """Appends an expression and gives its value: a digit in 3 of 4 cases and from depth 10 on, or an operation on 2 to
    10 expressions. Of one that gets too long only digits follow: nobody will use it."""
    if depth > 1 and (depth >= 10 or len(tokens) > max_len or rng.random() < 0.75):
        digit = rng.randrange(10)
        tokens.append(1 + digit)
        return digit
    operation = rng.choice(list(OPERATIONS))
    tokens.append(operation)
    values = [_expression(rng, tokens, max_len, depth + 1) for _ in range(rng.randint(2, 10))]
    tokens.append(CLOSE)
    return OPERATIONS[operation](values)


TASKS: dict[str, Callable[[], Task]] = {
    "copy": copy,
    "copy-1024": lambda: copy(1024),
    "copy-8192": lambda: replace(copy(8192), num_latents=512, batch_size=2, num_test=4),
    "recall": recall,
    "recall-64": lambda: replace(recall(64, 128), num_latents=16, num_layers=8),
    "recall-512": lambda: replace(recall(num_others=448), num_latents=16, num_layers=6),
    "passkey": passkey,
    "pydoc": pydoc,
    "chorales": chorales,
    "digits": digits,
    "mnist1d": mnist1d,
    "leaf": leaf,
    "points": points,
    "listops": listops,
}
