"""Trains a small multimodal autoencoder on synthetic clips in about ten minutes on one core, without a download.

1. Train with Lightning: video, audio and class of shapes that move and sound, through 48 latents.
2. Reconstruct the test clips, their label masked, and compare: with the mean clip, and with chance.
3. Convert the Lightning checkpoint to a Hugging Face folder; draw what it makes of two clips.

    python examples/training/multimodal/train.py [--output_dir logs/multimodal] [--max_steps N]

docs/multimodal-autoencoding.md has results.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor
from transformers import AutoModel

from perceiver.data.multimodal import SyntheticClipDataModule, SyntheticClips
from perceiver.model.multimodal import autoencoder
from perceiver.model.multimodal.autoencoder.backend import psnr
from perceiver.scripts.lrs import CosineWithWarmupLR


class Model(autoencoder.LitMultimodalAutoencoder):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config(data: SyntheticClipDataModule) -> autoencoder.MultimodalAutoencoderConfig:
    """864 video patches, 32 audio patches and a label in 48 latents."""
    return autoencoder.MultimodalAutoencoderConfig(
        encoder=autoencoder.MultimodalEncoderConfig(
            num_cross_attention_heads=4,
            num_cross_attention_qk_channels=96,
            num_self_attention_heads=4,
            num_self_attention_layers_per_block=3,
            init_scale=0.1,
        ),
        decoder=autoencoder.MultimodalDecoderConfig(
            num_classes=data.num_classes,
            num_label_query_channels=64,
            num_modality_channels=32,
            num_output_channels=128,
            num_cross_attention_heads=4,
            num_cross_attention_qk_channels=96,
            num_cross_attention_v_channels=96,
            cross_attention_widening_factor=2,
            cross_attention_residual=False,
            init_scale=0.1,
        ),
        num_latents=48,
        num_latent_channels=96,
        video_shape=data.video_shape,
        video_patch_size=2,
        num_video_frequency_bands=8,
        num_audio_samples=data.num_audio_samples,
        audio_patch_size=8,
        num_audio_frequency_bands=32,
    )


def stacked(clips: SyntheticClips, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Video, audio and labels of the first clips."""
    first = [clips[i] for i in range(min(number, len(clips)))]
    video, audio = (torch.from_numpy(np.stack([getattr(clip, name) for clip in first])) for name in ("video", "audio"))
    return video, audio, torch.tensor([clip.label for clip in first])


def draw(clips: tuple[Tensor, Tensor, Tensor], names: Sequence[str], model: torch.nn.Module, picture: Path) -> None:
    """Draws clips and what the model makes of them, given video and audio: every second frame, and the sound."""
    from matplotlib.figure import Figure

    video, audio, labels = clips
    with torch.no_grad():
        output = model(video, audio)
    frames = range(0, video.shape[1], 2)
    figure = Figure(figsize=(9, 2.6 * len(video)))
    axes = figure.subplots(2 * len(video), len(frames) + 1, width_ratios=[*(1 for _ in frames), 3.5])
    for i, label in enumerate(labels.tolist()):
        probability = output.logits[i].softmax(dim=-1)
        best = int(probability.argmax())
        rows = (("clip", video[i], audio[i]), ("reconstruction", output.video[i], output.audio[i]))
        for row, (title, one_video, one_audio) in zip(axes[2 * i :], rows, strict=False):
            for ax, frame in zip(row, frames, strict=False):
                ax.imshow(one_video[frame].clamp(0, 1).numpy())
                ax.axis("off")
            row[0].set_title(title, fontsize=9, loc="left")
            row[-1].plot(one_audio.numpy(), linewidth=0.8, color="#1f5fa8")
            row[-1].set(ylim=(-1, 1), xticks=[], yticks=[-1, 0, 1])
            row[-1].tick_params(labelsize=7)
        axes[2 * i, -1].set_title(f"class: {names[label]}", fontsize=9)
        axes[2 * i + 1, -1].set_title(f"predicted: {names[best]} ({probability[best]:.1%})", fontsize=9)
    figure.tight_layout(pad=0.4)
    figure.savefig(picture, dpi=100, pil_kwargs={"optimize": True})


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/multimodal"))
    parser.add_argument("--max_steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(1)
    pl.seed_everything(arguments.seed)
    data = SyntheticClipDataModule(
        num_frames=6, image_shape=(24, 24), num_audio_samples=256, num_test_clips=256, num_workers=0
    )
    lit_model = Model.create(
        model_config(data),
        num_video_points=384,
        # The paper's weights (0.03, 1, 0.0001) are for weeks of training. With these, all three are learned in minutes.
        video_weight=1.0,
        audio_weight=1.0,
        label_weight=0.01,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=arguments.max_steps,
        val_check_interval=min(250, arguments.max_steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[TQDMProgressBar(refresh_rate=25)],
    )
    trainer.fit(lit_model, datamodule=data)
    trainer.save_checkpoint(output_dir / "last.ckpt")
    (scores,) = trainer.test(lit_model, datamodule=data, verbose=False)

    autoencoder.convert_checkpoint(save_dir=output_dir / "model", ckpt_url=output_dir / "last.ckpt")
    model = AutoModel.from_pretrained(output_dir / "model")
    video, audio, labels = stacked(data.clips("test"), 256)
    draw((video[:2], audio[:2], labels[:2]), data.label_names, model, output_dir / "clips.png")

    mean_video, mean_audio, _ = (x.float().mean(dim=0) for x in stacked(data.clips("train"), 512))
    results = {
        "video_psnr": scores["test_video_psnr"],
        "audio_psnr": scores["test_audio_psnr"],
        "acc": scores["test_acc"],
        "mean_video_psnr": psnr(mean_video.expand_as(video), video).mean().item(),
        "mean_audio_psnr": psnr(mean_audio.expand_as(audio), audio).mean().item(),
        "chance": labels.bincount().max().item() / len(labels),
    }
    print(f"{len(labels)} test clips, label masked")
    for name in ("video", "audio"):
        print(f"{name}   {results[f'{name}_psnr']:5.1f} dB   (the mean clip: {results[f'mean_{name}_psnr']:.1f} dB)")
    print(f"class   {results['acc']:6.1%}    (the most frequent class: {results['chance']:.1%})")
    print(f"picture       {output_dir / 'clips.png'}")
    print(f"model folder  {output_dir / 'model'}   AutoModel.from_pretrained('{output_dir / 'model'}')")
    return results


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    main()
