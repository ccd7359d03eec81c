"""Trains text classifiers: `python -m perceiver.scripts.text.classifier fit|validate|test ...`.

Without further flags the model has the encoder of Perceiver IO base on UTF-8 bytes and the decoder of transformers'
`PerceiverForSequenceClassification` (206,098,690 parameters for 2,048 bytes and two classes), so that a masked language
model of `perceiver.scripts.text.mlm` can initialise the encoder:

    python -m perceiver.scripts.text.classifier fit --data=ImdbDataModule \\
        --data.tokenizer=deepmind/language-perceiver --data.max_seq_len=2048 \\
        --model.encoder.params=my-mlm --model.encoder.freeze=true --optimizer=AdamW --optimizer.lr=1e-3

Vocabulary size, sequence length and classes come from the data module and are no flags of the model.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.text as data
from perceiver.model.text.classifier import LitTextClassifier
from perceiver.scripts.cli import CLI
from perceiver.scripts.text.mlm import PERCEIVER_IO_BASE_ENCODER

DEFAULTS: dict[str, Any] = {
    **PERCEIVER_IO_BASE_ENCODER,
    "model.decoder.num_output_query_channels": 1280,
    "model.decoder.num_cross_attention_heads": 1,
    "model.decoder.dropout": 0.1,
    # the class that all data modules of the task are, so that its defaults are also those of the one that is named
    "data": {"class_path": "perceiver.data.text.TextDataModule", "init_args": {"task": "clf"}},
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "txt_clf"}},
}

LINKS: dict[str, list[str]] = {
    "data.vocab_size": ["model.encoder.vocab_size"],
    "data.max_seq_len": ["model.encoder.max_seq_len"],
    "data.num_classes": ["model.decoder.num_classes"],
}

# `--data=<name>` finds them; any other data module with the attributes above is given by its import path.
DATA_MODULES = (data.ImdbDataModule, data.LocalTextDataModule)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitTextClassifier, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
