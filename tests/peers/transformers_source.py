"""transformers' own tests, from its source distribution and from a checkout.

The package has none, so the source distribution of the installed version is downloaded once, by pip, into the user's
cache. It holds the common tests of models and image processors. Those of generation, pipelines and of its Perceiver are
those of the checkout that `TRANSFORMERS_CHECKOUT` names. It may be of another version: what its tests import and the
installed one lacks is a `Missing`.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest import mock

import transformers

PACKAGE = "transformers_tests"  # what the folders are imported as
CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT")
TINY_MODELS = tempfile.TemporaryDirectory()  # where tests of pipelines look for models, in place of the hub
# What transformers 4 called them.
FORMER = {
    "BeamSampleDecoderOnlyOutput": transformers.generation.GenerateBeamDecoderOnlyOutput,
    "BeamSearchDecoderOnlyOutput": transformers.generation.GenerateBeamDecoderOnlyOutput,
    "GreedySearchDecoderOnlyOutput": transformers.generation.GenerateDecoderOnlyOutput,
    "SampleDecoderOnlyOutput": transformers.generation.GenerateDecoderOnlyOutput,
}
NEEDS_CHECKOUT = "the source distribution has none of these tests: name a checkout of transformers"


class Missing:
    """In the place of what the installed version has no more: false, empty, a decorator that does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs else super().__new__(cls)

    def __bool__(self) -> bool:
        return False

    @staticmethod
    def items() -> tuple[()]:
        return ()


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
            options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation"]
            command = [sys.executable, "-m", "pip", "download", *options, "-d", folder, requirement]
            run = subprocess.run(command, capture_output=True, text=True)
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


def load() -> None:
    """Makes the folders importable as the package `PACKAGE`. What none of them has is an empty mixin."""
    if PACKAGE in sys.modules:
        return
    package: Any = types.ModuleType(PACKAGE)
    package.__path__ = [str(downloaded()), *([str(Path(CHECKOUT) / "tests")] if CHECKOUT else [])]
    sys.modules[PACKAGE] = package
    lacking = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
    for name, mixin in lacking.items():
        if path_of(name) is None:
            module: Any = types.ModuleType(f"{PACKAGE}.{name}")
            setattr(module, mixin, type(mixin, (), {}))
            parent = f"{PACKAGE}.{name.split('.')[0]}"
            sys.modules.setdefault(parent, types.ModuleType(parent))
            sys.modules[module.__name__] = module
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = TINY_MODELS.name
    summary = Path(TINY_MODELS.name, "reports", "tiny_model_summary.json")
    summary.parent.mkdir()
    summary.write_text("{}")
    hub: Any = types.ModuleType("fetch_hub_objects_for_ci")  # of transformers' `utils`; it would download
    hub.url_to_local_path = lambda url, return_url_if_not_found=True: url
    sys.modules.setdefault(hub.__name__, hub)


def path_of(name: str) -> Path | None:
    """File of a module of the folders, the first one that has it."""
    files = (Path(folder, *name.split(".")).with_suffix(".py") for folder in sys.modules[PACKAGE].__path__)
    return next((file for file in files if file.exists()), None)


def test_module(name: str) -> Any:
    """A module of the folders, `test_modeling_common` for example."""
    fill_in(name, set())
    # transformers' own source folder, which tests look for beside theirs
    with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):
        return importlib.import_module(f"{PACKAGE}.{name}")


def fill_in(name: str, seen: set[str]) -> None:
    """Puts a `Missing` where a module of the folders, or one that it imports from there, imports what is no more."""
    path = path_of(name)
    if path is None or name in seen:
        return
    seen.add(name)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.level:
            fill_in(".".join([*name.split(".")[: -node.level], node.module]), seen)
        elif node.module.split(".")[0] in ("transformers", "huggingface_hub"):
            try:
                module = importlib.import_module(node.module)
            except ImportError:
                module = sys.modules[node.module] = types.ModuleType(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    setattr(module, alias.name, FORMER.get(alias.name) or type(alias.name, (Missing,), {}))
