"""Trains a small optical flow model on synthetic motion, about five minutes on one core, without a download.

1. Train a small Perceiver IO with Lightning on `SyntheticFlowDataModule`: textures that move by up to 6 pixels.
2. Measure its end-point error on held-out motion, beside that of no motion, of the mean flow in training, and of the
   mean flow of each pair, which nobody can know.
3. Convert the Lightning checkpoint to a Hugging Face folder; estimate flow of bigger frames with the pipeline.
4. Draw it.

    python examples/training/optical_flow/synthetic.py [--output_dir logs/flow] [--max_steps N] [--num_threads 1]

docs/optical-flow.md has the result.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_optimizer import SOAP
from transformers import pipeline

from perceiver.data.vision import SyntheticFlowDataModule, render_optical_flow
from perceiver.data.vision.flow_examples import FlowExample
from perceiver.data.vision.flow_synthetic import synthetic_example
from perceiver.model.vision import optical_flow
from perceiver.model.vision.optical_flow.backend import PIXELS_PER_UNIT, flow_loss
from perceiver.scripts.lrs import CosineWithWarmupLR

IMAGE_SHAPE = (32, 48)  # that the model is trained with
BIG_SHAPE = (96, 144)  # that its flow is drawn for
BIG_SEEDS = (10, 15)
MAX_DISPLACEMENT = 6.0  # pixels
FULL_COLOR = 24.0  # pixels, in `render_optical_flow`


class Model(optical_flow.LitOpticalFlow):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = SOAP(self.parameters(), lr=6e-3, weight_decay=0.01, precondition_frequency=5)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.02)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config() -> optical_flow.OpticalFlowConfig:
    """A Perceiver IO for frames of 32 x 48 pixels, 132,458 parameters.

    Other than in the official model, the features of a pixel also pass by the decoder's attention, in its residual, and
    an output of 1 is a pixel (`rescale_factor`).
    """
    return optical_flow.OpticalFlowConfig(
        encoder=optical_flow.OpticalFlowEncoderConfig(
            image_shape=IMAGE_SHAPE,
            num_patch_hidden_channels=64,
            num_frequency_bands=4,
            num_cross_attention_heads=1,
            num_cross_attention_qk_channels=64,
            num_self_attention_heads=8,
            num_self_attention_layers_per_block=2,
            init_scale=0.1,
        ),
        decoder=optical_flow.OpticalFlowDecoderConfig(
            image_shape=IMAGE_SHAPE,
            num_cross_attention_heads=8,
            num_cross_attention_qk_channels=64,
            num_cross_attention_v_channels=64,
            cross_attention_widening_factor=2,
            rescale_factor=PIXELS_PER_UNIT,
            init_scale=0.1,
        ),
        num_latents=64,
        num_latent_channels=64,
    )


@torch.no_grad()
def end_point_errors(model: optical_flow.OpticalFlow, data: SyntheticFlowDataModule) -> dict[str, float]:
    """Mean end-point errors in pixels, on the test examples, of the model and of what it has to beat."""
    batches = list(data.test_dataloader())
    target = torch.cat([batch["flow"] for batch in batches])  # B H W 2, pixels
    train = data.examples["train"]
    train_flow = np.stack([train[i].flow for i in range(min(500, len(train)))])
    flows = {
        "Perceiver IO": torch.cat([model(batch["x"]) for batch in batches]) * PIXELS_PER_UNIT,
        "no motion": torch.zeros_like(target),
        "mean flow in training": torch.from_numpy(train_flow.mean(axis=(0, 1, 2))).expand_as(target),
        "mean flow of each pair": target.mean(dim=(1, 2), keepdim=True).expand_as(target),
    }
    return {name: flow_loss(flow / PIXELS_PER_UNIT, target).item() for name, flow in flows.items()}


def draw(examples: Sequence[FlowExample], flows: Sequence[npt.NDArray[np.float32]], picture: Path) -> None:
    """Draws a row for each example: its frames, its flow, the estimated flow, and how far that is off."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(11, 1.7 * len(examples)), layout="constrained")
    rows = figure.subplots(len(examples), 5, squeeze=False)
    for axes, example, flow in zip(rows, examples, flows, strict=True):
        error = np.linalg.norm(flow - example.flow, axis=-1)
        colors = [render_optical_flow(f * (FULL_COLOR / MAX_DISPLACEMENT)) for f in (example.flow, flow)]
        for ax, image in zip(axes, [*example.frames, *colors], strict=False):
            ax.imshow(image)
        scale = axes[4].imshow(error, cmap="magma", vmin=0, vmax=1)
        height, width = IMAGE_SHAPE
        axes[0].add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="white", linewidth=2))
        axes[4].set_title(f"error, mean {error.mean():.2f} pixels", fontsize=11)
        for ax in axes:
            ax.axis("off")
    titles = ("first frame", "second frame", "true flow", "estimated flow")
    for ax, title in zip(rows[0], titles, strict=False):
        ax.set_title(title, fontsize=11)
    figure.colorbar(scale, ax=rows[:, 4], fraction=0.05)
    figure.savefig(picture, dpi=90)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Returns the end-point errors in pixels of the model and the baselines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/flow"))
    parser.add_argument("--max_steps", type=int, default=1500)
    parser.add_argument("--num_test_examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(arguments.num_threads)
    pl.seed_everything(arguments.seed)
    data = SyntheticFlowDataModule(
        image_shape=IMAGE_SHAPE,
        max_displacement=MAX_DISPLACEMENT,
        num_valid_examples=96,
        num_test_examples=arguments.num_test_examples,
        batch_size=12,
        valid_batch_size=48,
        num_workers=0,
        seed=arguments.seed,
    )
    checkpoints = ModelCheckpoint(output_dir, filename="{step}-{val_loss:.3f}", monitor="val_loss")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=arguments.max_steps,
        val_check_interval=min(250, arguments.max_steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=[checkpoints, TQDMProgressBar(refresh_rate=25)],
    )
    trainer.fit(Model.create(model_config()), datamodule=data)

    hub_dir, picture, rendered = output_dir / "model", output_dir / "flow.png", output_dir / "rendered.png"
    optical_flow.convert_checkpoint(save_dir=hub_dir, ckpt_url=checkpoints.best_model_path)
    flow_pipeline = pipeline("optical-flow", model=str(hub_dir))
    errors = end_point_errors(flow_pipeline.model.backend_model, data)

    examples = [synthetic_example(BIG_SHAPE, MAX_DISPLACEMENT, np.random.default_rng(seed)) for seed in BIG_SEEDS]
    pairs = [tuple(example.frames) for example in examples]
    draw(examples, flow_pipeline(pairs, micro_batch_size=16), picture)
    PIL.Image.fromarray(flow_pipeline(pairs[0], micro_batch_size=16, render=True)).save(rendered)

    print(f"\nend-point error in pixels, {arguments.num_test_examples} held-out examples of up to {MAX_DISPLACEMENT}")
    for name, error in errors.items():
        print(f"{name:24}{error:.3f}   {error / errors['Perceiver IO']:.2f} times the model's")
    print(f"checkpoint    {checkpoints.best_model_path}")
    print(f"pictures      {picture}, {rendered}")
    print(f"model folder  {hub_dir}   pipeline('optical-flow', model='{hub_dir}')")
    return errors


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    main()
