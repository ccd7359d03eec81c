"""Trains a small image classifier on scikit-learn's digits, about two minutes on one core, without a download.

1. Train a small Perceiver IO with Lightning on 70 % of 1,797 handwritten digits of 8 x 8 pixels.
2. Convert the Lightning checkpoint to a Hugging Face folder; classify the 20 % for test with the pipeline.
3. Draw which digits it takes for which, all of its mistakes, and a few of the others.

    python examples/training/img_clf/digits.py [--output_dir logs/digits] [--max_epochs N] [--num_threads 1]

docs/image-classification.md has the result.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_optimizer import SOAP
from transformers import pipeline

from perceiver.data.vision import Augmentation, DigitsDataModule
from perceiver.model.vision import image_classifier
from perceiver.scripts.lrs import CosineWithWarmupLR

COLUMNS = 7  # of predictions in the picture: a row of right ones, and at most three of wrong ones


class Model(image_classifier.LitImageClassifier):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = SOAP(self.parameters(), lr=4e-3, weight_decay=0.05, precondition_frequency=5)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.02)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config(data: DigitsDataModule) -> image_classifier.ImageClassifierConfig:
    """A Perceiver IO with eight latents, 91,088 parameters."""
    return image_classifier.ImageClassifierConfig(
        encoder=image_classifier.ImageEncoderConfig(
            image_shape=data.image_shape,
            num_frequency_bands=4,
            num_cross_attention_heads=1,
            num_cross_attention_qk_channels=32,
            num_self_attention_heads=4,
            num_self_attention_layers_per_block=2,
            dropout=0.1,
            init_scale=0.1,
        ),
        decoder=image_classifier.ClassificationDecoderConfig(
            num_classes=data.num_classes,
            num_output_query_channels=64,
            num_cross_attention_heads=4,
            dropout=0.1,
            init_scale=0.1,
        ),
        num_latents=8,
        num_latent_channels=64,
    )


class Prediction(NamedTuple):
    image: PIL.Image.Image
    label: str
    predicted: str
    probability: float  # of the predicted class


def classify(folder: Path, data: DigitsDataModule) -> list[Prediction]:
    """Classifies the test images with the model in a Hugging Face folder."""
    test = data.examples["test"]
    images = [example["image"] for example in test]
    labels = [data.label_names[example["label"]] for example in test]
    results = pipeline("image-classification", model=str(folder))(images, top_k=1, batch_size=64)
    return [
        Prediction(image, label, best["label"], best["score"])
        for image, label, (best,) in zip(images, labels, results, strict=True)
    ]


def draw(predictions: Sequence[Prediction], label_names: Sequence[str], picture: Path) -> None:
    """Draws how often each digit is taken for each, and some of the images."""
    from matplotlib.figure import Figure

    counts = np.zeros((len(label_names), len(label_names)), int)
    for prediction in predictions:
        counts[label_names.index(prediction.label), label_names.index(prediction.predicted)] += 1
    right = [prediction for prediction in predictions if prediction.predicted == prediction.label]
    wrong = [prediction for prediction in predictions if prediction.predicted != prediction.label]
    shown = right[:: -(-len(right) // COLUMNS)] if right else []
    shown += wrong[: 3 * COLUMNS]

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, others = figure.subfigures(1, 2, width_ratios=(1, 1.2))
    axes = left.subplots()
    mistakes = np.where(np.eye(len(label_names), dtype=bool), 0, counts)
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(4, mistakes.max()))
    for row, column in np.argwhere(counts):
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=9)
    ticks = range(len(label_names))
    axes.set(xticks=ticks, xticklabels=label_names, yticks=ticks, yticklabels=label_names)
    axes.set(
        xlabel="predicted", ylabel="true", title=f"{len(right) / len(predictions):.1%} of {len(predictions)} right"
    )
    rows = -(-len(shown) // COLUMNS)
    for place, axes in enumerate(others.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.axis("off")
        if place < len(shown):
            image, label, predicted, probability = shown[place]
            axes.imshow(image, cmap="gray_r")
            text, color = (label, "black") if label == predicted else (f"{label} as {predicted}", "firebrick")
            axes.set_title(f"{text}\n{probability:.0%}", fontsize=9, color=color)
    others.suptitle(f"some of the right ones, and wrong ones ({len(wrong)} in all)")
    figure.savefig(picture, dpi=100)


def main(argv: Sequence[str] | None = None) -> float:
    """Returns the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/digits"))
    parser.add_argument("--max_epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of everything but the split")
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(arguments.num_threads)
    pl.seed_everything(arguments.seed)
    data = DigitsDataModule(
        valid_fraction=0.1,
        test_fraction=0.2,
        augmentation=Augmentation(max_shift=1),
        batch_size=64,
        valid_batch_size=512,
        num_workers=0,
        seed=arguments.seed,
    )
    model = Model.create(model_config(data))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=arguments.max_epochs,
        check_val_every_n_epoch=min(5, arguments.max_epochs),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[TQDMProgressBar(refresh_rate=22)],
    )
    trainer.fit(model, datamodule=data)

    checkpoint, hub_dir, picture = output_dir / "last.ckpt", output_dir / "model", output_dir / "digits.png"
    trainer.save_checkpoint(checkpoint)
    image_classifier.convert_checkpoint(save_dir=hub_dir, ckpt_url=checkpoint, image_processor=data.image_processor)
    predictions = classify(hub_dir, data)
    draw(predictions, data.label_names, picture)
    accuracy = sum(prediction.label == prediction.predicted for prediction in predictions) / len(predictions)
    print(f"\ntest accuracy {accuracy:.2%} ({len(predictions)} images)")
    print(f"checkpoint    {checkpoint}")
    print(f"picture       {picture}")
    print(f"model folder  {hub_dir}   pipeline('image-classification', model='{hub_dir}')")
    return accuracy


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    datasets.disable_progress_bars()
    main()
