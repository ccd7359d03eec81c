#!/usr/bin/env bash
# Trains an image classifier (907K parameters) on MNIST.
# For two GPUs; later flags win: --trainer.devices=1 --data.batch_size=256 is the same on one.
set -euo pipefail

python -m perceiver.scripts.vision.image_classifier fit \
  --data=MNISTDataModule \
  --data.batch_size=128 \
  --model.num_latents=32 \
  --model.num_latent_channels=128 \
  --model.encoder.num_frequency_bands=32 \
  --model.encoder.num_cross_attention_layers=2 \
  --model.encoder.num_self_attention_blocks=3 \
  --model.encoder.num_self_attention_layers_per_block=3 \
  --model.encoder.first_self_attention_block_shared=false \
  --model.encoder.dropout=0.1 \
  --model.encoder.init_scale=0.1 \
  --model.decoder.num_output_query_channels=128 \
  --model.decoder.dropout=0.1 \
  --model.decoder.init_scale=0.1 \
  --optimizer=AdamW \
  --optimizer.lr=1e-3 \
  --lr_scheduler.warmup_steps=500 \
  --trainer.max_epochs=30 \
  --trainer.accelerator=gpu \
  --trainer.devices=2 \
  --trainer.strategy=ddp \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=img_clf_mnist \
  "$@"
