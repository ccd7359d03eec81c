"""Fine-tunes the official language model on CoNLL-2003 entities: `train.sh` in Python. See docs/training-examples.md.

python examples/training/ner/train.py [--model FOLDER] [--data FOLDER] ...
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

from perceiver.data.text import LocalTokenClassificationDataModule
from perceiver.model.text import mlm, token_classifier
from perceiver.scripts.lrs import ConstantWithWarmupLR


class Model(token_classifier.LitTokenClassifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-5)
        scheduler = ConstantWithWarmupLR(optimizer, warmup_steps=200)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="logs/language-perceiver", help="made of the official weights if not there")
    parser.add_argument("--data", default="conll2003", help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/ner_conll2003"))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_epochs", type=int, default=3)
    arguments = parser.parse_args(argv)

    if not Path(arguments.model).is_dir():
        mlm.convert_model(save_dir=arguments.model, source_repo_id="deepmind/language-perceiver")
    mlm_config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained(arguments.model).backend_config

    data = LocalTokenClassificationDataModule(
        train_files=f"{arguments.data}/train.txt",
        valid_files=f"{arguments.data}/valid.txt",
        test_files=f"{arguments.data}/test.txt",
        tokenizer=arguments.model,
        max_seq_len=mlm_config.encoder.max_seq_len,
        batch_size=arguments.batch_size,
    )
    decoder = mlm_config.decoder
    config = token_classifier.TokenClassifierConfig(
        encoder=replace(mlm_config.encoder, params=arguments.model),
        decoder=token_classifier.TokenClassificationDecoderConfig(
            num_classes=data.num_classes,
            max_seq_len=decoder.max_seq_len,
            num_cross_attention_qk_channels=decoder.num_cross_attention_qk_channels,
            num_cross_attention_v_channels=decoder.num_cross_attention_v_channels,
            cross_attention_residual=decoder.cross_attention_residual,
            dropout=decoder.dropout,
            params=arguments.model,
        ),
        num_latents=mlm_config.num_latents,
        num_latent_channels=mlm_config.num_latent_channels,
    )
    checkpoints = ModelCheckpoint(filename="{epoch:03d}-{val_f1:.3f}", monitor="val_f1", mode="max")
    trainer = pl.Trainer(
        max_epochs=arguments.max_epochs,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        devices=1,
        default_root_dir=arguments.output_dir,
        callbacks=[checkpoints],
    )
    trainer.fit(Model.create(config), datamodule=data)
    trainer.test(ckpt_path="best", datamodule=data)
    token_classifier.convert_checkpoint(arguments.output_dir / "model", checkpoints.best_model_path, arguments.model)


if __name__ == "__main__":
    main()
