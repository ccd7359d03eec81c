"""Trains a symbolic audio model on MAESTRO v3.0.0: `train.sh` in Python. See docs/symbolic-audio.md.

python examples/training/sam/train.py [--data ZIP_OR_FOLDER] [--devices 2] [--num_channels 512] ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from perceiver.data.audio import MaestroV3DataModule
from perceiver.data.audio.maestro import URL
from perceiver.model.audio import symbolic
from perceiver.scripts.lrs import CosineWithWarmupLR


class Model(symbolic.LitSymbolicAudioModel):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-4)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=min(200, steps - 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=URL, help="zip archive or folder of MAESTRO v3.0.0, or where to download it")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/sam_maestro"))
    parser.add_argument("--max_seq_len", type=int, default=2048)
    parser.add_argument("--max_latents", type=int, default=1024)
    parser.add_argument("--num_channels", type=int, default=512)
    parser.add_argument("--num_layers", type=int, default=8, help="self-attention layers")
    parser.add_argument("--batch_size", type=int, default=48, help="per device")
    parser.add_argument("--accumulate", type=int, default=2, help="batches per step")
    parser.add_argument("--max_steps", type=int, default=20000)
    parser.add_argument("--devices", type=int, default=2)
    arguments = parser.parse_args(argv)

    data = MaestroV3DataModule(
        source=arguments.data,
        max_seq_len=arguments.max_seq_len,
        batch_size=arguments.batch_size,
    )
    config = symbolic.SymbolicAudioModelConfig(
        max_seq_len=arguments.max_seq_len,
        max_latents=arguments.max_latents,
        num_channels=arguments.num_channels,
        num_self_attention_layers=arguments.num_layers,
        cross_attention_dropout=0.1,
        post_attention_dropout=0.1,
        residual_dropout=0.1,
        activation_checkpointing=True,
        abs_pos_emb=False,
        output_norm=True,
        output_bias=False,
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
    trainer.fit(Model.create(config, validation_sample_record=-1), datamodule=data)

    if trainer.is_global_zero:
        symbolic.convert_checkpoint(arguments.output_dir / "model", checkpoints.best_model_path)


if __name__ == "__main__":
    main()
