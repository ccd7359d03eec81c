"""Trains image classifiers: `python -m perceiver.scripts.vision.image_classifier fit|validate|test ...`.

Without further flags the model is the small one for MNIST (907,212 parameters for images of 28 x 28 pixels):

    python -m perceiver.scripts.vision.image_classifier fit --data=MNISTDataModule --data.batch_size=128 \\
        --optimizer=AdamW --optimizer.lr=1e-3 --lr_scheduler.warmup_steps=500 --trainer.max_epochs=30

Image shape and classes come from the data module and are no flags of the model. The image processor is saved beside the
logs, where `perceiver convert checkpoint --image-processor logs/img_clf/version_0` finds it.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.vision as data
from perceiver.model.vision.image_classifier import LitImageClassifier
from perceiver.scripts.cli import CLI

DEFAULTS: dict[str, Any] = {
    "model.num_latents": 32,
    "model.num_latent_channels": 128,
    "model.encoder.num_cross_attention_layers": 2,
    "model.encoder.num_cross_attention_heads": 1,
    "model.encoder.num_self_attention_blocks": 3,
    "model.encoder.num_self_attention_layers_per_block": 3,
    "model.encoder.first_self_attention_block_shared": False,
    "model.encoder.dropout": 0.1,
    "model.decoder.num_output_query_channels": 128,
    "model.decoder.num_cross_attention_heads": 1,
    "model.decoder.dropout": 0.1,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "img_clf"}},
}

LINKS: dict[str, list[str]] = {
    "data.image_shape": ["model.encoder.image_shape"],
    "data.num_classes": ["model.decoder.num_classes"],
}

# `--data=<name>` finds them; any other data module with the attributes above is given by its import path.
DATA_MODULES = (data.DigitsDataModule, data.ImageFolderDataModule, data.ImageNetDataModule, data.MNISTDataModule)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitImageClassifier, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
