"""The site's playground in headless Chromium: what it shows is what the pipelines say.

ONNX Runtime Web comes from npm, or is the file that $ONNXRUNTIME_WEB names.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from perceiver.model.text import clm
from tests.app.chromium import all_of, chromium, needs_chromium, picture, wait
from tests.test_site import load

PROMPT, MASKED = "a prompt with more bytes than latents", "a_c d_f"  # 36 and 32


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def folder(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal model that predicts letters and spaces alone."""
    path = str(tmp_path_factory.mktemp("letters"))
    model = AutoModelForCausalLM.from_pretrained(folders["clm"])
    letters = torch.tensor([32, *range(97, 123)]) + 6
    bias = torch.full((262,), -1e4)
    bias[letters] = 0
    with torch.no_grad():
        model.backend_model.output_adapter.bias.copy_(bias)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(folders["clm"]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def site(folder: str, folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of two pages: int8/ as built, and float32/ with the weights as they are."""
    root = tmp_path_factory.mktemp("site")
    module = load("docs/build_playground.py")
    archive = os.environ.get("ONNXRUNTIME_WEB")
    try:
        runtime = Path(archive) if archive else module.fetch_runtime(root)
    except module.Problem as problem:
        pytest.skip(str(problem))
    quantize, plain = module.quantize, root / "float32"
    plain.mkdir()

    def quantize_and_keep(source: Path, target: Path) -> None:
        onnx.save(onnx.load(source), plain / target.name)
        quantize(source, target)

    module.PLAYGROUND, module.quantize = root / "int8", quantize_and_keep
    path = list(sys.path)
    module.build(folder, folders["mlm"], runtime)
    sys.path[:] = path
    for file in module.PLAYGROUND.iterdir():
        if not (plain / file.name).exists():
            shutil.copy(file, plain)
    for page in (plain, module.PLAYGROUND):
        tags = '<link rel="icon" href="data:,"><link rel="stylesheet" href="playground.css"><div id="play"></div>'
        (page / "index.html").write_text(f'<!doctype html>{tags}<script type="module" src="playground.js"></script>')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=["float32", "int8"])
def browser(request: pytest.FixtureRequest, site: str) -> Iterator[Any]:
    with chromium(f"{site}{request.param}/") as driver:
        driver.precision = request.param
        yield driver


def give(browser: Any, form: str, text: str, **numbers: float) -> None:
    wait(browser, lambda b: all_of(b, f"#{form} textarea"))
    (area,) = all_of(browser, f"#{form} textarea")
    area.clear()
    area.send_keys(text)
    for name, number in numbers.items():
        (slider,) = all_of(browser, f"#{form} [name={name}]")
        browser.execute_script("arguments[0].value = arguments[1]; arguments[0].oninput()", slider, number)


def run(browser: Any, form: str, expected: str = "done") -> None:
    (button,) = all_of(browser, f"#{form} [type=submit]")
    button.click()
    ended(browser, form, expected)
    picture(browser, f"playground-{form}-{expected}-{browser.precision}")


def ended(browser: Any, form: str, expected: str = "done") -> None:
    (element,) = all_of(browser, f"#{form}")
    wait(browser, lambda b: element.get_attribute("data-state") not in (None, "running"))
    assert element.get_attribute("data-state") == expected, all_of(browser, f"#{form} .status")[0].text


def text(browser: Any, form: str) -> str:
    return str(all_of(browser, f"#{form} .text")[0].get_property("textContent"))


def probabilities(browser: Any, form: str) -> list[float]:
    return [float(element.text) for element in all_of(browser, f"#{form} .bars span")]


pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript.*"),
    pytest.mark.filterwarnings("ignore:.*The axis name.*will not be used:UserWarning"),  # the exporter's own
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def test_continuation(browser: Any, folder: str) -> None:
    give(browser, "clm", PROMPT, temperature=0, count=100)  # leaves all windows
    run(browser, "clm")
    model = clm.PerceiverCausalLanguageModel.from_pretrained(folder)
    ids = torch.tensor([[byte + 6 for byte in PROMPT.encode()]])
    output = model.generate(
        ids, max_new_tokens=100, num_latents=32, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    new = [int(token) for token in output.sequences[0, ids.shape[1] :]]
    assert re.match(r"100 bytes, \d+ per second, the first one after ", all_of(browser, "#clm .status")[0].text)
    marks = all_of(browser, "#clm .text span")
    assert len(marks) == 100 and text(browser, "clm").startswith(PROMPT)
    marks[0].click()
    expected = output.scores[0][0].softmax(dim=0)
    if browser.precision == "float32":
        assert text(browser, "clm") == PROMPT + bytes(token - 6 for token in new).decode()
        titles = [float(mark.get_attribute("title").rpartition(" ")[2]) for mark in marks]
        chosen = [float(s[0].softmax(dim=0)[token]) for s, token in zip(output.scores, new, strict=True)]
        assert titles == pytest.approx(chosen, abs=2e-4)
        assert probabilities(browser, "clm") == pytest.approx(expected.topk(8).values.tolist(), abs=2e-4)
    else:
        assert probabilities(browser, "clm") == pytest.approx(expected.topk(8).values.tolist(), abs=0.03)


def test_another_character_can_be_chosen(browser: Any) -> None:
    give(browser, "clm", PROMPT, temperature=0, count=50)
    run(browser, "clm")
    before = text(browser, "clm")
    all_of(browser, "#clm .text span")[3].click()
    other = all_of(browser, "#clm .bars button")[2]
    name = other.text.replace("␣", " ")
    other.click()
    wait(browser, lambda b: text(b, "clm")[: len(PROMPT) + 4] == before[: len(PROMPT) + 3] + name)
    ended(browser, "clm")
    assert len(text(browser, "clm")) == len(PROMPT) + 54


def test_a_continuation_can_be_stopped(browser: Any) -> None:
    (slider,) = wait(browser, lambda b: all_of(b, "#clm [name=count]"))
    browser.execute_script("arguments[0].max = 50000", slider)
    give(browser, "clm", PROMPT, temperature=1, count=50_000)
    all_of(browser, "#clm [type=submit]")[0].click()
    all_of(browser, "#clm button.act")[1].click()
    ended(browser, "clm")
    assert len(PROMPT) < len(text(browser, "clm")) < 50_000


def test_masks(browser: Any, folders: dict[str, str]) -> None:
    give(browser, "mlm", MASKED)
    run(browser, "mlm")
    fill_mask = pipeline("fill-mask", model=folders["mlm"])
    expected = fill_mask(MASKED.replace("_", "[MASK]"), top_k=8, tokenizer_kwargs={"add_special_tokens": False})
    tolerance = 1e-4 if browser.precision == "float32" else 0.03
    for mark, fillings in zip(all_of(browser, "#mlm .text span"), expected, strict=True):
        mark.click()
        scores = [filling["score"] for filling in fillings]
        assert probabilities(browser, "mlm") == pytest.approx(scores, abs=tolerance)


@pytest.mark.parametrize(
    "form, given, message",
    [
        ("clm", "", "give a text to continue"),
        ("mlm", "abc", "write _ where a character is missing"),
        ("mlm", "_" * 49, "49 bytes are more than the 48 of the model"),
    ],
)
def test_errors_appear_in_the_page(browser: Any, form: str, given: str, message: str) -> None:
    give(browser, form, given)
    run(browser, form, "failed")
    assert all_of(browser, f"#{form} .status")[0].text == message
