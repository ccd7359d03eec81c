#!/usr/bin/env bash
# Trains the decoder of a sentiment classifier on a frozen encoder: stage 2 of the IMDb recipe, after mlm/train.sh.
# For four GPUs; later flags win. Another language model: --model.encoder.params=...
set -euo pipefail

python -m perceiver.scripts.text.classifier fit \
  --data=ImdbDataModule \
  --data.tokenizer=deepmind/language-perceiver \
  --data.max_seq_len=2048 \
  --data.add_special_tokens=true \
  --data.batch_size=64 \
  --model.encoder.params=logs/mlm_imdb/version_0/checkpoints/last.ckpt \
  --model.encoder.freeze=true \
  --model.encoder.dropout=0.0 \
  --optimizer=AdamW \
  --optimizer.lr=1e-3 \
  --lr_scheduler.warmup_steps=100 \
  --trainer.max_epochs=12 \
  --trainer.accelerator=gpu \
  --trainer.devices=4 \
  --trainer.strategy=ddp \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=txt_clf_dec \
  "$@"
