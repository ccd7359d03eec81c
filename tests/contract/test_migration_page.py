"""docs/migration/perceiver-io-0.11.md: its tables have every name and flag of 0.11, and say what is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from perceiver.moved import GONE, MOVED
from perceiver.scripts import former
from tests.contract.test_moved_names import NAMES, OTHER_ARGUMENTS, found
from tests.model.helpers import GOLDEN

PAGE = (GOLDEN.parents[1] / "docs" / "migration" / "perceiver-io-0.11.md").read_text(encoding="utf-8")


def rows(header: str) -> Iterator[list[str]]:
    """Cells of the tables below a header."""
    for table in re.findall(rf"^\| {re.escape(header)} \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE):
        for line in table.splitlines():
            yield [cell.strip() for cell in line.strip("|").split("|")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


SAME = {f"{quoted(module)[0]}.{name}" for module, names in rows("module | names") for name in quoted(names)}
MODULES = {quoted(module)[0] for module, _ in rows("module | names")}
ELSEWHERE = {
    (quoted(module)[0], name): quoted(home)[0]
    for module, names, home in rows("former module | names | module now")
    for name in quoted(names)
}
NO_MORE = {(quoted(module)[0], quoted(name)[0]) for module, name, _ in rows("former module | name | instead")}
FLAGS = {flag: now for flags, now in rows("flags | now") for flag in quoted(flags)}


def test_every_name_is_in_a_table() -> None:
    former_names = {f"{module}.{name}" for module, name in [*ELSEWHERE, *NO_MORE]}
    assert not SAME & former_names
    assert {name.partition("(")[0] for name in NAMES} <= SAME | former_names | MODULES


@pytest.mark.parametrize("name", sorted(SAME))
def test_names_that_are_the_same(name: str) -> None:
    assert found(name) is not None


def test_names_that_are_not() -> None:
    assert {(module, name): home for module in MOVED for name, home in MOVED[module].items()} == ELSEWHERE
    assert {(module, name) for module in GONE for name in GONE[module]} == NO_MORE


def test_other_arguments() -> None:
    table = {quoted(name)[0]: quoted(theirs) for name, theirs, _ in rows("name | in 0.11 | now")}
    assert {name: set(arguments) for name, arguments in table.items()} == OTHER_ARGUMENTS


def flags(values: Any, name: str = "") -> Iterator[str]:
    if isinstance(values, dict) and not ("class_path" in values and name != "data"):
        for key, item in values.items():
            yield from flags(item, f"{name}.{key}" if name and key != "init_args" else name or key)
    else:
        yield name


def test_every_flag_is_in_the_table() -> None:
    configs = yaml.safe_load((GOLDEN / "recipes" / "0_11.yaml").read_text())["configs"].values()
    used = {name for config in configs for name in flags({key: config.get(key) for key in ("model", "data")})}
    assert used - {"data.class_path"} <= FLAGS.keys()
    assert former.RENAMED.keys() | former.WITHOUT_EFFECT.keys() <= FLAGS.keys()


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if "=" not in flag])
def test_what_became_of_a_flag(flag: str) -> None:
    neutral = former.WITHOUT_EFFECT.get(flag, (1,))[0]
    now = former.todays([f"--{flag}={'null' if neutral is None else neutral}"])
    if FLAGS[flag] == "same":
        assert now == [f"--{flag}=1"]
    elif FLAGS[flag].startswith("no effect"):
        assert now == []
    else:
        assert now[0] == f"--{quoted(FLAGS[flag])[0]}=1"
