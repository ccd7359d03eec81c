#!/usr/bin/env bash
# Trains the image classifier of the Perceiver IO paper (48M parameters, Fourier features) on ImageNet.
# For eight GPUs, 1,024 images a step; later flags win. Convolution instead: --model.encoder.adapter=conv and
# --model.encoder.num_adapter_channels=64.
set -euo pipefail

python -m perceiver.scripts.vision.image_classifier fit \
  --data=ImageNetDataModule \
  --data.batch_size=32 \
  --data.num_workers=8 \
  --model.num_latents=512 \
  --model.num_latent_channels=1024 \
  --model.encoder.num_frequency_bands=64 \
  --model.encoder.num_cross_attention_layers=1 \
  --model.encoder.num_self_attention_blocks=8 \
  --model.encoder.num_self_attention_layers_per_block=6 \
  --model.encoder.first_self_attention_block_shared=true \
  --model.encoder.init_scale=0.02 \
  --model.decoder.num_output_query_channels=1024 \
  --model.decoder.init_scale=0.02 \
  --model.label_smoothing=0.1 \
  --optimizer=Lamb \
  --optimizer.lr=2e-3 \
  --optimizer.weight_decay=0.1 \
  --lr_scheduler=CosineWithWarmupLR \
  --trainer.max_epochs=110 \
  --trainer.accumulate_grad_batches=4 \
  --trainer.gradient_clip_val=10 \
  --trainer.accelerator=gpu \
  --trainer.devices=8 \
  --trainer.strategy=ddp \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=img_clf_imagenet \
  "$@"
