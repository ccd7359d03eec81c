"""Signatures of classes, read from their source without importing it.

The command line checks its flags and prints its help with them before torch and Lightning are imported, which takes
seconds. What the source does not show plainly is reported as open: the parser, which imports everything, then decides.
`tests/scripts/test_signatures.py` compares the two for every class that a command line knows by name.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Found:
    """A class or function, and the module that it is defined in."""

    node: Definition
    module: str

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        sentence = " ".join(re.split(r"(?<=[.:])\s|\n\n", self.doc, maxsplit=1)[0].split())
        return f"{sentence[:-1]}." if sentence.endswith(":") else sentence


@dataclass(frozen=True)
class Parameter:
    """A parameter of a class, or a field of a dataclass.

    Attributes:
        name: Its name.
        annotation: Its type, as written. "" if it has none.
        default: Its default, as written. None if it has none.
        doc: What the docstring says of it.
        module: Where the annotation is to be looked up.
    """

    name: str
    annotation: str
    default: str | None
    doc: str
    module: str


@dataclass(frozen=True)
class Signature:
    """The parameters of a class, and whether there may be others."""

    parameters: Mapping[str, Parameter]
    is_open: bool = False


@cache
def file_of(module: str) -> Path | None:
    """The source file of a module, found without importing the packages around it."""
    top, *rest = module.split(".")
    spec = find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent.joinpath(*rest)
    files = [package / "__init__.py", package.with_suffix(".py")] if rest else [Path(spec.origin)]
    return next((file for file in files if file.is_file()), None)


@cache
def statements(module: str) -> tuple[ast.stmt, ...]:
    """The statements of a module, with those of `if TYPE_CHECKING:`, where lazy packages list their names."""
    file = file_of(module)
    if file is None:
        return ()
    body = ast.parse(file.read_text(encoding="utf-8")).body
    nested = [statement for node in body if isinstance(node, ast.If) for statement in node.body]
    return (*body, *nested)


def names(module: str) -> list[str]:
    """The names that a package imports into itself, `*` resolved."""
    result = []
    for node in statements(module):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                result += names(_absolute(module, node)) if alias.name == "*" else [alias.asname or alias.name]
    return result


@cache
def find(module: str, name: str) -> Found | None:
    """The class or function that a module knows by a name, defined in it or imported."""
    for node in statements(module):
        if isinstance(node, Definition) and node.name == name:
            return Found(node, module)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*" and (found := find(_absolute(module, node), name)):
                    return found
                if (alias.asname or alias.name) == name and alias.name != "*":
                    return find(_absolute(module, node), alias.name)
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = file_of(module)
    parts = module.split(".")
    parents = parts if file is not None and file.name == "__init__.py" else parts[:-1]
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


@cache
def lineage(found: Found) -> tuple[Found, ...]:
    """The class and its bases, as far as their source can be found, in the order in which attributes are looked up."""
    result = [found]
    for base in found.node.bases if isinstance(found.node, ast.ClassDef) else ():
        name = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(name, ast.Name) and (parent := find(found.module, name.id)):
            result += lineage(parent)
    return tuple(result)


def is_dataclass(found: Found) -> bool:
    decorators = [d.func if isinstance(d, ast.Call) else d for d in found.node.decorator_list]
    return any(isinstance(d, ast.Name) and d.id == "dataclass" for d in decorators)


@cache
def signature(found: Found) -> Signature:
    """The parameters of a class, those that `**kwargs` hands on included."""
    if is_dataclass(found):
        return Signature(_fields(found))
    for cls in lineage(found):
        for node in cls.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return _of_init(cls, node, _documented(found))
    return Signature({}, is_open=True)


def _documented(found: Found) -> dict[str, str]:
    """What the docstrings of a class and its bases say of parameters; the class before its bases."""
    result: dict[str, str] = {}
    for cls in reversed(lineage(found)):
        inits = [node for node in cls.node.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        for doc in [*(ast.get_docstring(init) or "" for init in inits), cls.doc]:
            result |= documented(doc)
    return result


def documented(doc: str) -> dict[str, str]:
    """The parameters below "Args:" and "Attributes:" of a docstring, and what is said of each."""
    result: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?:[ ]+.*)?\n?)*)", inspect.cleandoc(doc), re.MULTILINE):
        for name, text in re.findall(
            r"^    (\w+)(?: \(.*?\))?: ?((?:.*\n?)(?:(?:     .*)?\n?)*)", section, re.MULTILINE
        ):
            result[name] = " ".join(text.split())
    return result


def _fields(found: Found) -> dict[str, Parameter]:
    result: dict[str, Parameter] = {}
    docs = _documented(found)
    for cls in reversed(lineage(found)):
        if not is_dataclass(cls):
            continue
        for node in cls.node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            annotation, name = ast.unparse(node.annotation), node.target.id
            if not annotation.startswith("ClassVar"):
                result[name] = Parameter(
                    name, annotation, _default(node.value, cls.module), docs.get(name, ""), cls.module
                )
    return result


def _default(value: ast.expr | None, module: str) -> str | None:
    """The default of a parameter or field as written, also below `field(default=...)`; a constant's value."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    if isinstance(value, ast.Name):
        value = _constant(module, value.id) or value
    return None if value is None else ast.unparse(value)


def _constant(module: str, name: str) -> ast.expr | None:
    for node in statements(module):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _constant(_absolute(module, node), name)
    return None


def _of_init(cls: Found, init: ast.FunctionDef, docs: Mapping[str, str]) -> Signature:
    arguments = init.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
    pairs = [*zip(positional, defaults, strict=True)][1:]  # without self
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    result = {
        arg.arg: Parameter(
            arg.arg,
            ast.unparse(arg.annotation) if arg.annotation else "",
            _default(default, cls.module),
            docs.get(arg.arg, ""),
            cls.module,
        )
        for arg, default in pairs
    }
    if arguments.kwarg is None:
        return Signature(result)
    rest = _handed_on(cls, init, arguments.kwarg.arg)
    if rest is None:
        return Signature(result, is_open=True)
    for name, parameter in rest.parameters.items():
        result.setdefault(name, replace(parameter, doc=docs.get(name) or parameter.doc))
    return Signature(result, rest.is_open)


def _handed_on(cls: Found, init: ast.FunctionDef, kwargs: str) -> Signature | None:
    """The parameters that a constructor takes as `**kwargs` and hands on to a call. None if it can't be seen which."""
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
    for call in calls:
        if not any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == kwargs for k in call.keywords):
            continue
        target: Signature | None = None
        if ast.unparse(call.func) == "super().__init__":
            target = next((signature(parent) for parent in lineage(cls)[1:]), None)
        elif isinstance(call.func, ast.Name) and (found := find(cls.module, call.func.id)):
            target = signature(found)
        if target is None or any(isinstance(argument, ast.Starred) for argument in call.args):
            return None
        given = [*target.parameters][: len(call.args)] + [keyword.arg for keyword in call.keywords]
        kept = {name: parameter for name, parameter in target.parameters.items() if name not in given}
        return Signature(kept, target.is_open)
    return None


def values(found: Found) -> dict[str, object]:
    """What a function without arguments returns: the fields of a config, as far as they are written in the source.

    Nested configs are dictionaries; expressions other than literals and calls of classes and such functions are left
    out.
    """
    assigned: dict[str, ast.expr] = {}
    for node in found.node.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = node.value
        if isinstance(node, ast.Return) and isinstance(result := _value(node.value, found.module, assigned), dict):
            return result
    return {}


def _value(node: ast.expr | None, module: str, assigned: Mapping[str, ast.expr]) -> object:
    if isinstance(node, ast.Name) and node.id in assigned:
        return _value(assigned[node.id], module, assigned)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (found := find(module, node.func.id)):
        if isinstance(found.node, ast.FunctionDef):
            return values(found)
        parameters = signature(found).parameters
        given = dict(zip(parameters, node.args, strict=False)) | {k.arg: k.value for k in node.keywords if k.arg}
        result = {name: p.default for name, p in parameters.items() if p.default is not None and name not in given}
        parsed = {name: ast.literal_eval(default) for name, default in result.items() if is_literal(default)}
        return parsed | {name: _value(value, module, assigned) for name, value in given.items()}
    text = ast.unparse(node) if node is not None else "None"
    return ast.literal_eval(text) if is_literal(text) else None


def is_literal(text: str) -> bool:
    """Whether a Python expression is a plain value."""
    try:
        ast.literal_eval(text)
    except ValueError:
        return False
    return True


def members(annotation: str) -> Iterator[str]:
    """The alternatives of a type as written: `Optional[Union[int, float]]` has int, float and None."""
    text = annotation.strip()
    if match := re.fullmatch(r"(?:typing\.)?(Optional|Union)\[(.*)\]", text):
        yield from (m for part in _split(match[2], ",") for m in members(part))
        if match[1] == "Optional":
            yield "None"
    elif len(parts := _split(text, "|")) > 1:
        yield from (m for part in parts for m in members(part))
    else:
        yield text


def _split(text: str, separator: str) -> list[str]:
    """Parts of a text between separators that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
