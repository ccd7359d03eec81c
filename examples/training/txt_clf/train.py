"""Trains a sentiment classifier on IMDb in two stages: `train.sh` in Python. See docs/training-examples.md.

The first trains the decoder on a frozen encoder, which is that of a masked language model: the folder that
`examples/training/mlm/train.py` writes. The second trains all parameters.

    python examples/training/txt_clf/train.py [--encoder FOLDER] [--data HUB_ID_OR_FOLDER] [--devices 4] ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from perceiver.data.text import ImdbDataModule, Task
from perceiver.model.text import classifier, mlm
from perceiver.scripts.lrs import ConstantWithWarmupLR


class Model(classifier.LitTextClassifier):
    learning_rate: float

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        scheduler = ConstantWithWarmupLR(optimizer, warmup_steps=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(model: Model, data: ImdbDataModule, folder: Path, max_epochs: int, devices: int) -> str:
    """Returns the checkpoint with the lowest validation loss."""
    checkpoints = ModelCheckpoint(filename="{epoch:03d}-{val_loss:.3f}", monitor="val_loss")
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        default_root_dir=folder,
        callbacks=[checkpoints],
    )
    trainer.fit(model, datamodule=data)
    return checkpoints.best_model_path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="logs/mlm_imdb/model", help="folder or hub id of the language model")
    parser.add_argument("--data", default="stanfordnlp/imdb", help="hub id, or a folder in the layout of the hub")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/txt_clf_imdb"))
    parser.add_argument("--batch_size", type=int, default=64, help="per device")
    parser.add_argument("--max_epochs", type=int, nargs=2, default=(12, 10), help="of the first and second stage")
    parser.add_argument("--devices", type=int, default=4)
    arguments = parser.parse_args(argv)

    mlm_config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained(arguments.encoder).backend_config
    data = ImdbDataModule(
        source=arguments.data,
        task=Task.clf,
        tokenizer=arguments.encoder,
        max_seq_len=mlm_config.encoder.max_seq_len,
        add_special_tokens=True,
        batch_size=arguments.batch_size,
    )
    config = classifier.TextClassifierConfig(
        encoder=mlm_config.encoder,
        decoder=classifier.ClassificationDecoderConfig(
            num_classes=data.num_classes,
            num_output_query_channels=mlm_config.encoder.num_input_channels,
            num_cross_attention_heads=1,
            dropout=0.1,
        ),
        num_latents=mlm_config.num_latents,
        num_latent_channels=mlm_config.num_latent_channels,
    )

    frozen = replace(config, encoder=replace(config.encoder, params=arguments.encoder, freeze=True, dropout=0.0))
    model = Model.create(frozen)
    model.learning_rate = 1e-3
    best = train(model, data, arguments.output_dir / "dec", arguments.max_epochs[0], arguments.devices)

    model = Model.create(replace(config, activation_checkpointing=True), params=best)
    model.learning_rate = 5e-6
    best = train(model, data, arguments.output_dir / "all", arguments.max_epochs[1], arguments.devices)

    if model.global_rank == 0:
        classifier.convert_imdb_classifier_checkpoint(arguments.output_dir / "model", best, arguments.encoder)


if __name__ == "__main__":
    main()
