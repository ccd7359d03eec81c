"""Rules about the source itself: which layer imports what, docstrings, habits, and what the project file says.

The rules read the files and import nothing, so they hold for branches that no test runs. Imports below
`if TYPE_CHECKING:` count for the layers, too: they are knowledge of the other layer all the same.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import perceiver

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "perceiver").rglob("*.py"))
MODEL = Path("perceiver/model")
MODEL_SOURCES = [path for path in SOURCES if MODEL in path.parents]
CORE_SOURCES = [path for path in SOURCES if MODEL / "core" in path.parents]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Runs a test for each of the files, which may be none while the package grows."""
    return pytest.mark.parametrize("path", paths or [pytest.param(Path(), marks=pytest.mark.skip("no files"))], ids=str)


@cache
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


@cache
def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it."""
    nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in nodes for name in imported(path, node)}


def imports_of(path: Path, *packages: str) -> set[str]:
    return {name for name in imports(path) if any(name == p or name.startswith(f"{p}.") for p in packages)}


def room(module: str) -> str:
    """The room of a module or of a name in it: `model.core`, `backend` of a task, `data`, ..."""
    parts = module.split(".")[1:]
    if parts[:1] != ["model"]:
        return parts[0] if parts and not parts[0].startswith("__") else ""
    if parts[1:2] in (["core"], ["huggingface"], ["lightning"], ["registration"]):
        return f"model.{parts[1]}"
    for wrapper in ("huggingface", "lightning"):
        if any(part.split("_")[0] == wrapper for part in parts[2:]):
            return wrapper
    return "backend"


# Who may import whom, anywhere in a file: downwards only. A room may always import itself.
BELOW: dict[str, set[str]] = {
    "checks": set(),
    "claims": set(),
    "lazy": set(),
    "moved": set(),  # names of other rooms, but as text
    "tasks": set(),
    "processing": {"checks", "lazy"},
    "model.core": {"checks", "lazy", "moved"},
    "backend": {"model.core", "processing", "checks", "lazy", "moved"},
    "model.huggingface": {"model.core", "processing", "tasks", "checks", "claims"},
    "model.lightning": {"model.core", "checks"},
    "model.registration": {"model.huggingface", "tasks"},
    "huggingface": {"model.huggingface", "model.core", "backend", "processing", "tasks"},
    "lightning": {"model.lightning", "model.core", "backend", "processing", "tasks"},
    "data": {"processing", "checks", "lazy", "moved", "claims"},
    "app": {"model.core", "backend", "huggingface", "processing", "tasks"},
    "scripts": {*"app model.core backend model.lightning lightning huggingface data processing tasks lazy".split(), ""},
}
FRAMEWORKS = {"pytorch_lightning", "lightning", "torchmetrics", "jsonargparse", "transformers", "datasets"}
KNOWN = {
    "model.huggingface": {"transformers"},
    "huggingface": {"transformers"},
    "model.lightning": {"pytorch_lightning", "torchmetrics"},
    "lightning": {"pytorch_lightning", "torchmetrics"},
    "processing": {"transformers"},
    "data": {"pytorch_lightning", "datasets", "transformers"},
    "app": {"transformers"},
    "scripts": FRAMEWORKS,
}


def room_of(path: Path) -> str:
    return room(".".join(path.with_suffix("").parts))


@each([path for path in SOURCES if path.name != "__init__.py"])
def test_imports_run_downwards(path: Path) -> None:
    own = room_of(path)
    names = imports_of(path, "perceiver")
    former = (ast.get_docstring(parse(path)) or "").startswith("The former path of")
    upwards = {name for name in names if room(name) not in BELOW[own] | {own}}
    assert not upwards or (former and len(names) == 1), f"{own} imports from rooms that are not below it: {upwards}"
    # in annotations only, which cost nothing: a tokenizer is transformers' wherever it is used
    annotations = {"transformers.PreTrainedTokenizerBase"}
    assert not imports_of(path, *(FRAMEWORKS - KNOWN.get(own, set()))) - annotations


@each([path for path in MODEL_SOURCES if path.name == "backend.py" or path in CORE_SOURCES])
def test_backend_needs_torch_einops_and_safetensors(path: Path) -> None:
    allowed = {"torch", "einops", "safetensors", "huggingface_hub", "typing_extensions", "perceiver"}
    assert {name for name in imports(path) if name.split(".")[0] not in allowed | set(sys.stdlib_module_names)} == set()


@each(SOURCES)
def test_docstring(path: Path) -> None:
    assert ast.get_docstring(parse(path)), "the module docstring says what is here"


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
        if isinstance(node, ast.Attribute | ast.Subscript):
            changed = node if isinstance(node, ast.Attribute) else node.value
            if (
                isinstance(changed, ast.Attribute)
                and changed.attr == "environ"
                and ast.unparse(changed) == "os.environ"
            ):
                assert not isinstance(node.ctx, ast.Store | ast.Del), f"{where}: changes the environment"


EXAMPLES = sorted(path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.py"))


@each([path for path in EXAMPLES if path.parent.name != "notebooks"])  # these are for drawing
def test_an_example_needs_matplotlib_only_where_it_draws(path: Path) -> None:
    """`--help` and the training itself do without."""
    nodes = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in nodes for name in imported(path, node)]
    assert names and not any(name.split(".")[0] == "matplotlib" for name in names)


def test_the_rules_see_what_they_forbid(tmp_path: Path) -> None:
    (file := tmp_path / "x.py").write_text("if True:\n    from . import lightning\ndef f():\n    import torch.nn\n")
    assert imports(file) >= {"torch.nn"}
    assert any(name.endswith(".lightning") for name in imports(file))
    assert room("perceiver.model.text.mlm.backend.X") == room("perceiver.model.text.mlm.mask_filler") == "backend"
    assert room("perceiver.model.text.mlm.huggingface") == "huggingface" != room("perceiver.model.huggingface.model")
    assert {room_of(path) for path in SOURCES} - {"", "model"} <= BELOW.keys()
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
