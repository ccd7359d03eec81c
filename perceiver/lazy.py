"""Names of a package that are imported when they are first asked for (PEP 562).

Inference should not wait for Lightning, nor the backend for transformers. A package lists its names once, as imports
that only type checkers see; this module reads the list from the package's source:

    if TYPE_CHECKING:
        from perceiver.model.text.mlm.backend import MaskedLanguageModel as MaskedLanguageModel

    __getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)

(`lazy_loader` does the same with a stub file beside the package, and does not say what to install.)
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_imports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose source is in `file`.

    A name whose module needs a library that isn't installed is an ImportError that says what to install.
    """
    blocks = [node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: str(node.module) for node in imports for alias in node.names}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "perceiver":
                raise
            extra = f"perceiver-io[{package.split('.')[2]}]" if package.startswith("perceiver.") else error.name
            raise ImportError(f"{name} needs {error.name}: pip install {extra}") from error

    names = sorted(modules)
    return getattr_, lambda: names, names
