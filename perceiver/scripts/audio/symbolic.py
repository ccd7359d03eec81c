"""Trains symbolic audio models: `python -m perceiver.scripts.audio.symbolic fit|validate|test ...`.

Without further flags the model is that for MAESTRO (arXiv 2202.07765, section 5.3.1; 28,531,712 parameters, 2,048
latents), so a command names the data and what differs:

    python -m perceiver.scripts.audio.symbolic fit --data=MaestroV3DataModule --data.max_seq_len=4096 \\
        --optimizer=AdamW --optimizer.lr=2e-4 --trainer.max_steps=20000

A small one, on generated pieces:

    python -m perceiver.scripts.audio.symbolic fit --data=SyntheticPianoDataModule --data.max_seq_len=384 \\
        --model.max_latents=256 --model.num_channels=128 --model.num_self_attention_layers=4 --trainer.max_steps=2000

Vocabulary size and sequence length come from the data module and are no flags of the model.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "symbolic-audio")

if __name__ == "__main__":
    main()
