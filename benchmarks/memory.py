"""Memory of a training step, computed on the meta device: parameters with AdamW, and what a backward pass keeps.

Nothing is run, so any model and length can be asked for. Activations are those with `activation_checkpointing`: without
it they depend on the attention kernel. A device needs some more for the layer that is being computed.

    python benchmarks/memory.py                                  the models of the papers
    python benchmarks/memory.py --lengths 4096 131072 1048576    Perceiver AR base at other lengths
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from perceiver.model.text import clm, mlm
from perceiver.model.vision import image_classifier, optical_flow

GIB = 2**30
BYTES_PER_PARAMETER = 16  # float32: parameter, gradient, two moments


def kept_bytes(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes of what the backward pass of `run` keeps, without parameters."""
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = (storage.nbytes(), x)  # the tensor, too: its number is not given to another one
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        run()
    return sum(size for size, _ in kept.values())


def row(name: str, model: nn.Module, run: Callable[[], Tensor]) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    states = num_parameters * BYTES_PER_PARAMETER / GIB
    activations = kept_bytes(run, model) / GIB
    return f"| {name} | {num_parameters / 1e6:.1f} M | {states:.2f} | {states / 8:.2f} | {activations:.3f} |"


def causal_row(length: int) -> str:
    config = replace(clm.perceiver_ar_byte_base(), max_seq_len=length, activation_checkpointing=True)
    with torch.device("meta"):
        model, x = clm.CausalLanguageModel(config), torch.zeros(1, length, dtype=torch.int64)
    return row(f"Perceiver AR base, {length:,} tokens", model.train(), lambda: model.loss(x, x))


def rows(lengths: Iterable[int]) -> Iterable[str]:
    yield from map(causal_row, lengths)
    text, image, flow = mlm.MaskedLanguageModel, image_classifier.ImageClassifier, optical_flow.OpticalFlow
    cases: list[tuple[str, Any, Any, torch.dtype, tuple[int, ...]]] = [
        ("language model, 2,048 bytes", text, mlm.perceiver_io_language_base(), torch.int64, (2048,)),
        ("image classifier, 224 x 224", image, image_classifier.perceiver_io_fourier(), torch.float32, (224, 224, 3)),
        ("optical flow, 368 x 496", flow, optical_flow.perceiver_io_optical_flow(), torch.float32, (2, 27, 368, 496)),
    ]
    for name, model_class, config, dtype, shape in cases:
        with torch.device("meta"):
            model = model_class(replace(config, activation_checkpointing=True)).train()
            x = torch.zeros(1, *shape, dtype=dtype)
        yield row(name, model, lambda model=model, x=x: model(x).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32768, 131072, 1048576])
    print("| model, one example | parameters | AdamW, GiB | the same on 8 devices | activations, GiB |")
    print("|---|---|---|---|---|")
    for line in rows(parser.parse_args().lengths):
        print(line)


if __name__ == "__main__":
    main()
