#!/usr/bin/env bash
# Trains a symbolic audio model (Perceiver AR, 134.8M parameters) on GiantMIDI-Piano, whose archive you download yourself:
# bash examples/training/sam/train_giantmidi.sh --data.source=midis_v1.2.zip
# For two GPUs; later flags win.
set -euo pipefail

python -m perceiver.scripts.audio.symbolic fit \
  --data=GiantMidiPianoDataModule \
  --data.source=midis_v1.2.zip \
  --data.max_seq_len=6144 \
  --data.min_seq_len=2048 \
  --data.batch_size=8 \
  --data.preproc_workers=4 \
  --model.max_latents=2048 \
  --model.num_channels=768 \
  --model.num_self_attention_layers=18 \
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
  --trainer.logger.name=sam_giantmidi \
  "$@"
