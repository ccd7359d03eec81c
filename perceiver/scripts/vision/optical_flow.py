"""Trains optical flow: `python -m perceiver.scripts.vision.optical_flow fit|validate|test ...`.

Without further flags the model has the geometry of `deepmind/optical-flow-perceiver` (arXiv 2107.14795, appendix H;
41,057,134 parameters for frames of 368 x 496 pixels). A small one, on synthetic motion:

    python -m perceiver.scripts.vision.optical_flow fit --data=SyntheticFlowDataModule --data.image_shape=[48,64] \\
        --model.num_latents=64 --model.num_latent_channels=128 --model.encoder.num_frequency_bands=16 \\
        --model.decoder.num_cross_attention_qk_channels=128 --model.decoder.num_cross_attention_v_channels=128 \\
        --optimizer=AdamW --optimizer.lr=1e-3 --trainer.max_steps=5000

The size of frames comes from the data module and is no flag of the model.
"""

from typing import Any

from pytorch_lightning.cli import ArgsType

import perceiver.data.vision as data
from perceiver.model.vision.optical_flow import LitOpticalFlow
from perceiver.scripts.cli import CLI

DEFAULTS: dict[str, Any] = {
    "model.num_latents": 2048,
    "model.num_latent_channels": 512,
    "model.encoder.num_cross_attention_heads": 1,
    "model.encoder.num_self_attention_heads": 16,
    "model.encoder.num_self_attention_layers_per_block": 24,
    "model.encoder.dropout": 0.1,
    "model.decoder.num_cross_attention_heads": 1,
    "model.decoder.num_cross_attention_qk_channels": 512,
    "model.decoder.num_cross_attention_v_channels": 512,
    "model.decoder.cross_attention_residual": False,
    "model.decoder.dropout": 0.1,
    "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "optical_flow"}},
}

LINKS: dict[str, list[str]] = {"data.image_shape": ["model.encoder.image_shape", "model.decoder.image_shape"]}

# `--data=<name>` finds them; any other data module with the attribute above is given by its import path.
DATA_MODULES = (
    data.FlyingChairsDataModule,
    data.KittiFlowDataModule,
    data.SintelFlowDataModule,
    data.SyntheticFlowDataModule,
)


def main(args: ArgsType = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    CLI(LitOpticalFlow, defaults=DEFAULTS, links=LINKS, args=args)


if __name__ == "__main__":
    main()
