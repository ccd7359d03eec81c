"""Trains optical flow: `python -m perceiver.scripts.vision.optical_flow fit|validate|test ...`.

Without further flags the model has the geometry of `deepmind/optical-flow-perceiver` (arXiv 2107.14795, appendix H;
41,057,134 parameters for frames of 368 x 496 pixels). A small one, on synthetic motion:

    python -m perceiver.scripts.vision.optical_flow fit --data=SyntheticFlowDataModule --data.image_shape=[48,64] \\
        --model.num_latents=64 --model.num_latent_channels=128 --model.encoder.num_frequency_bands=16 \\
        --model.decoder.num_cross_attention_qk_channels=128 --model.decoder.num_cross_attention_v_channels=128 \\
        --optimizer=AdamW --optimizer.lr=1e-3 --trainer.max_steps=5000

The size of frames comes from the data module and is no flag of the model.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "optical-flow")

if __name__ == "__main__":
    main()
