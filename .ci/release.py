"""What must hold before a version is tagged: `make release`. It changes nothing but dist/, and says what to do next.

Checked are: a version that is none of development, a clean tree, no tag of that name elsewhere, a section of
CHANGELOG.md, all that CI checks, docs where there is a way to build them, an sdist and a wheel that PyPI takes, and the
wheel itself, in a fresh environment for each extra and without one, with the first program of the README in that of
`text`.

    python .ci/release.py --tag v1.0.0 [--notes FILE]    only: is this the tag of the version; its section into FILE
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a user of an extra imports first.
PROGRAMS = {
    "": "from perceiver.model.text.mlm import MaskedLanguageModel, perceiver_io_language_base",
    "app": "from perceiver.app.playground import open_playground\nimport perceiver.app.server",
    "hf": "from perceiver.model.text.mlm import PerceiverMaskedLanguageModel, convert_model",
    "lightning": "from perceiver.model.text.mlm import LitMaskedLanguageModel",
    "text": "from perceiver.data.text import WikiTextDataModule",
    "vision": "from perceiver.data.vision import MNISTDataModule\nimport perceiver.processing.video",
    "audio": "from perceiver.data.audio import MaestroV3DataModule\nfrom perceiver.processing.midi import encode_midi",
    "multimodal": "from perceiver.model.multimodal.autoencoder import LitMultimodalAutoencoder",
    "quantization": "from torchao.quantization import Int8WeightOnlyConfig",
}
# Headings that a version's section has: what a user of the version before must do, and what was tested on what.
HEADINGS = ("### Upgrade", "### Tested")


class Problem(Exception):
    """Why this is no release."""


def version() -> str:
    text = (ROOT / "perceiver" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise Problem("perceiver/__init__.py has no line __version__ = ...")
    return found[1]


def release_notes(changelog: str, version: str) -> str:
    """The section of a version, which is the first one: nothing is left that belongs to none."""
    first, _, rest = changelog.partition("\n## ")[2].partition("\n")
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", first):
        raise Problem(f"the first section of CHANGELOG.md is {first!r}, expected '{version} (YEAR-MONTH-DAY)'")
    section = rest.partition("\n## ")[0]
    if missing := [heading for heading in HEADINGS if f"\n{heading}" not in section]:
        raise Problem(f"section {version} of CHANGELOG.md has no {' and no '.join(missing)}")
    return section.strip() + "\n"


def check_version(version: str) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version):
        raise Problem(f"__version__ is {version!r}, a release is called MAJOR.MINOR.PATCH or MAJOR.MINOR.PATCHrcN")


def check_repository(version: str) -> None:
    if changes := output("git", "status", "--porcelain"):
        raise Problem(f"the tree is not clean:\n{changes}")
    tag = output("git", "tag", "--list", "--format=%(objectname) %(*objectname)", f"v{version}")
    if tag and output("git", "rev-parse", "HEAD") not in tag:
        raise Problem(f"there is a tag v{version} already, of another commit")


def output(*command: str | Path) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    print("$", *command, flush=True)
    if subprocess.run(command, cwd=cwd).returncode:
        raise Problem(f"failed: {' '.join(map(str, command))}")


def environment(folder: Path, *packages: str) -> Path:
    """Makes one and returns its interpreter."""
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
    return folder / "bin" / "python"


def build(scratch: Path) -> Path:
    """The wheel, in dist/ beside the sdist that it is built from."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    python = environment(scratch / "tools", "build", "twine")
    run(python, "-m", "build", ROOT, "--outdir", ROOT / "dist")
    run(python, "-m", "twine", "check", "--strict", *sorted((ROOT / "dist").iterdir()))
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


def check_wheel(wheel: Path, extra: str, scratch: Path) -> None:
    """Away from the sources, so that the installed package is the imported one."""
    folder = scratch / (extra or "alone")
    pins = "--constraint", str(ROOT / "constraints.txt")
    python = environment(folder, *pins, f"{wheel}[{extra}]" if extra else str(wheel))
    run(python, "-m", "pip", "check")
    run(folder / "bin" / "perceiver", "env", cwd=folder)
    run(python, "-c", PROGRAMS[extra], cwd=folder)
    if extra == "text":
        program = folder / "readme.py"
        program.write_text(first_program((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
        run(python, program, cwd=folder)
    shutil.rmtree(folder)


def first_program(readme: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise Problem("README.md shows no program")
    return found[1]


def has_target(name: str) -> bool:
    return f"\n{name}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def release() -> None:
    number = version()
    check_version(number)
    check_repository(number)
    release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), number)
    run("make", "check")
    if has_target("docs"):
        run("make", "docs")
    with tempfile.TemporaryDirectory(prefix="perceiver-release-") as scratch:
        wheel = build(Path(scratch))
        for extra in PROGRAMS:
            check_wheel(wheel, extra, Path(scratch))
    print(f"\nReady. To release:\n  git tag -a v{number} -m 'Version {number}'\n  git push origin v{number}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a version before it is released.")
    parser.add_argument("--tag", help="only check that this is the tag of the version that the tree holds")
    parser.add_argument("--notes", type=Path, help="with --tag: file that gets the version's section of CHANGELOG.md")
    arguments = parser.parse_args()
    try:
        if arguments.tag is None:
            release()
            return 0
        number = version()
        check_version(number)
        if arguments.tag != f"v{number}":
            raise Problem(f"the tag is {arguments.tag}, the version {number}")
        notes = release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), number)
        if arguments.notes is not None:
            arguments.notes.write_text(notes, encoding="utf-8")
    except Problem as problem:
        print(f"no release: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
