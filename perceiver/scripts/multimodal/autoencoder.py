"""Trains the multimodal autoencoder: `python -m perceiver.scripts.multimodal.autoencoder fit|validate|test ...`.

Without further flags the model has the size of `deepmind/multimodal-perceiver` (arXiv 2107.14795, appendix I;
19,858,855 parameters for 700 classes, 16 frames of 224 x 224 pixels and 30,720 samples). A small one, on clips that are
made up:

    python -m perceiver.scripts.multimodal.autoencoder fit --data=SyntheticClipDataModule \\
        --model.num_latents=48 --model.num_latent_channels=96 --model.num_video_frequency_bands=8 \\
        --model.num_audio_frequency_bands=32 --model.decoder.num_label_query_channels=64 \\
        --model.decoder.num_cross_attention_qk_channels=96 --model.decoder.num_cross_attention_v_channels=96 \\
        --optimizer=AdamW --optimizer.lr=1e-3 --trainer.max_steps=5000

The size of clips and the number of classes come from the data module and are no flags of the model.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.multimodal as data
from perceiver.model.multimodal.autoencoder import LitMultimodalAutoencoder
from perceiver.scripts.cli import CLI

DEFAULTS: dict[str, Any] = {
    "model.num_latents": 784,
    "model.num_latent_channels": 512,
    "model.encoder.num_cross_attention_heads": 1,
    "model.decoder.num_cross_attention_heads": 1,
    "model.decoder.num_cross_attention_qk_channels": 512,
    "model.decoder.num_cross_attention_v_channels": 512,
    "model.decoder.cross_attention_residual": False,
    "trainer.logger": {
        "class_path": "TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": "multimodal_autoencoder"},
    },
}

LINKS: dict[str, list[str]] = {
    "data.video_shape": ["model.video_shape"],
    "data.num_audio_samples": ["model.num_audio_samples"],
    "data.num_classes": ["model.decoder.num_classes"],
}

# `--data=<name>` finds it; any other data module with the attributes above is given by its import path.
DATA_MODULES = (data.SyntheticClipDataModule,)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitMultimodalAutoencoder, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
