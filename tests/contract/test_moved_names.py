"""Every name of perceiver-io 0.11 that its README, docs, examples and tests use is there, or says where it went."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from perceiver.moved import GONE, MOVED
from tests.model.helpers import GOLDEN

# A name per line, or a call with the name of an argument: `module.function(argument=)`.
NAMES = (GOLDEN / "recipes" / "names_0_11.txt").read_text().splitlines()
# Arguments that are called otherwise or no more. docs/migration/perceiver-io-0.11.md says what to do.
OTHER_ARGUMENTS = {
    "perceiver.model.core.modules.SelfAttentionBlock": {
        "causal_attention",
        "num_channels",
        "num_heads",
        "num_layers",
        "num_qk_channels",
        "num_rotary_layers",
        "num_v_channels",
    },
    "perceiver.model.core.position.FrequencyPositionEncoding": {"dim"},
    "perceiver.model.core.position.RotaryPositionEmbedding": {"right_align"},
    "perceiver.model.core.position.positions": {"b", "n", "shift"},
}


def found(name: str) -> Any:
    """What a dotted name is: a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


def is_gone(name: str) -> bool:
    module, _, attribute = name.partition("(")[0].rpartition(".")
    return attribute in GONE.get(module, {})


@pytest.mark.parametrize("name", [name for name in NAMES if not is_gone(name)])
def test_name_of_0_11(name: str) -> None:
    function, _, argument = name.removesuffix("=)").partition("(")
    value = found(function)
    if argument:
        parameters = inspect.signature(value).parameters.values()
        takes = argument in {p.name for p in parameters} or any(p.kind is p.VAR_KEYWORD for p in parameters)
        assert takes == (argument not in OTHER_ARGUMENTS.get(function, ()))


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in GONE.items() for name in names])
def test_what_is_gone_says_what_became_of_it(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=rf"{module}.{name} of perceiver-io 0.11 is (no|any|AttentionLayer)"):
        getattr(importlib.import_module(module), name)
    with pytest.raises(ImportError, match=r"of perceiver-io 0\.11"):
        exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", MOVED)
def test_moved_names_are_those_of_their_modules(module: str) -> None:
    for name, home in MOVED[module].items():
        assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        importlib.import_module(module).nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {module} import nothing")
