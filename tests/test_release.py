"""What `make release` refuses, and what the files around a release agree on. The builds themselves are its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
NOTES = "### Upgrade from 0.11\n\n- nothing\n\n### Tested\n\n- all\n"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release, versions = load("release"), load("versions")


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def changelog(*sections: str) -> str:
    return "# Changelog\n\nSome words.\n\n" + "\n".join(sections)


# --- release ---


@pytest.mark.parametrize("version", ["1.0.0", "1.2.3", "2.0.0rc1"])
def test_versions_that_can_be_released(version: str) -> None:
    release.check_version(version)


@pytest.mark.parametrize("version", ["1.0.0.dev0", "1.0", "v1.0.0", "1.0.0rc"])
def test_versions_that_can_not(version: str) -> None:
    with pytest.raises(release.Problem, match=re.escape(repr(version))):
        release.check_version(version)


def test_notes_are_the_section_of_the_version() -> None:
    sections = f"## 1.1.0 (2026-12-01)\n\nWords.\n\n{NOTES}", f"## 1.0.0 (2026-11-21)\n\n{NOTES}"
    assert release.release_notes(changelog(*sections), "1.1.0") == f"Words.\n\n{NOTES}"


@pytest.mark.parametrize(
    "sections, problem",
    [
        ((f"## Unreleased\n\n{NOTES}", f"## 1.0.0 (2026-11-21)\n\n{NOTES}"), "first section .* 'Unreleased'"),
        ((f"## 1.0.0\n\n{NOTES}",), r"'1.0.0', expected '1.0.0 \(YEAR-MONTH-DAY\)'"),
        ((f"## 1.0.1 (2026-11-21)\n\n{NOTES}",), "expected '1.0.0 "),
        (("## 1.0.0 (2026-11-21)\n\n### Upgrade\n\n- x\n",), "has no ### Tested"),
        (
            ("## 1.0.0 (2026-11-21)\n\nWords.\n", f"## 0.9.0 (2026-01-01)\n\n{NOTES}"),
            "no ### Upgrade and no ### Tested",
        ),
        ((), "first section of CHANGELOG.md is ''"),
    ],
)
def test_notes_that_are_none(sections: tuple[str, ...], problem: str) -> None:
    with pytest.raises(release.Problem, match=problem):
        release.release_notes(changelog(*sections), "1.0.0")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A repository with one commit, in place of this one, and a function that runs git in it."""

    def git(*arguments: str) -> None:
        # a machine's own settings (signatures, hooks) are none of ours
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        names = "-c", "user.name=x", "-c", "user.email=x@example.org"
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, env=os.environ | settings)

    git("init", "--quiet")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "-m", "One")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return git


def test_a_clean_repository(repository: Any) -> None:
    release.check_repository("1.0.0")
    repository("tag", "-a", "v1.0.0", "-m", "x")  # the tag's own workflow checks once more
    release.check_repository("1.0.0")
    repository("tag", "v1.0.1")
    release.check_repository("1.0.1")


def test_a_tag_of_another_commit(repository: Any, tmp_path: Path) -> None:
    repository("tag", "-a", "v1.0.0", "-m", "x")
    repository("commit", "--quiet", "--allow-empty", "-m", "Two")
    with pytest.raises(release.Problem, match=r"there is a tag v1\.0\.0 already"):
        release.check_repository("1.0.0")
    release.check_repository("1.0.1")


def test_a_tree_that_is_not_clean(repository: Any, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with pytest.raises(release.Problem, match=r"not clean:\n\?\? other"):
        release.check_repository("1.0.0")


def test_a_tag_that_is_not_the_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "version", lambda: "1.0.0")
    monkeypatch.setattr(sys, "argv", ["release.py", "--tag", "v1.0.1"])
    assert release.main() == 1
    assert capsys.readouterr().err == "no release: the tag is v1.0.1, the version 1.0.0\n"


def test_a_development_version_is_no_release(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "version", lambda: "1.0.0.dev0")
    monkeypatch.setattr(sys, "argv", ["release.py"])
    assert release.main() == 1
    assert "no release: __version__ is '1.0.0.dev0'" in capsys.readouterr().err


def test_the_version_is_read_without_an_import() -> None:
    import perceiver

    assert release.version() == perceiver.__version__


def test_every_extra_is_installed_and_its_program_compiles() -> None:
    listed = text("pyproject.toml").split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[$", listed, flags=re.MULTILINE))
    assert set(release.PROGRAMS) == extras - {"dev", "docs"} | {""}
    for program in release.PROGRAMS.values():
        exec(program, {})


def test_the_program_of_the_readme_is_the_first_one() -> None:
    program = release.first_program("words\n```shell\nls\n```\n```python\na = 1\n```\n```python\nb = 2\n```\n")
    assert program == "a = 1\n"
    assert 'pipeline("fill-mask", model=model' in release.first_program(text("README.md"))


# --- versions ---


def test_unknown_combination(capsys: pytest.CaptureFixture[str]) -> None:
    assert versions.main(["3.9-lowest"]) == 2
    assert "'3.9-lowest' is none of 3.10-lowest, " in capsys.readouterr().err


def test_versions_agree() -> None:
    """Of pyproject.toml, .ci/versions.py and the workflows: the same Pythons, from the lowest on."""
    pythons = [name.split("-")[0] for name in versions.COMBINATIONS]
    assert {name.split("-")[1] for name in versions.COMBINATIONS} == versions.OPTIONS.keys()
    lowest = re.search(r'^requires-python = ">=(3\.\d+)"$', text("pyproject.toml"), flags=re.MULTILINE)
    assert lowest is not None and versions.COMBINATIONS[0] == f"{lowest[1]}-lowest"
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text("pyproject.toml"))
    assert classified == sorted(set(pythons), key=lambda version: int(version[2:]))
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    matrix = jobs["versions"]["strategy"]["matrix"]["combination"]
    assert {*matrix, "3.11-pinned"} == set(versions.COMBINATIONS)
    (check,) = (step for step in jobs["check"]["steps"] if "setup-python" in step.get("uses", ""))
    assert check["with"]["python-version"] == "3.11"


# --- files around it ---


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.name)
def test_github_files_parse_and_run_what_there_is(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in content.get("jobs", {}).values() for step in job["steps"]]
    assert bool(steps) == (path.parent.name == "workflows")
    for command in [line for step in steps for line in step.get("run", "").splitlines()]:
        for target in re.findall(r"\bmake ([\w-]+)", command):
            assert f"\n{target}:" in text("Makefile"), command
        for script in re.findall(r"\.ci/[\w.]+", command):
            assert (ROOT / script).is_file(), command


def test_citation() -> None:
    """The software and the three papers; the version has its home elsewhere."""
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert "version" not in citation and {"title", "message", "authors"} <= citation.keys()
    papers = {paper["url"].rsplit("/", 1)[1]: paper for paper in citation["references"]}
    assert {key: len(paper["authors"]) for key, paper in papers.items()} == {
        "2103.03206": 6,
        "2107.14795": 15,
        "2202.07765": 15,
    }
    assert all(paper["title"] and paper["year"] and paper["type"] for paper in papers.values())


def test_pre_commit_runs_what_ci_runs() -> None:
    (repo,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"  # the environment's tools, hence constraints.txt's versions
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repo["hooks"]]
    assert entries == ["python -m ruff format", "python -m ruff check", "python -m mypy"]
    for entry in entries:
        assert f"$(BIN)/{entry}" in text("Makefile")
