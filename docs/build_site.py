"""Builds the documentation site: `make docs`, or `make docs-serve` to look at it while you write.

    python docs/build_site.py [--serve] [--repository https://host/owner/name/blob/v1.2.3] [--playground FOLDER]

Pages are those of docs/, the README and the other Markdown files of the repository, in the order of docs/site.yml; the
API reference has every name of tests/contract/public_names.txt. They are copied to build/docs with links that fit the
site, and Zensical makes build/site of them, with llms.txt and the pages' Markdown beside. It is strict: a page that is
in no section, a broken link, an unknown anchor or name, a docstring that doesn't fit its signature, and anything that a
page would load from another host is an error.

`--repository` is where files are shown that are no pages. Without it, links to them are plain text. `--playground` is
what docs/build_playground.py made. Without it, the page docs/playground.md says that it has no models.
"""

import argparse
import base64
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
STAGED, SITE, CONFIG = BUILD / "docs", BUILD / "site", BUILD / "mkdocs.yml"
PUBLIC_NAMES = ROOT / "tests" / "contract" / "public_names.txt"
# What the browser loads by itself, in HTML. Links that a reader follows may lead anywhere.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]*"""
)
# A picture in the text of a link is a link itself.
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
PLAYGROUND = '<div id="play"></div>'  # where docs/playground.md has what it runs


class Problem(Exception):
    """Why there is no site."""


def version() -> str:
    text = (ROOT / "perceiver" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    assert found is not None
    return found[1]


def sources() -> dict[str, str]:
    """Path in the repository -> path in the site, of all pages that are written by hand."""
    pages = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    pages |= {name: name.lower().replace("_", "-") for name in ("CODE_OF_CONDUCT.md", "SECURITY.md")}
    for folder, below in (("docs", ""), ("benchmarks/results", "benchmarks/results/")):
        for path in sorted((ROOT / folder).rglob("*.md")):
            pages[path.relative_to(ROOT).as_posix()] = below + path.relative_to(ROOT / folder).as_posix()
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        pages[path.relative_to(ROOT).as_posix()] = f"notebooks/{path.stem}.md"
    return pages


def relink(text: str, source: str, pages: dict[str, str], repository: str | None) -> str:
    """The text of a page with links that fit the site. Code stays as it is."""

    def link(found: re.Match[str]) -> str:
        label, target = LINK.sub(link, found[1]), found[2]
        if re.match(r"[a-z]+:|#", target):
            return f"[{label}]({target})"
        path, anchor = target.partition("#")[::2]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if source.endswith(".ipynb") and "/" not in target:  # a picture of its own
            return found[0]
        if not (ROOT / path).exists():
            raise Problem(f"{source}: there is no {target}")
        if path in pages or path.startswith("docs/"):  # a page, or a picture of one
            to = posixpath.relpath(pages.get(path, path.removeprefix("docs/")), posixpath.dirname(pages[source]) or ".")
            return f"[{label}]({to}{'#' + anchor if anchor else ''})"
        return f"[{label}]({repository}/{path})" if repository else label

    parts = re.split(r"^(```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def notebook_page(path: Path, folder: Path) -> str:
    """A notebook as Markdown. Its pictures are written into `folder`, beside the page."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{path.stem}-{number}.png"
                (folder / picture).write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f"![what the cell draws]({picture})")
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip("\n") + "\n```")
    return "\n\n".join(parts) + "\n"


def public_names() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    module = ""
    for line in PUBLIC_NAMES.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            names[module].append(line.strip())
        else:
            module = line
            names[module] = []
    return names


def api_page(module: str, names: list[str]) -> str:
    entries = [f"::: {module}.{name}\n    options:\n      heading: {name}\n" for name in names]
    return f"# {module}\n\n" + "\n".join(entries)


def pages_of(nav: Any) -> list[str]:
    """The pages of a navigation, which is a path, or a list or a dictionary of navigations."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(entry)]


def stage_playground(playground: Path | None) -> None:
    """Lets the page docs/playground.md run its models, or say that it has none."""
    page = STAGED / "playground.md"
    if playground is None:
        there = "*This build of the site has no models.*"
    elif not (playground / "models.json").is_file():
        raise Problem(f"{playground} has no models.json: it is not what docs/build_playground.py makes")
    else:
        shutil.copytree(playground, STAGED / "playground")
        there = (
            f'<link rel="stylesheet" href="playground/playground.css">{PLAYGROUND}'
            '<script type="module" src="playground/playground.js"></script>'
        )
    page.write_text(page.read_text(encoding="utf-8").replace(PLAYGROUND, there), encoding="utf-8")


def stage(repository: str | None = None, playground: Path | None = None) -> None:
    """Writes build/docs and build/mkdocs.yml."""
    shutil.rmtree(STAGED, ignore_errors=True)
    pages = sources()
    for source, page in pages.items():
        (STAGED / page).parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".ipynb"):
            text = notebook_page(ROOT / source, (STAGED / page).parent)
        else:
            text = (ROOT / source).read_text(encoding="utf-8")
        (STAGED / page).write_text(relink(text, source, pages, repository), encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "images", STAGED / "images", ignore=shutil.ignore_patterns("*.py"))
    stage_playground(playground)
    (STAGED / "api").mkdir()
    for module, names in public_names().items():
        (STAGED / "api" / f"{module}.md").write_text(api_page(module, names), encoding="utf-8")
    config = yaml.safe_load((ROOT / "docs" / "site.yml").read_text(encoding="utf-8"))
    listed = set(pages_of(config["nav"]))
    results = sorted(page for page in pages.values() if page.startswith("benchmarks/results/"))
    if missing := sorted(set(pages.values()) - listed - set(results)):
        raise Problem(f"docs/site.yml has no section for {', '.join(missing)}")
    if unknown := sorted(listed - set(pages.values())):
        raise Problem(f"docs/site.yml has pages that don't exist: {', '.join(unknown)}")
    config["nav"][-1]["Evidence"].append({"Results": results})
    api = [{re.sub(r"^perceiver\.(model\.)?", "", module): f"api/{module}.md"} for module in public_names()]
    config["nav"].append({"API": api})
    config["site_name"] = f"perceiver-io {version()}"
    config |= {"docs_dir": STAGED.name, "site_dir": SITE.name}
    config["theme"]["custom_dir"] = os.path.relpath(ROOT / "docs" / "theme", BUILD)
    for plugin in config["plugins"]:
        if isinstance(plugin, dict):
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    CONFIG.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def summary(text: str) -> tuple[str, str]:
    """Title and first sentence of a page. The latter is empty if the page does not begin with a paragraph."""
    heading, _, below = text.partition("# ")[2].partition("\n")
    paragraph = " ".join(below.strip().partition("\n\n")[0].split())
    if not paragraph[:1].isalnum():
        return heading, ""
    return heading, LINK.sub(r"\1", re.split(r"(?<=[.:]) (?=[A-Z])", paragraph)[0]).rstrip(":")


def write_llms_txt(staged: Path, site: Path, config: dict[str, Any]) -> None:
    """The site for language models (llmstxt.org): llms.txt lists the pages, whose Markdown lies beside the HTML.

    The reference has no Markdown of its own.
    """
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}"]
    for section in config["nav"]:
        (name,) = section
        lines += ["", f"## {name}", ""]
        for page in pages_of(section):
            heading, sentence = summary((staged / page).read_text(encoding="utf-8"))
            if page.startswith("api/"):
                lines.append(f"- [{heading}]({page.removesuffix('.md')}/)")
                continue
            lines.append(f"- [{heading}]({page}){': ' + sentence if sentence else ''}")
            (site / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(staged / page, site / page)
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in sorted(site.rglob("*.html")):
        if found := LOADED.search(path.read_text(encoding="utf-8")):
            raise Problem(f"{path.relative_to(site)} loads from another host: {found[0]}")
    for path in sorted(site.rglob("*.css")):
        if found := re.search(r"url\([\"']?(?:https?:)?//[^)]*", path.read_text(encoding="utf-8")):
            raise Problem(f"{path.relative_to(site)} loads from another host: {found[0]}")


def zensical(*arguments: str) -> None:
    """Runs it, with what it prints. A docstring that does not fit its signature is a warning of griffe, and fails."""
    command = [str(Path(sys.executable).with_name("zensical")), *arguments, "--config-file", CONFIG.name]
    warnings = []
    with subprocess.Popen(command, cwd=BUILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            warnings += [line] if line.startswith("griffe: ") else []
    if process.returncode or warnings:
        raise Problem("a docstring doesn't fit its signature" if warnings else f"zensical {arguments[0]} failed")


def build(repository: str | None, playground: Path | None) -> None:
    stage(repository, playground)
    zensical("build", "--clean", "--strict")
    check_loads_nothing_from_elsewhere(SITE)
    write_llms_txt(STAGED, SITE, yaml.safe_load(CONFIG.read_text(encoding="utf-8")))
    without = "" if playground else ", without models in its playground: `make playground` makes them"
    print(f"built {SITE / 'index.html'}{without}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the documentation site in build/site.")
    parser.add_argument("--serve", action="store_true", help="show the site at http://localhost:8000 instead")
    parser.add_argument("--repository", metavar="URL", help="where files that are no pages are shown")
    parser.add_argument("--playground", metavar="FOLDER", type=Path, help="what docs/build_playground.py made")
    arguments = parser.parse_args()
    try:
        if arguments.serve:
            stage(arguments.repository, arguments.playground)
            zensical("serve")
        else:
            build(arguments.repository, arguments.playground)
    except Problem as problem:
        print(f"no site: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
