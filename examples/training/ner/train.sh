#!/usr/bin/env bash
# Fine-tunes the official language model on named entities, with the files of CoNLL-2003 in the folder conll2003.
# For one GPU; later flags win. Other files of that format: --data.train_files=... --data.valid_files=...
set -euo pipefail

[ -d logs/language-perceiver ] ||
  python -m perceiver.scripts.main convert model --task mlm deepmind/language-perceiver logs/language-perceiver

python -m perceiver.scripts.text.token_classifier fit \
  --data=LocalTokenClassificationDataModule \
  --data.train_files=conll2003/train.txt \
  --data.valid_files=conll2003/valid.txt \
  --data.test_files=conll2003/test.txt \
  --data.tokenizer=deepmind/language-perceiver \
  --data.max_seq_len=2048 \
  --data.batch_size=16 \
  --model.encoder.params=logs/language-perceiver \
  --model.decoder.params=logs/language-perceiver \
  --optimizer=AdamW \
  --optimizer.lr=5e-5 \
  --lr_scheduler.warmup_steps=200 \
  --trainer.max_epochs=3 \
  --trainer.accelerator=gpu \
  --trainer.devices=1 \
  --trainer.precision=bf16-mixed \
  --trainer.logger=TensorBoardLogger \
  --trainer.logger.name=ner_conll2003 \
  "$@"
