"""The notebooks: their scripts run, and the notebooks are those of the scripts, with pictures."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent.parent / "examples" / "notebooks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "generate")
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, one thread, and pictures that nobody sees."""
    threads, backend = torch.get_num_threads(), mpl.get_backend()
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    torch.set_num_threads(1)
    yield
    plt.close("all")
    mpl.use(backend)
    torch.set_num_threads(threads)


def cells(script: Path) -> list[str]:
    """Sources of the cells; Markdown without its comment signs."""
    _, *parts = re.split(r"^# %%(.*)\n", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [
        re.sub(r"^# ?", "", text.strip(), flags=re.M) if "markdown" in kind else text.strip() for kind, text in pairs
    ]


@each_script
def test_the_notebook_is_that_of_the_script(script: Path) -> None:
    """If this fails: `make notebooks`."""
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert ["".join(cell["source"]).strip() for cell in notebook["cells"]] == cells(script)
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


def test_there_are_three() -> None:
    assert [script.stem for script in SCRIPTS] == ["build", "inference", "train"]


def test_inference() -> None:
    found = runpy.run_path(str(FOLDER / "inference.py"))
    assert len(found["fillings"]) == 5
    assert found["continued"].shape == (1, 22 + 12)
    assert found["probabilities"].shape == (4, 10)
    np.testing.assert_allclose(found["probabilities"].sum(axis=-1), 1, rtol=1e-5)
    assert found["flow"].shape == (48, 64, 2)
    assert found["result"]["generated_audio_midi"].instruments
    assert found["decoded"].video.shape == (1, 4, 32, 32, 3) and found["decoded"].audio.shape == (1, 256)


def run_shortened(name: str, changes: dict[str, str]) -> dict[str, Any]:
    """Runs a script with changes of its text."""
    source = (FOLDER / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def test_short_build() -> None:
    """A quarter of its training: most of the variance is explained, as the script asserts."""
    found = run_shortened("build.py", {"total_iters=400": "total_iters=100", "range(400)": "range(100)"})
    assert len(found["losses"]) == 100 and found["drawn"].shape == (4, 64 * 64)
    assert 0.5 < found["explained"] < 1


def test_short_train(tmp_path: Path) -> None:
    """A third of its training, at a pace that it would not keep: three times as good as guessing one of ten."""
    changes = {"max_steps=200": "max_steps=60", "lr=2e-3": "lr=5e-3", "init_scale=0.1": "init_scale=0.3"}
    found = run_shortened("train.py", {**changes, "accuracy > 0.8": "accuracy > 0.3"})
    assert len(found["losses"]) == 60 and np.mean(found["losses"][-10:]) < 2.2  # ln(10) = 2.3
    assert found["probabilities"].shape == (12, 10)
    assert (tmp_path / "my-digits" / "preprocessor_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "score", "least"), [("build", "explained", 0.5), ("train", "accuracy", 0.8)])
def test_learned(name: str, score: str, least: float) -> None:
    assert runpy.run_path(str(FOLDER / f"{name}.py"))[score] > least
