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

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.audio as data
from perceiver.model.audio.symbolic import LitSymbolicAudioModel
from perceiver.scripts.cli import CLI

DEFAULTS: dict[str, Any] = {
    "model.max_latents": 2048,
    "model.output_norm": True,
    "model.output_bias": False,
    "model.abs_pos_emb": False,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "sam"}},
}

LINKS: dict[str, list[str]] = {
    "data.vocab_size": ["model.vocab_size"],
    "data.max_seq_len": ["model.max_seq_len"],
}

# `--data=<name>` finds them; any other data module with the attributes above is given by its import path.
DATA_MODULES = (
    data.GiantMidiPianoDataModule,
    data.LocalMidiDataModule,
    data.MaestroV3DataModule,
    data.SyntheticPianoDataModule,
)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitSymbolicAudioModel, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
