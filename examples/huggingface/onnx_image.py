"""Exports an image classifier to ONNX with a variable batch size, and compares ONNX Runtime with PyTorch.

    python examples/huggingface/onnx_image.py [MODEL] [--output FILE] [--batch_size 8] [--repeats 10]

MODEL is a folder or hub id. Without it the model has random weights and the geometry of the MNIST classifier.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from transformers import AutoModelForImageClassification

from perceiver.model.vision import image_classifier


def mnist_model() -> image_classifier.PerceiverImageClassifier:
    """907,212 parameters"""
    encoder = image_classifier.ImageEncoderConfig(
        image_shape=(28, 28, 1),
        num_cross_attention_heads=1,
        num_cross_attention_layers=2,
        num_self_attention_layers_per_block=3,
        num_self_attention_blocks=3,
        first_self_attention_block_shared=False,
    )
    decoder = image_classifier.ClassificationDecoderConfig(
        num_classes=10, num_output_query_channels=128, num_cross_attention_heads=1
    )
    config = image_classifier.ImageClassifierConfig(encoder, decoder, num_latents=32, num_latent_channels=128)
    return image_classifier.PerceiverImageClassifier(image_classifier.PerceiverImageClassifierConfig(config))


def median_seconds(functions: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median time of each, in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, seconds in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn > 0:  # the first warms up
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder or hub id")
    parser.add_argument("--output", type=Path, default=Path("model.onnx"))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    model = (
        mnist_model() if arguments.model is None else AutoModelForImageClassification.from_pretrained(arguments.model)
    )
    model.eval()
    images = torch.randn(arguments.batch_size, *model.backend_model.config.encoder.image_shape)
    torch.onnx.export(
        model,
        (),
        arguments.output,
        kwargs={"pixel_values": images[:2]},
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=2)}},
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(arguments.output, options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"pixel_values": images.numpy()})
    expected = model(images).logits
    difference = (torch.from_numpy(result) - expected).abs().max().item()
    print(f"{arguments.output}: {arguments.batch_size} images, largest difference {difference:.1e}")
    torch_seconds, onnx_seconds = median_seconds(
        [lambda: model(images), lambda: session.run(None, {"pixel_values": images.numpy()})], arguments.repeats
    )
    print(f"PyTorch {torch_seconds * 1e3:.1f} ms, ONNX Runtime {onnx_seconds * 1e3:.1f} ms a batch")
    return difference


if __name__ == "__main__":
    main()
