"""Signatures from source: they are those that the parser gets from the imported classes."""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from pytorch_lightning import Trainer

from perceiver.model.core.config import flat
from perceiver.scripts import flags
from perceiver.scripts.lrs import ConstantWithWarmupLR, CosineWithWarmupLR, WarmupStableDecayLR
from perceiver.scripts.signatures import (
    documented,
    file_of,
    find,
    members,
    names,
    signature,
    values,
)
from perceiver.tasks import TASKS

DATA_MODULES = sorted({(task.data_package, name) for task in TASKS.values() for name in task.data})


def parser_names(cls: type, **kwargs: object) -> set[str]:
    parser = ArgumentParser()
    parser.add_class_arguments(cls, fail_untyped=False, **kwargs)
    return {
        re.split(r"\.(?:class_path|init_args)", name)[0]
        for name in flat(parser.get_defaults().as_dict())
        if "__" not in name
    }


@pytest.mark.parametrize(("package", "name"), DATA_MODULES)
def test_data_modules(package: str, name: str) -> None:
    own = signature(find(package, name))
    cls = getattr(import_module(package), name)
    assert set(own.parameters) == parser_names(cls) and not own.is_open
    parser = ArgumentParser()
    parser.add_class_arguments(cls)
    helps = {action.dest: action.help for action in parser._actions}
    for parameter in own.parameters.values():
        said = (helps[parameter.name] or "").split(" (type:")[0].split(" (required")[0]
        assert " ".join(parameter.doc.split()) == " ".join(said.split()), parameter.name
        default = parser.get_defaults().get(parameter.name)
        if parameter.default is None:
            assert default is None
        elif isinstance(default, str | int | float | bool | tuple | list | None):
            assert ast.literal_eval(parameter.default) == default


@pytest.mark.parametrize("task_name", TASKS)
def test_models(task_name: str) -> None:
    task = TASKS[task_name]
    cls = getattr(import_module(task.package), f"Lit{task.model}")
    own = dict(flags.nested(signature(find(task.package, f"Lit{task.model}"))))
    assert set(own) == parser_names(cls)
    assert [name for name, parameter in own.items() if not parameter.doc] == []


@pytest.mark.parametrize("task_name", TASKS)
def test_variants(task_name: str) -> None:
    """What a variant's function would return, from its source."""
    from dataclasses import asdict

    task = TASKS[task_name]
    expected = asdict(getattr(import_module(task.package), task.variant)())
    found = values(find(task.package, task.variant))
    assert flat(found) == flat(expected)


def test_trainer_optimizers_and_schedules() -> None:
    assert set(signature(find(flags.LIGHTNING, "Trainer")).parameters) == parser_names(Trainer, instantiate=False)
    import pytorch_optimizer
    import torch

    for cls in (ConstantWithWarmupLR, CosineWithWarmupLR, WarmupStableDecayLR):
        parameters = set(signature(find("perceiver.scripts.lrs", cls.__name__)).parameters)
        assert parameters - {"optimizer"} == parser_names(cls, skip={"optimizer"})
    known = flags.optimizers()
    for module in (pytorch_optimizer, torch.optim):
        classes = {name for name, value in vars(module).items() if isinstance(value, type)}
        optimizers = {name for name in classes if issubclass(getattr(module, name), torch.optim.Optimizer)}
        assert optimizers - {"Optimizer"} <= known.keys()
    for name in ("AdamW", "SGD", "Muon", "Lamb", "Lion"):
        found = signature(find(known[name], name))
        own = parser_names(getattr(import_module(known[name]), name), skip={"params"})
        assert set(found.parameters) - {"params"} == own or found.is_open


def test_reading_imports_nothing() -> None:
    before = set(sys.modules)
    assert find("sklearn.svm", "SVC") is not None  # through the package's `from ._classes import`
    assert {name for name in set(sys.modules) - before if name.startswith("sklearn")} == set()


def test_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "madeup"
    package.mkdir()
    (package / "__init__.py").write_text("from madeup.a import *\nfrom .b import Two as Second\n")
    (package / "a.py").write_text("from madeup.b import One\n")
    (package / "b.py").write_text(
        "class Base:\n    def __init__(self, x: int, /, *, y: str = 'b', **other):\n        '''Base.\n\n        Args:\n"
        "            y: A text that\n                goes on.\n        '''\n"
        "class One(Base):\n    def __init__(self, z: float = 1.0, **kwargs):\n        super().__init__(3, **kwargs)\n"
        "class Two(One):\n    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert names("madeup") == ["One", "Second"]
    one = signature(find("madeup", "One"))
    assert list(one.parameters) == ["z", "y"] and one.is_open  # of **other nobody says where it goes
    assert one.parameters["y"].doc == "A text that goes on."
    assert signature(find("madeup", "Second")).is_open
    assert find("madeup", "Third") is None and find("nowhere", "One") is None and file_of("nowhere.x") is None


def test_documented() -> None:
    doc = """One.

    Args:
        a: first
            and more: of it
        b (int, optional): second

    Returns:
        c: nothing of this
    """
    assert documented(doc) == {"a": "first and more: of it", "b": "second"}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", ["int"]),
        ("int | None", ["int", "None"]),
        ("Optional[Union[int, list[str]]]", ["int", "list[str]", "None"]),
        ("Literal['a', 'b'] | None", ["Literal['a', 'b']", "None"]),
    ],
)
def test_members(annotation: str, expected: list[str]) -> None:
    assert list(members(annotation)) == expected
