"""The command line: `perceiver ...` (main.py) and one training script per task, `python -m perceiver.scripts.text.mlm`.

main.py           the console command; starts without importing torch
convert.py, preproc.py, env.py    its commands that train nothing
start.py          the entry of the training scripts, before torch is imported: help.py and mistakes.py, by flags.py and
                  signatures.py, which read flags from the source; former.py has those of 0.11
cli.py            the training scripts: LightningCLI with our optimizers, schedules and trainer defaults (trainer.yaml)
sources.py        flags that a checkpoint decides
callbacks.py      `last.ckpt`, signals, the validation at the end
lrs.py            learning-rate schedules
progress.py       what a run shows, by meter.py; report.py: what it says at its end
generation.py     what the commands that run a causal model share
text/, vision/, audio/, multimodal/    the scripts of the tasks
"""
