"""The command line: `perceiver ...` (main.py) and one training script per task, `python -m perceiver.scripts.text.mlm`.

main.py           the console command; starts without importing torch
cli.py            what the training scripts share: LightningCLI with our optimizers, schedules and trainer defaults
lrs.py            learning-rate schedules
trainer.yaml      the trainer defaults
text/             scripts of the text tasks
"""
