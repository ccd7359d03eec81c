"""The official vision models at full geometry, float32: ours and transformers' in turns, with the same random weights.

Prints, for each model, median seconds of one forward pass of both, the ratio theirs / ours turn by turn, and the peak
memory of each beyond its parameters; for the classifiers also forward + backward.

    python benchmarks/vision.py [--threads 2] [--repeats 5]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from einops import rearrange
from timing import alternate, benchmark_parser, machine, median_ratio, peak_memory_mb
from torch import Tensor, nn
from transformers import PerceiverConfig

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.vision.image_classifier import ImageClassifier, huggingface as image_classifier
from perceiver.model.vision.optical_flow import OpticalFlow, huggingface as optical_flow

_CLASSIFIER: dict[str, Any] = {
    "num_latents": 512,
    "d_latents": 1024,
    "num_blocks": 8,
    "num_self_attends_per_block": 6,
    "num_cross_attention_heads": 1,
    "image_size": 224,
    "num_labels": 1000,
}
# name: class of transformers, configuration
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "fourier": ("PerceiverForImageClassificationFourier", _CLASSIFIER | {"d_model": 261}),
    "learned": ("PerceiverForImageClassificationLearned", _CLASSIFIER | {"d_model": 512}),
    "conv": ("PerceiverForImageClassificationConvProcessing", _CLASSIFIER | {"d_model": 322}),
    "optical flow": (
        "PerceiverForOpticalFlow",
        {
            "num_latents": 2048,
            "d_latents": 512,
            "d_model": 322,
            "num_self_attends_per_block": 24,
            "num_self_attention_heads": 16,
            "num_cross_attention_heads": 1,
        },
    ),
}


def build(name: str, whose: str, **changes: Any) -> nn.Module:
    """`whose`: ours or theirs. `changes` are to the official configuration."""
    torch.manual_seed(0)
    class_name, values = MODELS[name]
    model_class, config = getattr(transformers, class_name), PerceiverConfig(**values | changes)
    theirs = model_class(config).eval()
    if whose == "theirs":
        return theirs
    ours: nn.Module
    if name == "optical flow":
        ours = OpticalFlow(optical_flow.OFFICIAL.config(config))
        load_parameters(ours, optical_flow.OFFICIAL.state_dict(theirs, ours), name)
    else:
        (official,) = (weights for weights in image_classifier.OFFICIAL if weights.model_class is model_class)
        ours = ImageClassifier(official.config(config))
        load_parameters(ours, official.state_dict(theirs, ours), name)
    return ours.eval()


def inputs(name: str, whose: str, *image_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if name == "optical flow":
        return torch.randn(1, 2, 27, *image_size or (368, 496), generator=generator)
    images = torch.randn(1, *image_size or (224, 224), 3, generator=generator)
    return images if whose == "ours" else rearrange(images, "b h w c -> b c h w").contiguous()


def forward(name: str, whose: str) -> Callable[[], Any]:
    model, x = build(name, whose), inputs(name, whose)
    return torch.no_grad()(lambda: model(x))


def forward_backward(name: str, whose: str) -> Callable[[], Any]:
    """With gradients allocated before, as large as the parameters, for both."""
    model, x = build(name, whose).train(), inputs(name, whose)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        if isinstance(module, nn.Dropout):  # theirs
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # ours
            module.dropout = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run() -> None:
        output = model(x)
        getattr(output, "logits", output).sum().backward()

    return run


CASES = {"forward": forward, "forward + backward": forward_backward}


def memory(name: str, whose: str, case: str) -> float:
    """Peak memory of one case, in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, whose, case, "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "WHOSE", "CASE"), help="print one peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        name, whose, case = arguments.memory
        print(peak_memory_mb(CASES[case](name, whose)))
        return

    print(machine())
    print()
    print("| model | case | ours s | transformers s | transformers / ours | peak MB ours | theirs |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.models:
        for case in CASES if name != "optical flow" else ["forward"]:
            times = alternate({whose: CASES[case](name, whose) for whose in ("ours", "theirs")}, arguments.repeats)
            peaks = [f"{memory(name, whose, case):.0f}" for whose in ("ours", "theirs")]
            ours, theirs = (statistics.median(times[whose]) for whose in ("ours", "theirs"))
            ratio = median_ratio(times["theirs"], times["ours"])
            print(f"| {name} | {case} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} | {' | '.join(peaks)} |", flush=True)


if __name__ == "__main__":
    main()
