"""What changed in the public API since the last release, and whether the version allows it: `make api`.

The API is what tests/contract/public_names.txt of that release lists. Sources are read by griffe, nothing is imported.
Removals, and calls that would no longer work, need a new major version (docs/versioning.md) and are an error without
one. Other values and annotations are told. So are changes that griffe can't judge: they are for the eye.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
NAMES = "tests/contract/public_names.txt"
TOLD = {
    griffe.BreakageKind.ATTRIBUTE_CHANGED_TYPE,
    griffe.BreakageKind.ATTRIBUTE_CHANGED_VALUE,
    griffe.BreakageKind.PARAMETER_CHANGED_DEFAULT,
    griffe.BreakageKind.RETURN_CHANGED_TYPE,
}


def git(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def last_release(repository: Path) -> str | None:
    tags = git("tag", "--list", "v*", "--merged", "HEAD", "--sort=-version:refname", cwd=repository).split()
    return next((tag for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag)), None)


def public_names(listing: str) -> Iterator[str]:
    """Names relative to the package: `model.text.mlm.MaskedLanguageModel`."""
    module = ""
    for line in listing.splitlines():
        if line.startswith(" "):
            yield f"{module}.{line.strip()}".removeprefix("perceiver.")
        else:
            module = line


def find(package: griffe.Object, name: str) -> griffe.Object | griffe.Alias | None:
    try:
        found = package[name]
        return found.final_target if isinstance(found, griffe.Alias) else found
    except (KeyError, griffe.AliasResolutionError):
        return None


def changes(old: griffe.Object, new: griffe.Object, names: list[str]) -> tuple[list[str], list[str]]:
    """What breaks callers of these names, and what is only told."""
    broken, told = [], []
    for name in names:
        before, after = find(old, name), find(new, name)
        if before is None:
            raise ValueError(f"perceiver.{name} is listed as public, but the release does not have it")
        if after is None:
            broken.append(f"perceiver.{name}: it is gone")
            continue
        assert before.parent is not None and after.parent is not None
        for breakage in griffe.find_breaking_changes(before.parent, after.parent):  # it looks at what an object holds
            path = breakage.obj.path
            own = next((own for own in (before.path, after.path) if f"{path}.".startswith(f"{own}.")), None)
            if own is not None:
                explained = re.sub(r"\x1b\[\d+m", "", breakage.explain(griffe.ExplanationStyle.ONE_LINE))
                what = explained.split(": ", 2)[2] if explained.count(": ") > 1 else explained
                argument = re.search(r"\((\w+)\): ", explained)
                line = f"perceiver.{name}{path.removeprefix(own)}{f'({argument[1]})' if argument else ''}: {what}"
                (told if breakage.kind in TOLD else broken).append(line)
    return sorted(set(broken)), sorted(set(told))


def version(repository: Path) -> str:
    text = (repository / "perceiver" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    assert found is not None
    return found[1]


def check(repository: Path) -> int:
    tag = last_release(repository)
    if tag is None:
        print("no release yet (no tag v1.2.3): nothing to compare with")
        return 0
    old = griffe.load_git("perceiver", ref=tag, repo=repository)
    new = griffe.load("perceiver", search_paths=[repository], try_relative_path=False)
    assert isinstance(old, griffe.Module) and isinstance(new, griffe.Module)
    names = list(public_names(git("show", f"{tag}:{NAMES}", cwd=repository)))
    broken, told = changes(old, new, names)
    for line in told:
        print(f"changed   {line}")
    for line in broken:
        print(f"BROKEN    {line}")
    print(f"{len(names)} names of {tag}: {len(broken)} breaking changes, {len(told)} others")
    major = version(repository).split(".")[0]
    if broken and major == tag.removeprefix("v").split(".")[0]:
        print(f"a version {major}.x may not break the API of {tag}: docs/versioning.md says how something goes")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(check(ROOT))
