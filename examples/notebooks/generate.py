"""Writes the notebooks beside this file from their scripts, with what they print and draw: `make notebooks`.

A script is the source, with cells that begin with `# %%`. It runs as it is, and the tests run it.
"""

import argparse
import os
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
KEPT = {"image/png", "text/plain"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__).resolve())
    parser.add_argument("names", nargs="*", default=names, help=f"of {', '.join(names)}; all by default")
    # Progress bars and warnings of this machine are not what a reader wants to see.
    os.environ |= {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "PYTHONPATH": str(FOLDER.parent.parent)}
    for name in parser.parse_args().names:
        notebook = jupytext.read(FOLDER / f"{name}.py")
        with tempfile.TemporaryDirectory() as folder:  # for what the notebook writes
            NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=folder)
        notebook.metadata = {"language_info": {"name": "python"}}
        for number, cell in enumerate(notebook.cells):
            cell.id, cell.metadata = f"cell-{number}", {}
            for output in cell.get("outputs", []):
                if "data" in output:
                    output.data = {kind: data for kind, data in output.data.items() if kind in KEPT}
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        jupytext.write(notebook, FOLDER / f"{name}.ipynb", fmt="ipynb")
        print(f"wrote {FOLDER / name}.ipynb")


if __name__ == "__main__":
    main()
