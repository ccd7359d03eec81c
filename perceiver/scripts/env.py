"""`perceiver env`: versions and devices, for a report of an error.

Nothing of the machine's user is printed: no paths, no names, no variables but those that change what torch computes.
"""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence

from perceiver import __version__

# What results depend on, of the extras and of what these stand on.
PACKAGES = (
    "torch",
    "einops",
    "safetensors",
    "numpy",
    "transformers",
    "tokenizers",
    "huggingface-hub",
    "accelerate",
    "pytorch-lightning",
    "jsonargparse",
    "pyyaml",
    "tensorboard",
    "torchmetrics",
    "pytorch-optimizer",
    "datasets",
    "pyarrow",
    "pillow",
    "av",
    "pretty-midi",
    "matplotlib",
    "torchao",
)
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report and returns the exit code, 0."""
    parser = argparse.ArgumentParser(prog="perceiver env", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.parse_args(argv)
    for name, value in [*software(), *devices()]:
        print(f"{name:<18} {value}")
    return 0


def software() -> Iterator[tuple[str, str]]:
    """Names and versions, also of what is not installed: an extra that is missing explains many an error."""
    yield "perceiver-io", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", platform.platform()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def devices() -> Iterator[tuple[str, str]]:
    """What torch can compute on."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield "cpu", f"{platform.machine()}, {capability}, {torch.get_num_threads()} threads for torch"
    yield "cuda", f"{torch.version.cuda or 'not in this build'}, ROCm {torch.version.hip or 'not in this build'}"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        yield f"cuda:{i}", f"{properties.name}, {memory:.0f} GiB, capability {properties.major}.{properties.minor}"
    if torch.backends.mps.is_available():
        yield "mps", "available"
