"""Loss over tokens, of masked language models (arXiv 2107.14795) and causal sequence models (arXiv 2202.07765)."""

from __future__ import annotations

from torch import Tensor, nn

from perceiver.model.core.adapter import check_indices


def check_labels(labels: Tensor, x: Tensor) -> None:
    """Raises ValueError if tokens, ids (B, n) or embeddings (B, n, C), have not one label each."""
    if labels.shape != x.shape[:2]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, inputs {tuple(x.shape[:2])}: they must be equal")
    if labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype}, expected integers")


def token_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, P, vocabulary) over labels (B, P) but -100, in float32. 0 without labels."""
    check_indices("labels", labels.where(labels != -100, 0), logits.shape[-1])
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    return loss / (labels != -100).sum().clamp(min=1)
