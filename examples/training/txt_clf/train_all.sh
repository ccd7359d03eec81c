#!/usr/bin/env bash
# Trains all parameters of a sentiment classifier: stage 3 of the IMDb recipe, after train_dec.sh.
# For four GPUs; later flags win. Another classifier to start from: --model.params=...
set -euo pipefail

python -m perceiver.scripts.text.classifier fit \
  --data=ImdbDataModule \
  --data.tokenizer=deepmind/language-perceiver \
  --data.max_seq_len=2048 \
  --data.add_special_tokens=true \
  --data.batch_size=64 \
  --model.params=logs/txt_clf_dec/version_0/checkpoints/last.ckpt \
  --model.activation_checkpointing=true \
  --optimizer=AdamW \
  --optimizer.lr=5e-6 \
  --lr_scheduler.warmup_steps=100 \
  --trainer.max_epochs=10 \
  --trainer.accelerator=gpu \
  --trainer.devices=4 \
  --trainer.strategy=ddp \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=txt_clf_all \
  "$@"
