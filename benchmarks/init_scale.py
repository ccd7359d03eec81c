"""What the scale of initial weights does to small models: the MNIST classifier learns three shapes.

Each image of 28 x 28 pixels shows a disc, a square or a triangle of any size and place, grey on noise, drawn anew for
each step. A model has the geometry of `perceiver_io_mnist` with as many latent channels as asked for, and one learning
rate; guessing is 33 %.

    python benchmarks/init_scale.py [--channels 64 128 256] [--scales 0.02 0.1] [--steps 400] [--seeds 2] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch
from timing import machine
from torch import Tensor
from torch.nn import functional as F

from perceiver.model.vision import image_classifier
from perceiver.scripts.lrs import ConstantWithWarmupLR

SIZE = 28


def images(num_images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (B, 28, 28, 1) from -1 to 1 and classes (B,)."""
    classes = torch.randint(3, (num_images,), generator=generator)
    radius = 3 + 5 * torch.rand(num_images, 1, 1, generator=generator)
    centre = radius + (SIZE - 1 - 2 * radius) * torch.rand(2, num_images, 1, 1, generator=generator)
    y = torch.arange(SIZE)[None, :, None] - centre[0]  # B H 1
    x = torch.arange(SIZE)[None, None, :] - centre[1]  # B 1 W
    disc = x**2 + y**2 <= radius**2
    square = (x.abs() <= 0.8 * radius) & (y.abs() <= 0.8 * radius)
    triangle = (y.abs() <= radius) & (x.abs() <= (y + radius) / 2)
    shapes = torch.stack([disc, square, triangle])[classes, torch.arange(num_images)]  # B H W
    grey = 0.3 + 0.7 * torch.rand(num_images, 1, 1, generator=generator)
    pixels = shapes * grey + 0.1 * torch.randn(num_images, SIZE, SIZE, generator=generator)
    return (2 * pixels.clamp(0, 1) - 1)[..., None], classes


def accuracy(num_channels: int, init_scale: float, seed: int, steps: int) -> float:
    """Of a model after its training, on 1,000 images."""
    torch.manual_seed(seed)
    config = image_classifier.perceiver_io_mnist()
    decoder = replace(config.decoder, num_classes=3, num_output_query_channels=num_channels, init_scale=init_scale)
    encoder = replace(config.encoder, init_scale=init_scale)
    config = replace(config, encoder=encoder, decoder=decoder, num_latent_channels=num_channels)
    model = image_classifier.ImageClassifier(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = ConstantWithWarmupLR(optimizer, warmup_steps=steps // 10)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, classes = images(32, generator)
        loss = F.cross_entropy(model(x), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    x, classes = images(1000, torch.Generator().manual_seed(1_000_000))
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(100)])
    return (logits.argmax(dim=1) == classes).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), f"{arguments.steps} steps of 32 images", sep="\n")
    for num_channels in arguments.channels:
        for init_scale in arguments.scales:
            found = [accuracy(num_channels, init_scale, seed, arguments.steps) for seed in range(arguments.seeds)]
            values = " ".join(f"{value:6.1%}" for value in found)
            print(
                f"{num_channels:5} channels   init_scale {init_scale:<5} {statistics.mean(found):6.1%}   ({values})",
                flush=True,
            )


if __name__ == "__main__":
    main()
