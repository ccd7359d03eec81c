#!/usr/bin/env bash
# Trains a symbolic audio model (Perceiver AR, 28.5M parameters) on MAESTRO v3.0.0.
# For two GPUs; later flags win: bash examples/training/sam/train.sh --trainer.devices=1 --trainer.accumulate_grad_batches=4
set -euo pipefail

python -m perceiver.scripts.audio.symbolic fit \
  --data=MaestroV3DataModule \
  --data.max_seq_len=2048 \
  --data.batch_size=48 \
  --data.preproc_workers=4 \
  --model.max_latents=1024 \
  --model.num_channels=512 \
  --model.num_self_attention_layers=8 \
  --model.cross_attention_dropout=0.1 \
  --model.post_attention_dropout=0.1 \
  --model.residual_dropout=0.1 \
  --model.activation_checkpointing=true \
  --model.validation_sample_record=-1 \
  --optimizer=AdamW \
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
  --trainer.logger.name=sam_maestro \
  "$@"
