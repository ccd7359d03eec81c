"""Makes what the page docs/playground.md runs in the visitor's browser: `make playground`.

    python docs/build_playground.py [--clm FOLDER] [--mlm FOLDER] [--runtime ARCHIVE]

Converted models of bytes, small ones such as those of examples/demo, become ONNX files with weights of 8 bits. They go
to build/playground, with ONNX Runtime Web and docs/playground/ beside, and `docs/build_site.py --playground` puts them
into the site. `--runtime` is the npm package onnxruntime-web as a file. Without it, npm fetches the version below.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLAYGROUND = ROOT / "build" / "playground"
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
MAX_BYTES = 3_000_000  # of all models together
VOCAB_SIZE = 262  # of the page's tokenizer: 6 special tokens, and a token for each byte


class Problem(Exception):
    """Why there is no playground."""


def load(folder: str, model_type: str) -> Any:
    """The backend of a converted model that the page can run."""
    from perceiver.model.text import clm, mlm

    classes = {"clm": clm.PerceiverCausalLanguageModel, "mlm": mlm.PerceiverMaskedLanguageModel}
    try:
        model = classes[model_type].from_pretrained(folder).backend_model.eval()
    except (OSError, ValueError) as error:
        raise Problem(f"--{model_type}: {error}") from error
    config = model.config if model_type == "clm" else model.config.encoder
    if config.vocab_size != VOCAB_SIZE:
        raise Problem(f"--{model_type}: a vocabulary of {config.vocab_size} is not that of bytes, {VOCAB_SIZE}")
    return model


def quantize(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def write_causal_model(folder: str, scratch: Path) -> dict[str, Any]:
    """Writes clm.onnx, a step with its cache, and returns what the page has to know of it."""
    from perceiver.model.core.decoding_step import DecodingStep

    sys.path.append(str(ROOT / "examples" / "huggingface"))
    from onnx_clm import export

    model = load(folder, "clm")
    step = DecodingStep(model).eval()
    export(step, scratch / "clm.onnx")
    quantize(scratch / "clm.onnx", PLAYGROUND / "clm.onnx")
    past = [
        {"name": name, "shape": list(x.shape), "window": window}
        for (name, window), x in zip(step.past_windows.items(), step.empty_past(), strict=True)
    ]
    return {"file": "clm.onnx", "length": model.max_seq_len, "latents": model.max_latents, "past": past}


def write_masked_model(folder: str, scratch: Path) -> dict[str, Any]:
    """Writes mlm.onnx, tokens (1, n) -> logits (1, n, vocabulary), likewise."""
    import torch

    model = load(folder, "mlm")
    length = model.config.encoder.max_seq_len
    torch.onnx.export(
        model,
        (torch.zeros(1, min(length, 5), dtype=torch.long),),
        scratch / "mlm.onnx",
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_shapes=({1: torch.export.Dim("length", max=length)},),
        dynamo=True,
        verbose=False,
    )
    quantize(scratch / "mlm.onnx", PLAYGROUND / "mlm.onnx")
    return {"file": "mlm.onnx", "length": length}


def fetch_runtime(folder: Path) -> Path:
    """The package of ONNX Runtime Web, which npm brings into a folder."""
    command = ["npm", "pack", RUNTIME, "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError as error:
        raise Problem(f"there is no npm to fetch {RUNTIME} with") from error
    except subprocess.SubprocessError as error:
        raise Problem(f"npm can't fetch {RUNTIME}: {getattr(error, 'stderr', None) or error}") from error
    (archive,) = folder.glob("*.tgz")
    return archive


def write_runtime(archive: Path) -> None:
    """Writes the files of ONNX Runtime Web that the page needs."""
    try:
        with tarfile.open(archive) as files:
            for name in RUNTIME_FILES:
                with files.extractfile(f"package/dist/{name}") as file:
                    (PLAYGROUND / name).write_bytes(file.read())
    except (OSError, KeyError, tarfile.TarError) as error:
        raise Problem(f"{archive} is no package {RUNTIME}: {error}") from error


def build(clm: str | None, mlm: str | None, runtime: Path | None) -> None:
    if clm is None and mlm is None:
        raise Problem("there is no model: give --clm or --mlm")
    shutil.rmtree(PLAYGROUND, ignore_errors=True)
    PLAYGROUND.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_runtime(runtime or fetch_runtime(Path(scratch)))
        models = {}
        if clm is not None:
            models["clm"] = write_causal_model(clm, Path(scratch))
        if mlm is not None:
            models["mlm"] = write_masked_model(mlm, Path(scratch))
    sizes = {file.name: file.stat().st_size for file in sorted(PLAYGROUND.glob("*.onnx"))}
    if sum(sizes.values()) > MAX_BYTES:
        raise Problem(f"{sizes} bytes are too many for a page, at most {MAX_BYTES:,}")
    (PLAYGROUND / "models.json").write_text(json.dumps(models), encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "playground", PLAYGROUND, dirs_exist_ok=True)
    print(f"built {PLAYGROUND}: " + ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes the models of the page docs/playground.md.")
    parser.add_argument("--clm", metavar="FOLDER", help="causal language model of bytes")
    parser.add_argument("--mlm", metavar="FOLDER", help="masked language model of bytes")
    parser.add_argument("--runtime", metavar="ARCHIVE", type=Path, help=f"{RUNTIME} as npm packs it, default: fetched")
    arguments = parser.parse_args()
    try:
        build(arguments.clm, arguments.mlm, arguments.runtime)
    except Problem as problem:
        shutil.rmtree(PLAYGROUND, ignore_errors=True)  # no half of it
        print(f"no playground: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
