"""The documentation site: what is staged for it. The strict build itself is `make docs`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from perceiver.model.text import clm

ROOT = Path(__file__).parent.parent


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = load("docs/build_site.py")


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(site, "BUILD", tmp_path)
    monkeypatch.setattr(site, "STAGED", tmp_path / "docs")
    monkeypatch.setattr(site, "CONFIG", tmp_path / "mkdocs.yml")
    site.stage()
    return tmp_path


def test_every_page_has_a_place_and_every_link_a_target(staged: Path) -> None:
    """If this fails for a new page: add it to a section of docs/site.yml."""
    config = yaml.safe_load((staged / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = site.pages_of(config["nav"])
    assert sorted(pages) == sorted(path.relative_to(staged / "docs").as_posix() for path in staged.rglob("*.md"))
    for page in pages:
        text = re.sub(r"^```.*?^```$", "", (staged / "docs" / page).read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text):
            assert ((staged / "docs" / page).parent / target).is_file(), f"{page}: {target}"


def test_the_header_names_the_version(staged: Path) -> None:
    import perceiver

    config = yaml.safe_load((staged / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["site_name"] == f"perceiver-io {perceiver.__version__}"


def test_the_reference_has_every_public_name(staged: Path) -> None:
    listed = (ROOT / "tests" / "contract" / "public_names.txt").read_text(encoding="utf-8")
    entries = [
        entry
        for page in (staged / "docs" / "api").glob("*.md")
        for entry in re.findall(r"^::: (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert len(entries) == len(set(entries)) == sum(line.startswith(" ") for line in listed.splitlines())
    for entry in entries:
        module, name = entry.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name)


PAGES = {"README.md": "index.md", "docs/data.md": "data.md", "benchmarks/results/x.md": "benchmarks/results/x.md"}


@pytest.mark.parametrize(
    "source, text, expected",
    [
        ("README.md", "[a](docs/data.md#b) ![c](docs/images/house.png)", "[a](data.md#b) ![c](images/house.png)"),
        ("docs/data.md", "[a](../README.md) [b](#c)", "[a](index.md) [b](#c)"),
        ("docs/data.md", "[a](https://x.y/z) [`m`](mailto:a@b.c)", "[a](https://x.y/z) [`m`](mailto:a@b.c)"),
        ("docs/data.md", "see [`perceiver/`](../perceiver), ", "see `perceiver/`, "),
        ("benchmarks/results/x.md", "[a](../../docs/data.md)", "[a](../../data.md)"),
        ("README.md", "[![pic](docs/images/house.png)](LICENSE)", "![pic](images/house.png)"),
        ("README.md", "```md\n[a](nothing.md)\n```\n[a](docs/data.md)", "```md\n[a](nothing.md)\n```\n[a](data.md)"),
    ],
)
def test_links_fit_the_site(source: str, text: str, expected: str) -> None:
    assert site.relink(text, source, PAGES, None) == expected


def test_files_are_shown_by_the_repository() -> None:
    assert site.relink("[a](../LICENSE)", "docs/data.md", PAGES, "https://h/o/n/blob/v1") == (
        "[a](https://h/o/n/blob/v1/LICENSE)"
    )


def test_a_broken_link() -> None:
    with pytest.raises(site.Problem, match=r"docs/data\.md: there is no nothing\.md"):
        site.relink("[a](nothing.md)", "docs/data.md", PAGES, None)


def test_the_playground_has_models_or_says_that_it_has_none(staged: Path, tmp_path: Path) -> None:
    page = staged / "docs" / "playground.md"
    assert (
        "*This build of the site has no models.*" in page.read_text("utf-8") and site.PLAYGROUND not in page.read_text()
    )
    source = (ROOT / "docs" / "playground.md").read_text("utf-8")
    page.write_text(source, "utf-8")
    (made := tmp_path / "made").mkdir()
    with pytest.raises(site.Problem, match=r"made has no models\.json: it is not what docs/build_playground\.py makes"):
        site.stage_playground(made)
    (made / "models.json").write_text("{}")
    site.stage_playground(made)
    assert (staged / "docs" / "playground" / "models.json").is_file()
    assert f'{site.PLAYGROUND}<script type="module" src="playground/playground.js">' in page.read_text("utf-8")


def test_what_is_no_playground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("docs/build_playground.py")
    monkeypatch.setattr(module, "PLAYGROUND", tmp_path)
    with pytest.raises(module.Problem, match="there is no model: give --clm or --mlm"):
        module.build(None, None, None)
    (archive := tmp_path / "a.tgz").write_bytes(b"no archive")
    with pytest.raises(module.Problem, match=r"a\.tgz is no package onnxruntime-web@1\."):
        module.write_runtime(archive)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(module.Problem, match="there is no npm to fetch onnxruntime-web"):
        module.fetch_runtime(tmp_path)
    with pytest.raises(module.Problem, match=r"--clm: .*none"):
        module.load(str(tmp_path / "none"), "clm")
    config = clm.CausalLanguageModelConfig(
        vocab_size=37, max_seq_len=8, max_latents=4, num_channels=8, num_heads=2, num_self_attention_layers=1
    )
    clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).save_pretrained(tmp_path / "words")
    with pytest.raises(module.Problem, match="--clm: a vocabulary of 37 is not that of bytes, 262"):
        module.load(str(tmp_path / "words"), "clm")


def test_a_page_without_a_section(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = site.sources()
    monkeypatch.setattr(site, "sources", lambda: {**pages, "SECURITY.md": "other.md"})
    with pytest.raises(site.Problem, match=r"has no section for other\.md"):
        site.stage()


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.html", '<script async src="https://x.y/z.js"></script>'),
        ("a.html", "<img alt=x src=//x.y/z.png>"),
        ("a.html", '<link rel="stylesheet" href="http://x.y/z.css">'),
        ("a.css", "@font-face { src: url(https://x.y/z.woff) }"),
        ("a.css", "@import url('//x.y/z.css')"),
    ],
)
def test_a_page_that_loads_from_another_host(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<a href="https://x.y">x</a><script src="/a.js"></script>')
    site.check_loads_nothing_from_elsewhere(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(site.Problem, match=rf"{name} loads from another host: .*//x\.y"):
        site.check_loads_nothing_from_elsewhere(tmp_path)


def test_llms_txt(staged: Path) -> None:
    config = yaml.safe_load((staged / "mkdocs.yml").read_text(encoding="utf-8"))
    site.write_llms_txt(staged / "docs", staged / "site", config)
    text = (staged / "site" / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith(f"# {config['site_name']}\n\n> Perceiver, Perceiver IO and Perceiver AR for PyTorch")
    assert [line for line in text.splitlines() if line.startswith("## ")][:3] == [
        "## Start",
        "## Tasks",
        "## Building your own",
    ]
    pages = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", text, flags=re.MULTILINE)
    listed = site.pages_of(config["nav"])
    assert pages == [re.sub(r"^(api/.+)\.md$", r"\1/", page) for page in listed]
    copied = set(pages) & set(listed)
    assert len(copied) > 30
    for page in copied:
        assert (staged / "site" / page).read_text("utf-8") == (staged / "docs" / page).read_text("utf-8")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("# A\n\nFirst\n[one](a.md). Second.\n\nThird.\n", ("A", "First one.")),
        ("# A\n\n```python\n1\n```\n", ("A", "")),
        ("# A\n", ("A", "")),
    ],
)
def test_title_and_first_sentence(text: str, expected: tuple[str, str]) -> None:
    assert site.summary(text) == expected


# --- breaking changes ---


OLD = '''
class A:
    """A."""

    def f(self, x: int, y: int = 1) -> int:
        """F."""

    def g(self) -> None:
        """G."""

def h(x: int = 1) -> int:
    """H."""

def not_public(x): ...
'''


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., None]:
    """Commits a package with the code and version given, and tags it."""

    def git(*arguments: str) -> None:
        identity = "-c", "user.name=x", "-c", "user.email=x@y.z"
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def commit(code: str, version: str, tag: str | None = None) -> None:
        (tmp_path / "perceiver").mkdir(exist_ok=True)
        (tmp_path / "perceiver" / "__init__.py").write_text(f'__version__ = "{version}"\n')
        (tmp_path / "perceiver" / "backend.py").write_text(code)
        facade = (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from perceiver.backend import A as A, h as h\n"
        )
        (tmp_path / "perceiver" / "facade.py").write_text(facade)
        (tmp_path / "tests" / "contract").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / "contract" / "public_names.txt").write_text("perceiver.facade\n    A\n    h\n")
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "-m", "x")
        if tag:
            git("tag", tag)

    git("init", "--quiet")
    return commit


needs_griffe = pytest.mark.skipif(sys.version_info < (3, 11), reason="griffe needs Python 3.11")


@needs_griffe
def test_an_api_that_stays(repository: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = load(".ci/api.py")
    repository(OLD, "1.0.0")
    assert api.check(tmp_path) == 0
    assert "no release yet" in capsys.readouterr().out
    repository(OLD, "1.1.0", "v1.1.0")
    repository(OLD, "1.2.0rc1", "v1.2.0rc1")  # no release
    added = OLD.replace("y: int = 1", "y: int = 1, z: int = 2").replace("def not_public(x)", "def not_public(y)")
    repository(added.replace("h(x: int = 1)", "h(x: int = 3)"), "1.2.0.dev0")
    assert api.check(tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "changed   perceiver.facade.h(x): Parameter default was changed: 1 -> 3",
        "2 names of v1.1.0: 0 breaking changes, 1 others",
    ]


@needs_griffe
@pytest.mark.parametrize(
    "old, new, line",
    [
        ("def h", "def i", "facade.h: it is gone"),
        ("def g", "def _g", "facade.A.g: Public object was removed"),
        ("self, x: int, y", "self, y", "facade.A.f(x): Parameter was removed"),
        ("h(x: int = 1)", "h(x: int)", "facade.h(x): Parameter is now required"),
        ("h(x: int = 1)", "h(*, x: int = 1)", "facade.h(x): Parameter kind was changed"),
    ],
)
def test_an_api_that_breaks(
    old: str, new: str, line: str, repository: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = load(".ci/api.py")
    repository(OLD, "1.0.0", "v1.0.0")
    repository(OLD.replace(old, new), "1.1.0.dev0")
    assert api.check(tmp_path) == 1
    output = capsys.readouterr().out
    assert f"BROKEN    perceiver.{line}" in output and "a version 1.x may not break the API of v1.0.0" in output
    repository(OLD.replace(old, new), "2.0.0.dev0")  # a major version may
    assert api.check(tmp_path) == 0
    assert f"BROKEN    perceiver.{line}" in capsys.readouterr().out


@needs_griffe
def test_the_reference_sees_every_public_name_without_an_import() -> None:
    import griffe

    api = load(".ci/api.py")
    package = griffe.load("perceiver", search_paths=[ROOT], try_relative_path=False)
    names = list(api.public_names((ROOT / api.NAMES).read_text(encoding="utf-8")))
    assert len(names) > 150 and [name for name in names if api.find(package, name) is None] == []
