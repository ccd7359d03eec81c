#!/usr/bin/env bash
# Trains a causal language model (Perceiver AR, 454M parameters) on C4, with 32,000 SentencePiece tokens.
# For eight GPUs among which parameters are divided (FSDP2); later flags win.
set -euo pipefail

python -m perceiver.scripts.text.clm fit \
  --data=C4DataModule \
  --data.tokenizer=xlnet-base-cased \
  --data.max_seq_len=1024 \
  --data.min_seq_len=512 \
  --data.batch_size=32 \
  --data.batches_per_epoch=4000 \
  --model.max_latents=512 \
  --model.num_channels=1280 \
  --model.num_heads=10 \
  --model.num_self_attention_layers=20 \
  --model.cross_attention_dropout=0.0 \
  --model.output_norm=true \
  --model.output_bias=false \
  --model.abs_pos_emb=false \
  --optimizer=AdamW \
  --optimizer.lr=3e-4 \
  --lr_scheduler.warmup_steps=1000 \
  --lr_scheduler.min_fraction=0.1 \
  --trainer.max_steps=50000 \
  --trainer.accumulate_grad_batches=8 \
  --trainer.gradient_clip_val=1.0 \
  --trainer.limit_val_batches=20 \
  --trainer.accelerator=gpu \
  --trainer.devices=8 \
  --trainer.strategy=ModelParallelStrategy \
  --trainer.strategy.data_parallel_size=8 \
  --trainer.strategy.tensor_parallel_size=1 \
  --trainer.strategy.save_distributed_checkpoint=false \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=clm_c4 \
  "$@"
