"""The fast tests on other versions of Python and of the dependencies: `make test-versions`, or one of them by name.

    python .ci/versions.py                     all below whose interpreter is on this machine; names the others
    python .ci/versions.py 3.10-lowest         one of them
    python .ci/versions.py 3.10-lowest tests/model/core        with arguments for pytest

`lowest` takes the lowest versions that pyproject.toml allows of what it names, `newest` the newest of everything, and
`pinned` those of constraints.txt. An environment is made for each and deleted after it; with torch's CUDA builds it
takes 6 GB (UV_TORCH_BACKEND=cpu takes builds without). Exit codes: 0 passed, 1 failed, 2 unknown name or that one has
no interpreter.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMBINATIONS = ("3.10-lowest", "3.10-newest", "3.11-pinned", "3.12-pinned", "3.13-newest", "3.14-newest")
EXTRAS = "text,vision,audio,dev"
OPTIONS = {
    "lowest": ("--resolution", "lowest-direct"),
    "newest": (),
    "pinned": ("--constraints", "constraints.txt"),
}


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in COMBINATIONS:
        print(f"{arguments[0]!r} is none of {', '.join(COMBINATIONS)}", file=sys.stderr)
        return 2
    results = {}
    with tempfile.TemporaryDirectory(prefix="perceiver-versions-") as scratch:
        uv = install_uv(Path(scratch) / "uv")
        for name in arguments[:1] or COMBINATIONS:
            results[name] = run(uv, name, Path(scratch) / name, arguments[1:])
            shutil.rmtree(Path(scratch) / name, ignore_errors=True)
    for name, result in results.items():
        print(f"{name:<12} {result}")
    if arguments and "no interpreter" in results.values():
        return 2
    return int("FAILED" in results.values())


def install_uv(folder: Path) -> Path:
    """uv resolves lowest versions, which pip can't."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "uv"], check=True)
    return folder / "bin" / "uv"


def run(uv: Path, name: str, folder: Path, pytest_arguments: Sequence[str]) -> str:
    version, which = name.split("-")
    found = subprocess.run([uv, "python", "find", "--no-python-downloads", version], capture_output=True, text=True)
    if found.returncode:
        return "no interpreter"
    print(f"== {name}: {found.stdout.strip()}", flush=True)
    python = folder / "bin" / "python"
    # Compiled at first use, where warnings are errors, a package with an old escape sequence would not be imported.
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *OPTIONS[which]]
    install += ["--editable", f".[{EXTRAS}]"]
    tests = [python, "-m", "pytest", "-q", "-n", os.environ.get("WORKERS", "2"), *pytest_arguments]
    commands = [
        [uv, "venv", "--quiet", "--python", found.stdout.strip(), folder],
        install,
        [uv, "pip", "list", "--python", python],
        tests,
    ]
    return "passed" if all(subprocess.run(command, cwd=ROOT).returncode == 0 for command in commands) else "FAILED"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
