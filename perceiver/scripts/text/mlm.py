"""Trains masked language models: `python -m perceiver.scripts.text.mlm fit|validate|test ...`.

Without further flags the model is Perceiver IO base on UTF-8 bytes (arXiv 2107.14795; 201,108,230 parameters for 2,048
bytes), so a command names the data and what differs:

    python -m perceiver.scripts.text.mlm fit --data=WikiTextDataModule --data.tokenizer=deepmind/language-perceiver \\
        --data.max_seq_len=512 --model.num_latents=32 --optimizer=AdamW --optimizer.lr=1e-3 --trainer.max_steps=500

Vocabulary size and sequence length come from the data module and are no flags of the model.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.text as data
from perceiver.model.text.mlm import LitMaskedLanguageModel
from perceiver.scripts.cli import CLI

PERCEIVER_IO_BASE_ENCODER: dict[str, Any] = {
    "model.num_latents": 256,
    "model.num_latent_channels": 1280,
    "model.encoder.num_input_channels": 768,
    "model.encoder.num_cross_attention_qk_channels": 256,
    "model.encoder.num_cross_attention_v_channels": 1280,
    "model.encoder.num_self_attention_qk_channels": 256,
    "model.encoder.num_self_attention_v_channels": 1280,
    "model.encoder.num_self_attention_layers_per_block": 26,
    "model.encoder.dropout": 0.1,
}

DEFAULTS: dict[str, Any] = {
    **PERCEIVER_IO_BASE_ENCODER,
    "model.decoder.num_cross_attention_qk_channels": 256,
    "model.decoder.num_cross_attention_v_channels": 768,
    "model.decoder.cross_attention_residual": False,
    "model.decoder.dropout": 0.1,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "mlm"}},
}

LINKS: dict[str, list[str]] = {
    "data.vocab_size": ["model.encoder.vocab_size", "model.decoder.vocab_size"],
    "data.max_seq_len": ["model.encoder.max_seq_len", "model.decoder.max_seq_len"],
}


# `--data=<name>` finds them; any other data module with the attributes above is given by its import path.
DATA_MODULES = (
    data.BookCorpusDataModule,
    data.BookCorpusOpenDataModule,
    data.C4DataModule,
    data.Enwik8DataModule,
    data.ImdbDataModule,
    data.LocalTextDataModule,
    data.PydocTextDataModule,
    data.WikiTextDataModule,
    data.WikipediaDataModule,
)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitMaskedLanguageModel, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
