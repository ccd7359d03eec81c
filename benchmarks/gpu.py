"""All that is worth doing on a GPU, in nine minutes, on one page: tests, benchmarks and a training.

    python benchmarks/gpu.py [--minutes 9] [--output benchmarks/results] [PART ...]

Every part is a process of its own with a limit of its own. One that fails or is stopped says so on the page, with what
it had printed until then, and the rest goes on. Parts come in the order of their value; those that don't fit into the
time are named. `gpu.md` is written anew while they run, so it is there whatever happens; `gpu.log` beside it has what
went to stderr: tracebacks, warnings, pytest's output.

The environment `--venv` is used if its torch sees the GPU, else this Python if its torch does. If there is a GPU and
neither does, the environment is made first, which needs the network. Without a GPU nothing is done.
`--device cpu --tiny` tries all of it anywhere.

Exit codes: 0 all parts passed, or there is no GPU; 1 a part did not.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "triton", "transformers", "pytorch-lightning", "accelerate", "einops", "numpy")
VERSIONS = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print("no", name)
"""
# Installed beside a torch that is there, if they are not. Lightning is not among them: it would bring another torch.
NEEDED = ("einops", "safetensors", "pytest", "hypothesis", "transformers")
SPARE = 8  # seconds for what is no part: starting and stopping


@dataclass(frozen=True)
class Part:
    """A process.

    Attributes:
        title: Heading on the page.
        limit: Seconds that it may take.
        least: Seconds without which it is not worth starting.
        arguments: Script below the root, and its arguments. `{seconds}`: what it may plan with.
        tiny: Arguments more, with `--tiny`.
    """

    title: str
    limit: float
    least: float
    arguments: tuple[str, ...]
    tiny: tuple[str, ...] = ("--tiny",)


def case(name: str) -> tuple[str, ...]:
    return ("benchmarks/gpu_cases.py", name)


COPY = "examples/training/copy/train.py --bfloat16 --max_seconds={seconds} --curriculum=1024 --lr=0.01 --max_steps=6000"
COPY_SIZE = "--seq_len=131072 --num_latents=1024 --batch_size=16 --eval_sequences=4 --eval_every=250"
TINY_COPY = (
    "--seq_len=64 --num_latents=8 --num_channels=16 --batch_size=2 --eval_sequences=2 --eval_every=2 --max_steps=4 "
    "--curriculum=8"
)

# In the order of their value.
PARTS: dict[str, Part] = {
    "device": Part("The device", 40, 15, case("device")),
    "tests": Part("Tests", 150, 40, ("benchmarks/gpu_tests.py",), ("--workers=1",)),
    "mlm": Part("Masked language model beside transformers", 60, 20, case("mlm")),
    "perceiver-ar": Part("Perceiver AR beside the plain implementation", 40, 15, case("perceiver-ar")),
    "prefix": Part("Long prefixes", 50, 15, case("prefix")),
    "decode": Part("Decoding", 70, 20, case("decode")),
    "copy": Part(
        "The copy task at 131,072 positions", 190, 60, tuple(f"{COPY} {COPY_SIZE}".split()), tuple(TINY_COPY.split())
    ),
    "vision": Part("Image classifier and optical flow beside transformers", 50, 20, case("vision")),
    "attention": Part("Attention", 45, 15, case("attention")),
    "compiled": Part("Compiled training steps", 120, 50, case("compiled")),
}


class Page:
    """The results, written anew after each change."""

    def __init__(self, path: Path, head: str):
        self.path, self.head = path, head
        self.sections: list[str] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, unfinished: str = "") -> None:
        sections = [*self.sections, *([unfinished] if unfinished else [])]
        text = "\n\n".join([self.head, *(section.strip() for section in sections)]) + "\n"
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(self.path)


def head(device: str, command: str, python: str) -> str:
    """What was run, when and where."""
    versions = [output_of([python, "--version"]), *output_of([python, "-c", VERSIONS, *PACKAGES]).splitlines()]
    commit = output_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    lines = [
        "# One run on a GPU",
        f"`{command}`, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, {device}, "
        f"{os.cpu_count()} CPU cores.",
        f"{', '.join(versions)}{', commit ' + commit if commit else ''}.",
    ]
    return "\n\n".join(lines)


def output_of(command: Sequence[str]) -> str:
    """What a command prints, nothing if it fails or is not there."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def gpu_name() -> str:
    """Of the first GPU and its driver, as nvidia-smi tells, which needs no torch."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    lines = output_of(query).splitlines()
    return lines[0].strip() if lines else ""


def torch_sees_gpu(python: str) -> bool:
    check = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def python_with_torch(venv: Path, deadline: float) -> str:
    """A Python whose torch sees the GPU: the environment's, else this one. Makes an environment if neither does."""
    own = str(venv / "bin" / "python")
    for python in (own, sys.executable):
        if Path(python).exists() and torch_sees_gpu(python):
            return python
    print(f"No torch for this GPU: installing into {venv}", flush=True)
    make = ["make", "-C", str(ROOT), "install", f"VENV={venv}", f"PYTHON={sys.executable}"]
    subprocess.run(make, check=True, timeout=deadline - time.monotonic())
    if not torch_sees_gpu(own):
        raise RuntimeError(f"the torch in {venv} does not see the GPU")
    return own


def install_missing(python: str) -> str:
    """Installs what is missing into a folder of its own, if it can be had: parts that need it fail otherwise.

    Returns:
        The folder, or nothing if nothing is missing.
    """
    find = "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    missing = output_of([python, "-c", find, *NEEDED]).split()
    if not missing:
        return ""
    folder = str(ROOT / "build" / "gpu-packages")
    options = ["--retries=0", "--target", folder, "-c", str(ROOT / "constraints.txt")]
    print(f"Installing {', '.join(missing)}", flush=True)
    try:
        subprocess.run([python, "-m", "pip", "install", *options, *missing], timeout=120)
    except subprocess.TimeoutExpired:
        print("Not in time", flush=True)
    return folder


def run(
    part: Part, command: Sequence[str], limit: float, page: Page, log: IO[str], environment: dict[str, str]
) -> bool:
    """Runs a part until it ends or its time is over. Returns whether it passed."""
    log.write(f"\n== {' '.join(command)}\n")
    log.flush()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        with output.open("w") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=log, start_new_session=True
            )

        def section(ending: str) -> str:
            text = output.read_text(encoding="utf-8", errors="replace").strip()
            text = text if "|" in text or text.startswith("*") else f"```text\n{text}\n```" if text else ""
            return f"## {part.title}\n\n{text}\n\n{ending}"

        try:
            while not (ended := ends_within(process, 0.5)) and time.monotonic() - start < limit:
                page.write(section("(running)"))
        finally:
            stop(process)
        took = time.monotonic() - start
        if not ended:
            ending = f"Stopped after its limit of {limit:.0f} s."
        elif process.returncode:
            ending = f"**Failed** with exit code {process.returncode} after {took:.0f} s: see the log."
        else:
            ending = f"Took {took:.0f} s."
        page.sections.append(section(ending))
    page.write()
    print(f"{part.title}: {ending}", flush=True)
    return ended and process.returncode == 0


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, if it runs, and those that it started."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        ends_within(process, 3.0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it, installing included")
    parser.add_argument("--output", type=Path, help="folder (default: benchmarks/results, on cpu build/gpu)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try it")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="environment, if one has to be made")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(PARTS)} are")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    deadline = time.monotonic() + 60 * arguments.minutes - SPARE
    device, python, environment = "cpu", sys.executable, dict(os.environ)
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    if arguments.device == "cuda":
        device = gpu_name()
        if not device:
            print("No NVIDIA GPU here: nothing was run.")
            return 0
        python = python_with_torch(arguments.venv, deadline)
        paths.insert(1, install_missing(python))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    output = arguments.output or (RESULTS if arguments.device == "cuda" else ROOT / "build" / "gpu")
    output.mkdir(parents=True, exist_ok=True)
    command = ["python", "benchmarks/gpu.py", *(sys.argv[1:] if argv is None else argv)]
    page = Page(output / "gpu.md", head(device, " ".join(command), python))
    passed, left_out = True, []
    with (output / "gpu.log").open("w", encoding="utf-8") as log:
        for name, part in PARTS.items():
            if arguments.parts and name not in arguments.parts:
                continue
            limit = min(part.limit, deadline - time.monotonic())
            if limit < part.least:
                left_out.append(part.title)
                continue
            command = [python, *(argument.format(seconds=int(limit - 15)) for argument in part.arguments)]
            command += [f"--device={arguments.device}", *(part.tiny if arguments.tiny else ())]
            passed &= run(part, command, limit, page, log, environment)
    if left_out:
        page.sections.append("## Not run\n\nThe time was over before: " + ", ".join(left_out) + ".")
        page.write()
    print(f"Written to {page.path}")
    return int(not passed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part is stopped, too
    sys.exit(main())
