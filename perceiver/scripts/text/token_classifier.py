"""Trains token classifiers: `python -m perceiver.scripts.text.token_classifier fit|validate|test ...`.

Without further flags the model is Perceiver IO base on UTF-8 bytes (arXiv 2107.14795) with classes in place of tokens,
so that a masked language model of `perceiver.scripts.text.mlm` can initialise the encoder and the decoder:

    python -m perceiver.scripts.text.token_classifier fit --data=LocalTokenClassificationDataModule \\
        --data.train_files=train.conll --data.tokenizer=deepmind/language-perceiver --data.max_seq_len=2048 \\
        --model.encoder.params=my-mlm --model.decoder.params=my-mlm --optimizer=AdamW --optimizer.lr=1e-5

Vocabulary size, sequence length and classes come from the data module and are no flags of the model.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.text as data
from perceiver.model.text.token_classifier import LitTokenClassifier
from perceiver.scripts.cli import CLI
from perceiver.scripts.text.mlm import DEFAULTS as MLM_DEFAULTS

DEFAULTS: dict[str, Any] = {
    **MLM_DEFAULTS,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "ner"}},
}

LINKS: dict[str, list[str]] = {
    "data.vocab_size": ["model.encoder.vocab_size"],
    "data.max_seq_len": ["model.encoder.max_seq_len", "model.decoder.max_seq_len"],
    "data.num_classes": ["model.decoder.num_classes"],
}

# `--data=<name>` finds them; any other data module with the attributes above is given by its import path.
DATA_MODULES = (data.LocalTokenClassificationDataModule, data.TokenClassificationDataModule)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitTokenClassifier, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
