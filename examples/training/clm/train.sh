#!/usr/bin/env bash
# Trains a causal language model (Perceiver AR, 30.6M parameters) on the bytes of WikiText-103.
# For two GPUs; later flags win: --trainer.devices=1 --trainer.accumulate_grad_batches=4 is the same on one.
set -euo pipefail

python -m perceiver.scripts.text.clm fit \
  --data=WikiTextDataModule \
  --data.tokenizer=deepmind/language-perceiver \
  --data.max_seq_len=4096 \
  --data.batch_size=24 \
  --data.random_train_shift=true \
  --model.max_latents=512 \
  --model.num_channels=512 \
  --model.num_self_attention_layers=8 \
  --model.cross_attention_dropout=0.5 \
  --optimizer=Adam \
  --optimizer.lr=2e-4 \
  --lr_scheduler.warmup_steps=200 \
  --trainer.max_steps=20000 \
  --trainer.accumulate_grad_batches=2 \
  --trainer.gradient_clip_val=0.5 \
  --trainer.val_check_interval=0.5 \
  --trainer.accelerator=gpu \
  --trainer.devices=2 \
  --trainer.strategy=ddp \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=clm_wikitext \
  "$@"
