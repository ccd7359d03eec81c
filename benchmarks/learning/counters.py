"""The models of the tables without gradients: n-grams for sequences, trees for grids and tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.learning.tasks import Classification, NextTokens


class NGram:
    """Counts of what followed the last 0 to 5 tokens, in the training text, if there is one, and in the context so far.

    Shorter contexts fill in for longer ones as Witten and Bell (1991) weigh them. It learns nothing by gradients, and
    looks up exactly: the plain answer to copying and recall.
    """

    def __init__(self, task: NextTokens, order: int = 5):
        self.task, self.order = task, order
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.num_parameters = 0

    def fit(self) -> None:
        tokens = [] if self.task.text is None else self.task.text.tolist()
        for i in range(len(tokens)):
            count(self.counts, tokens, i, self.order)
        self.num_parameters = sum(map(len, self.counts.values()))

    def logits(self, x: Tensor) -> Tensor:
        """Logarithms of probabilities (B, scored, vocabulary)"""
        return torch.stack([self._sequence(tokens) for tokens in x.tolist()])

    def _sequence(self, tokens: list[int]) -> Tensor:
        seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        rows = []
        for i in range(len(tokens)):
            count(seen, tokens, i, self.order)
            if i >= len(tokens) - self.task.num_scored:
                p = np.full(self.task.vocab_size, 1 / self.task.vocab_size)
                for length in range(min(self.order, i + 1) + 1):
                    context = tuple(tokens[i + 1 - length : i + 1])
                    found = self.counts.get(context, Counter()) + seen.get(context, Counter())
                    if not found:
                        break
                    p *= len(found)
                    p[list(found)] += list(found.values())
                    p /= p.sum()
                rows.append(p)
        return torch.from_numpy(np.log(np.stack(rows))).float()


def count(counts: dict[tuple[int, ...], Counter[int]], tokens: list[int], i: int, order: int) -> None:
    """Counts token i after each of the contexts before it."""
    for length in range(min(order, i) + 1):
        counts[tuple(tokens[i - length : i])][tokens[i]] += 1


class Boosting:
    """Gradient boosting of decision trees over the values of the grid, or over how often each token occurs."""

    ROUNDS = 100

    def __init__(self, task: Classification):
        self.task = task
        self.num_parameters = 0

    def features(self, x: Tensor) -> np.ndarray:
        if self.task.vocab_size:
            return nn.functional.one_hot(x, self.task.vocab_size).sum(dim=1).numpy()
        return x[..., -1].numpy()

    def fit(self) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        n = self.task.num_train
        self.trees = HistGradientBoostingClassifier(max_iter=self.ROUNDS, random_state=0)
        self.trees.fit(self.features(self.task.x[:n]), self.task.y[:n].numpy())

    def logits(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.log(self.trees.predict_proba(self.features(x)) + 1e-12)).float()


COUNTERS: dict[str, Callable[..., NGram | Boosting]] = {"ngram": NGram, "boosting": Boosting}
