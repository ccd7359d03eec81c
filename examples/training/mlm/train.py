"""Fine-tunes the official masked language model on IMDb reviews: `train.sh` in Python. See docs/training-examples.md.

python examples/training/mlm/train.py [--model FOLDER] [--data HUB_ID_OR_FOLDER] [--devices 2] ...
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

from perceiver.data.text import ImdbDataModule
from perceiver.model.text import mlm
from perceiver.scripts.lrs import ConstantWithWarmupLR


class Model(mlm.LitMaskedLanguageModel):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-5)
        scheduler = ConstantWithWarmupLR(optimizer, warmup_steps=1000)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="logs/language-perceiver", help="made of the official weights if not there")
    parser.add_argument("--data", default="stanfordnlp/imdb", help="hub id, or a folder in the layout of the hub")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/mlm_imdb"))
    parser.add_argument("--batch_size", type=int, default=32, help="per device")
    parser.add_argument("--max_epochs", type=int, default=12)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the steps: minutes at first, faster then")
    arguments = parser.parse_args(argv)

    if not Path(arguments.model).is_dir():
        mlm.convert_model(save_dir=arguments.model, source_repo_id="deepmind/language-perceiver")
    config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained(arguments.model).backend_config
    config = replace(config, activation_checkpointing=True)  # as the published run, for cards with 12 GB

    data = ImdbDataModule(
        source=arguments.data,
        tokenizer=arguments.model,
        max_seq_len=config.encoder.max_seq_len,
        add_special_tokens=True,
        batch_size=arguments.batch_size,
    )
    checkpoints = ModelCheckpoint(filename="{epoch:03d}-{val_loss:.3f}", monitor="val_loss")
    trainer = pl.Trainer(
        max_epochs=arguments.max_epochs,
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        default_root_dir=arguments.output_dir,
        callbacks=[checkpoints],
    )
    model = Model.create(config, params=arguments.model)
    if arguments.compile:
        model.compile_step()
    trainer.fit(model, datamodule=data)

    if trainer.is_global_zero:
        mlm.convert_checkpoint(arguments.output_dir / "model", checkpoints.best_model_path, arguments.model)


if __name__ == "__main__":
    main()
