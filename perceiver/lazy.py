"""Names of a package that are imported when they are first asked for (PEP 562).

Inference should not wait for Lightning, nor the backend for transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `modules` says in which of its modules a name is.

    The function raises ImportError if a name's module needs a library that isn't installed, saying which.
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(f"{package}.{modules[name]}")
        except ModuleNotFoundError as error:
            # The extra is called as the domain: perceiver.model.text.mlm -> text
            extra = package.split(".")[2]
            raise ImportError(f"{name} needs {error.name}: pip install perceiver-io[{extra}]") from error
        return getattr(module, name)

    return getattr_
