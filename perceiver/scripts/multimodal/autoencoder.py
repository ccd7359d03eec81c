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

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "multimodal-autoencoder")

if __name__ == "__main__":
    main()
