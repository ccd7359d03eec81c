"""Trains an image classifier on MNIST: `train.sh` in Python. See docs/image-classification.md.

python examples/training/img_clf/train.py [--data HUB_ID_OR_FOLDER] [--devices 2] ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from perceiver.data.vision import MNISTDataModule
from perceiver.model.vision import image_classifier
from perceiver.scripts.lrs import ConstantWithWarmupLR


class Model(image_classifier.LitImageClassifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        scheduler = ConstantWithWarmupLR(optimizer, warmup_steps=500)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config(data: MNISTDataModule) -> image_classifier.ImageClassifierConfig:
    """907,212 parameters"""
    return image_classifier.ImageClassifierConfig(
        encoder=image_classifier.ImageEncoderConfig(
            image_shape=data.image_shape,
            num_frequency_bands=32,
            num_cross_attention_layers=2,
            num_cross_attention_heads=1,
            num_self_attention_blocks=3,
            num_self_attention_layers_per_block=3,
            first_self_attention_block_shared=False,
            dropout=0.1,
            init_scale=0.1,
        ),
        decoder=image_classifier.ClassificationDecoderConfig(
            num_classes=data.num_classes,
            num_output_query_channels=128,
            num_cross_attention_heads=1,
            dropout=0.1,
            init_scale=0.1,
        ),
        num_latents=32,
        num_latent_channels=128,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ylecun/mnist", help="hub id, or a folder in the layout of the hub")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/img_clf_mnist"))
    parser.add_argument("--batch_size", type=int, default=128, help="per device")
    parser.add_argument("--max_epochs", type=int, default=30)
    parser.add_argument("--devices", type=int, default=2)
    arguments = parser.parse_args(argv)

    data = MNISTDataModule(source=arguments.data, batch_size=arguments.batch_size)
    checkpoints = ModelCheckpoint(filename="{epoch:03d}-{val_loss:.3f}", monitor="val_loss")
    trainer = pl.Trainer(
        max_epochs=arguments.max_epochs,
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
        default_root_dir=arguments.output_dir,
        callbacks=[checkpoints],
    )
    trainer.fit(Model.create(model_config(data)), datamodule=data)

    if trainer.is_global_zero:
        image_classifier.convert_mnist_classifier_checkpoint(
            arguments.output_dir / "model", checkpoints.best_model_path
        )


if __name__ == "__main__":
    main()
