"""Trains a causal language model on the bytes of WikiText-103: `train.sh` in Python. See docs/training-examples.md.

python examples/training/clm/train.py [--data HUB_ID_OR_FOLDER] [--devices 2] [--num_channels 512] ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from perceiver.data.text import Task, WikiTextDataModule
from perceiver.model.text import clm
from perceiver.scripts.lrs import CosineWithWarmupLR


class Model(clm.LitCausalLanguageModel):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=min(200, steps - 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Salesforce/wikitext", help="hub id, or a folder in the layout of the hub")
    parser.add_argument("--tokenizer", default="deepmind/language-perceiver", help="hub id or folder")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/clm_wikitext"))
    parser.add_argument("--max_seq_len", type=int, default=4096)
    parser.add_argument("--max_latents", type=int, default=512)
    parser.add_argument("--num_channels", type=int, default=512)
    parser.add_argument("--num_layers", type=int, default=8, help="self-attention layers")
    parser.add_argument("--batch_size", type=int, default=24, help="per device")
    parser.add_argument("--accumulate", type=int, default=2, help="batches per step")
    parser.add_argument("--max_steps", type=int, default=20000)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the steps: minutes at first, faster then")
    arguments = parser.parse_args(argv)

    data = WikiTextDataModule(
        source=arguments.data,
        task=Task.clm,
        tokenizer=arguments.tokenizer,
        max_seq_len=arguments.max_seq_len,
        batch_size=arguments.batch_size,
        random_train_shift=True,
    )
    config = clm.CausalLanguageModelConfig(
        vocab_size=data.vocab_size,
        max_seq_len=arguments.max_seq_len,
        max_latents=arguments.max_latents,
        num_channels=arguments.num_channels,
        num_self_attention_layers=arguments.num_layers,
        cross_attention_dropout=0.5,
    )
    checkpoints = ModelCheckpoint(filename="{epoch:03d}-{val_loss:.3f}", monitor="val_loss")
    trainer = pl.Trainer(
        max_steps=arguments.max_steps,
        accumulate_grad_batches=arguments.accumulate,
        gradient_clip_val=0.5,
        val_check_interval=0.5,
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        default_root_dir=arguments.output_dir,
        callbacks=[checkpoints],
    )
    model = Model.create(config)
    if arguments.compile:
        model.compile_step()
    trainer.fit(model, datamodule=data)

    if trainer.is_global_zero:
        clm.convert_checkpoint(arguments.output_dir / "model", checkpoints.best_model_path, arguments.tokenizer)


if __name__ == "__main__":
    main()
