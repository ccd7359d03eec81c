"""Rules about the source itself: which layer imports what, docstrings, habits, and what the project file says.

The rules read the files and import nothing, so they hold for branches that no test runs. Imports below
`if TYPE_CHECKING:` count for the layers, too: they are knowledge of the other layer all the same.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import perceiver

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "perceiver").rglob("*.py"))
MODEL = Path("perceiver/model")
CORE = MODEL / "core"

CORE_SOURCES = [path for path in SOURCES if CORE in path.parents]
MODEL_SOURCES = [path for path in SOURCES if MODEL in path.parents]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Runs a test for each of the files, which may be none while the package grows."""
    return pytest.mark.parametrize("path", paths or [pytest.param(Path(), marks=pytest.mark.skip("no files"))], ids=str)


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Absolute names of what a statement of the file `path` imports: a module, or `module.name`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = node.module or ""
    if node.level:  # relative: `..x` in perceiver/a/b.py is perceiver.x
        parents = path.with_suffix("").parts[: -node.level]
        module = ".".join([*parents, *([module] if module else [])])
    return [f"{module}.{alias.name}" for alias in node.names]


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it."""
    nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in nodes for name in imported(path, node)}


def statements_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; not those of functions and of `if TYPE_CHECKING:`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements_at_import(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from statements_at_import(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from statements_at_import(handler.body)


def imports_of(path: Path, *packages: str) -> set[str]:
    return {name for name in imports(path) if any(name == p or name.startswith(f"{p}.") for p in packages)}


# What the files of a framework layer may know, by their name up to `_`; every other file of `core` is backend.
LAYERS = {
    "lightning": {"pytorch_lightning"},
    "huggingface": {"transformers"},
    "convert": {"transformers"},
}
FRAMEWORKS = {"pytorch_lightning", "lightning", "jsonargparse", "transformers", "datasets"}


def layer(path: Path) -> str:
    """`huggingface` for huggingface.py and huggingface_config.py"""
    return path.stem.split("_")[0]


@each(CORE_SOURCES)
def test_core_knows_its_framework_only(path: Path) -> None:
    assert not imports_of(path, *(FRAMEWORKS - LAYERS.get(layer(path), set())))
    outside = imports_of(path, "perceiver") - imports_of(path, "perceiver.model.core", "perceiver.__version__")
    assert not outside, "core imports from the layers above it"


@each([path for path in MODEL_SOURCES if path.name == "backend.py"])
def test_backend_knows_torch_einops_and_core_only(path: Path) -> None:
    allowed = {"torch", "einops", "perceiver", *sys.stdlib_module_names}
    assert {name for name in imports(path) if name.split(".")[0] not in allowed} == set()
    ours = imports_of(path, "perceiver") - imports_of(path, "perceiver.model.core")
    # one task may build on the backend of another, text.mlm on text.common
    others = {name for name in ours if not re.fullmatch(r"perceiver\.model(\.\w+)+\.backend\.\w+", name)}
    assert not others
    assert not imports_of(path, *(f"perceiver.model.core.{p.stem}" for p in CORE_SOURCES if layer(p) in LAYERS))


@each([path for path in MODEL_SOURCES if layer(path) in ("lightning", "huggingface")])
def test_lightning_and_huggingface_do_not_know_each_other(path: Path) -> None:
    if layer(path) == "lightning":
        frameworks, other = ("transformers", "datasets"), "huggingface"
    else:
        frameworks, other = ("pytorch_lightning", "lightning", "datasets"), "lightning"
    assert not imports_of(path, *frameworks)
    modules = {part for name in imports_of(path, "perceiver") for part in name.split(".")}
    assert not {module for module in modules if module.split("_")[0] == other}


@each(MODEL_SOURCES)
def test_models_do_not_import_data_or_scripts(path: Path) -> None:
    nodes = [n for n in statements_at_import(parse(path).body) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {name for node in nodes for name in imported(path, node)}
    assert not {name for name in names if re.match(r"perceiver\.(data|scripts)\b", name)}


@each(SOURCES)
def test_docstring(path: Path) -> None:
    assert ast.get_docstring(parse(path)), "the module docstring says what is here"


PAPERLESS = {"__init__", "checkpoint", "lazy", "modules"}


@each([path for path in CORE_SOURCES if path.stem not in PAPERLESS and layer(path) not in LAYERS])
def test_core_names_its_paper(path: Path) -> None:
    assert re.search(r"\b\d{4}\.\d{5}\b", ast.get_docstring(parse(path)) or ""), "arXiv id of what is implemented"


@each(SOURCES)
def test_habits(path: Path) -> None:
    """Reshapes are einops patterns, errors are caught by their class, imports change nothing outside."""
    for node in ast.walk(parse(path)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and MODEL in path.parents:
            assert node.func.attr not in ("view", "permute", "transpose"), f"{where}: use einops"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"{where}: catches {caught}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ":
            assert not isinstance(node.ctx, ast.Store | ast.Del), where
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            assert not isinstance(node.ctx, ast.Store | ast.Del), f"{where}: changes the environment"


def test_the_rules_see_what_they_forbid(tmp_path: Path) -> None:
    (file := tmp_path / "x.py").write_text("if True:\n    from . import lightning\ndef f():\n    import torch.nn\n")
    assert imports(file) >= {"torch.nn"}
    assert any(name.endswith(".lightning") for name in imports(file))
    at_import = list(statements_at_import(parse(file).body))
    assert [type(node).__name__ for node in at_import] == ["If", "ImportFrom"]
    assert SOURCES, "no sources found"


def project_file() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_version_has_one_home() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", perceiver.__version__)
    assert 'dynamic = ["version"]' in project_file()
    assert 'version = { attr = "perceiver.__version__" }' in project_file()
    # setuptools reads the attribute from the source, without importing it, only if it is a plain literal
    literals = [n for n in parse(Path("perceiver/__init__.py")).body if isinstance(n, ast.Assign)]
    assert perceiver.__version__ in [n.value.value for n in literals if isinstance(n.value, ast.Constant)]


def test_constraints_are_exact_and_agree_with_the_makefile() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)] == []
    assert "\nTORCH := torch==2.13.0\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "torch==2.13.0" in pins
    # every direct dependency is pinned
    direct = re.findall(r'^    "([A-Za-z][\w-]*)(?:\[[\w,]+\])?[<>=]', project_file(), flags=re.MULTILINE)
    assert {name.lower() for name in direct} - {pin.split("==")[0] for pin in pins} == set()
    assert {"torch", "transformers", "pytorch-lightning", "pytest"} <= set(direct)
