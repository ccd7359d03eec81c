"""What the tests of classifiers share: tiny models with pairwise different sizes, fixed data."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.text.classifier.backend import TextClassifier, TextClassifierConfig
from perceiver.model.text.common.backend import TextEncoderConfig
from tests.model.helpers import GOLDEN, mlm_config, randomise_vectors, text_config

TXT_CLF = GOLDEN / "txt_clf"
HUB = TXT_CLF / "hub"
CKPTS = (TXT_CLF / "lit.ckpt", TXT_CLF / "lit_080.ckpt", TXT_CLF / "lit_cli.ckpt")


def clf_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> TextClassifierConfig:
    """The encoder is that of `mlm_config`."""
    values: dict[str, Any] = {
        "num_classes": 5,
        "num_output_query_channels": 14,
        "num_cross_attention_heads": 2,
        "num_cross_attention_qk_channels": 8,
        "num_cross_attention_v_channels": 4,
        "init_scale": 0.4,
    }
    mlm = mlm_config(encoder, {"vocab_size": (encoder or {}).get("vocab_size", 37)})
    return TextClassifierConfig(
        mlm.encoder,
        ClassificationDecoderConfig(**(values | (decoder or {}))),
        **({"num_latents": mlm.num_latents, "num_latent_channels": mlm.num_latent_channels} | kwargs),
    )


def clf_model(config: TextClassifierConfig | None = None, seed: int = 0) -> TextClassifier:
    torch.manual_seed(seed)
    model = TextClassifier(config or clf_config())
    randomise_vectors(model)
    return model.eval()


def byte_encoder() -> TextEncoderConfig:
    return text_config().encoder


class Examples(Dataset[tuple[Tensor, ...]]):
    """Fixed examples, each a tuple of tensors."""

    def __init__(self, *columns: Tensor):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return tuple(column[i] for column in self.columns)


class Data(pl.LightningDataModule):
    """Serves the same examples for training, validation and test."""

    def __init__(self, *columns: Tensor, batch_size: int = 4, **attributes: Any) -> None:
        super().__init__()
        self.examples, self.batch_size = Examples(*columns), batch_size
        for name, value in attributes.items():
            setattr(self, name, value)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.examples, batch_size=self.batch_size)

    val_dataloader = test_dataloader = train_dataloader


def padded_ids(rows: int, length: int, vocab_size: int = 37) -> tuple[Tensor, Tensor]:
    """Token ids and pad mask, both (rows, length)."""
    lengths = 1 + torch.arange(rows) * 3 % length
    return torch.randint(0, vocab_size, (rows, length)), torch.arange(length) >= lengths[:, None]
