"""The local page in a real browser, headless Chromium: clicks through every playground, and what it shows.

Pictures of the page are kept in $PERCEIVER_SCREENSHOTS, if that is set. Needs the Debian packages chromium and
chromium-driver, and selenium.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from perceiver.app.server import AppServer
from perceiver.tasks import TASKS
from tests.app.test_server import MIDI, png

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="there is no Chromium: apt-get install chromium chromium-driver"
    ),
]
SECONDS = 60


@pytest.fixture(scope="module")
def browser(server: AppServer) -> Iterator[Any]:
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,1100"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(str(DRIVER)))
    try:
        driver.get(server.url)
        yield driver
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == [], "errors in the browser's console"
    finally:
        driver.quit()


def wait(browser: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SECONDS, poll_frequency=0.05).until(condition)


def choose(browser: Any, task: str) -> None:
    (button,) = wait(browser, lambda b: [e for e in all_of(b, "nav button") if e.text == TASKS[task].title])
    button.click()


def all_of(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def give(browser: Any, **values: str) -> None:
    for name, value in values.items():
        (element,) = all_of(browser, f"[name={name}]")
        if element.get_attribute("type") == "range":
            (element,) = all_of(browser, f"[name={name}] ~ input[type=number]")
        if element.get_attribute("type") != "file":
            element.clear()
        element.send_keys(value)


def run(browser: Any, name: str, expected: str = "done") -> None:
    browser.find_element("id", "run").click()
    wait(browser, lambda b: state(b) == expected)
    picture(browser, name)


def state(browser: Any) -> Any:
    return browser.execute_script("return document.body.dataset.state")


def picture(browser: Any, name: str) -> None:
    if folder := os.environ.get("PERCEIVER_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def bars(browser: Any) -> list[tuple[str, float]]:
    rows = [row.find_elements("css selector", "b, span") for row in all_of(browser, ".bar")]
    return [(label.get_property("textContent"), float(value.text)) for label, value in rows]


def test_masks(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "mlm")
    give(browser, text="one <mask>wo three", top_k="4")
    run(browser, "mlm")
    expected = pipeline("fill-mask", model=folders["mlm"])("one [MASK]wo three", top_k=4)
    assert [label for label, _ in bars(browser)] == [filling["token_str"] for filling in expected]
    assert [p for _, p in bars(browser)] == pytest.approx([filling["score"] for filling in expected], abs=1e-4)
    assert "What it looks at" in [e.text for e in all_of(browser, "h2")]


def test_classes(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "text-classifier")
    give(browser, text="such a film")
    run(browser, "text-classifier")
    expected = pipeline("text-classification", model=folders["text-classifier"])("such a film", top_k=None)
    assert [label for label, _ in bars(browser)] == [result["label"] for result in expected]
    assert [p for _, p in bars(browser)] == pytest.approx([result["score"] for result in expected], abs=1e-4)


def test_entities(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "token-classifier")
    give(browser, text="Ada in Rome")
    run(browser, "token-classifier")
    expected = pipeline("token-classification", model=folders["token-classifier"])(
        "Ada in Rome", aggregation_strategy="simple"
    )
    shown = all_of(browser, ".text")[0].text
    assert all(f"[{entity['entity_group']}]" in shown for entity in expected)
    assert all_of(browser, "h2")[0].text == f"{len(expected)} entities"


def test_continuation(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "clm")
    give(browser, text="once upon", num_tokens="12", temperature="0")
    run(browser, "clm")
    (expected,) = pipeline("text-generation", model=folders["clm"])(
        "once upon", max_new_tokens=12, do_sample=False, return_full_text=False
    )
    shown = browser.find_element("id", "stream").get_property("textContent")
    assert shown and shown == expected["generated_text"].rstrip("\ufffd")
    assert "12 tokens, " in browser.find_element("id", "outputs").text


def test_a_continuation_can_be_stopped(browser: Any) -> None:
    choose(browser, "clm")
    give(browser, text="once upon", num_tokens="2048")
    browser.find_element("id", "run").click()
    wait(browser, lambda b: all_of(b, "#stream"))
    browser.find_element("id", "stop").click()
    wait(browser, lambda b: state(b) == "stopped")
    assert all_of(browser, ".note")[-1].text == "stopped"
    give(browser, num_tokens="3")
    run(browser, "clm-after-stop")  # the model is free again
    assert "3 tokens, " in browser.find_element("id", "outputs").text


def test_image(browser: Any, folders: dict[str, str], tmp_path: Path) -> None:
    (file := tmp_path / "image.png").write_bytes(png((8, 8)))
    choose(browser, "image-classifier")
    give(browser, image=str(file))
    run(browser, "image-classifier")
    expected = pipeline("image-classification", model=folders["image-classifier"])(str(file), top_k=3)
    assert [label for label, _ in bars(browser)] == [result["label"] for result in expected]
    assert [p for _, p in bars(browser)] == pytest.approx([result["score"] for result in expected], abs=1e-4)
    assert [image.get_property("naturalWidth") for image in all_of(browser, ".over img")] == [320, 320]


def test_a_broken_upload_gives_a_message(browser: Any, tmp_path: Path) -> None:
    (file := tmp_path / "broken.png").write_bytes(b"no image")
    choose(browser, "image-classifier")
    give(browser, image=str(file))
    run(browser, "broken-upload")
    (message,) = all_of(browser, ".error")
    assert message.text == "Image: the file is no image that can be read"


def test_optical_flow(browser: Any, tmp_path: Path) -> None:
    files = [tmp_path / "first.png", tmp_path / "second.png"]
    for seed, file in enumerate(files):
        file.write_bytes(png((7, 9), seed))
    choose(browser, "optical-flow")
    give(browser, first=str(files[0]), second=str(files[1]))
    run(browser, "optical-flow")
    sizes = [(e.get_property("naturalWidth"), e.get_property("naturalHeight")) for e in all_of(browser, "main img")]
    assert sizes == [(9, 7)] * 3
    (slider,) = all_of(browser, "main input[type=range]")
    browser.execute_script("arguments[0].value = 0.25; arguments[0].oninput()", slider)
    assert all_of(browser, ".over img")[1].value_of_css_property("opacity") == "0.25"


def test_music(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "symbolic-audio")
    give(browser, midi=str(MIDI), prompt="40", num_tokens="50", temperature="0")
    run(browser, "symbolic-audio")
    generate = pipeline("symbolic-audio-generation", model=folders["symbolic-audio"])
    notes = generate(str(MIDI), max_prompt_length=40, max_new_tokens=50)["generated_audio_midi"].instruments[0].notes
    assert len(all_of(browser, "svg rect")) == len(notes) + 1  # and the line where the continuation begins
    assert all_of(browser, "h2")[0].text.startswith(f"{len(notes)} notes, ")
    (audio,) = all_of(browser, "audio")
    assert wait(browser, lambda b: audio.get_property("duration")) > 0.1
