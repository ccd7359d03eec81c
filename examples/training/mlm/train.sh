#!/usr/bin/env bash
# Fine-tunes the official masked language model (201M parameters) on IMDb reviews: stage 1 of the IMDb recipe.
# For two GPUs; later flags win: --trainer.devices=1 --data.batch_size=64 is the same on one.
set -euo pipefail

[ -d logs/language-perceiver ] ||
  python -m perceiver.scripts.main convert model --task mlm deepmind/language-perceiver logs/language-perceiver

python -m perceiver.scripts.text.mlm fit \
  --data=ImdbDataModule \
  --data.tokenizer=deepmind/language-perceiver \
  --data.max_seq_len=2048 \
  --data.add_special_tokens=true \
  --data.batch_size=32 \
  --model.params=logs/language-perceiver \
  --model.activation_checkpointing=true \
  --optimizer=AdamW \
  --optimizer.lr=1e-5 \
  --lr_scheduler.warmup_steps=1000 \
  --trainer.max_epochs=12 \
  --trainer.accelerator=gpu \
  --trainer.devices=2 \
  --trainer.strategy=ddp \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=mlm_imdb \
  "$@"
