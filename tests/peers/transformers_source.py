"""transformers' own tests, of the version that is installed: from its source distribution, or from a checkout.

The package has none, so its source distribution is downloaded once, by pip, into the user's cache. It holds the common
tests of models, not those of generation and pipelines: these need a checkout.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path
from typing import Any

import transformers

PACKAGE = "transformers_tests"  # what the folder is imported as


def downloaded() -> Path:
    """The `tests` folder of the source distribution.

    Raises:
        RuntimeError: if it can't be downloaded.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = cache / "perceiver-io" / f"transformers-{transformers.__version__}"
    if not (root / "tests" / "test_modeling_common.py").exists():
        with tempfile.TemporaryDirectory() as folder:
            requirement = f"transformers=={transformers.__version__}"
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary=:all:",
                "--no-build-isolation",
            ]
            run = subprocess.run([*command, "-d", folder, requirement], capture_output=True, text=True)
            archives = list(Path(folder).glob("*.tar.gz"))
            if not archives:
                raise RuntimeError(f"{requirement} can't be downloaded: {run.stderr.strip()[-300:]}")
            with tarfile.open(archives[0]) as archive:
                top = archive.getnames()[0].split("/")[0]
                members = [m for m in archive.getmembers() if m.name.startswith(f"{top}/tests/")]
                archive.extractall(Path(folder) / "all", members=members, filter="data")
            root.mkdir(parents=True, exist_ok=True)
            (Path(folder) / "all" / top / "tests").rename(root / "tests")
    return root / "tests"


def load(folder: Path) -> None:
    """Makes `folder` importable as the package `PACKAGE`. What the source distribution lacks is an empty mixin."""
    package: Any = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    lacking = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
    for name, mixin in lacking.items():
        if not (folder / f"{name.replace('.', '/')}.py").exists():
            module: Any = types.ModuleType(f"{PACKAGE}.{name}")
            setattr(module, mixin, type(mixin, (), {}))
            parent = f"{PACKAGE}.{name.split('.')[0]}"
            sys.modules.setdefault(parent, types.ModuleType(parent))
            sys.modules[module.__name__] = module


def test_module(name: str) -> Any:
    """A module of the folder, `test_modeling_common` for example."""
    return importlib.import_module(f"{PACKAGE}.{name}")
