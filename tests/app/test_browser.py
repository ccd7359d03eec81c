"""The local page in a real browser, headless Chromium: clicks through every playground, and what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, pipeline

from perceiver.app.clips import read_clip
from perceiver.app.server import AppServer
from perceiver.tasks import TASKS
from tests.app.chromium import all_of, chromium, needs_chromium, picture, wait
from tests.app.test_server import MIDI, png
from tests.clips import write_clip

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def browser(server: AppServer) -> Iterator[Any]:
    with chromium(server.url) as driver:
        yield driver


def choose(browser: Any, task: str) -> None:
    (button,) = wait(browser, lambda b: [e for e in all_of(b, "nav button") if e.text == TASKS[task].title])
    button.click()


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
    assert sizes == [(9, 7)] * 3 + [(477, 371)]  # frames, flow, arrows
    (slider,) = all_of(browser, "main input[type=range]")
    browser.execute_script("arguments[0].value = 0.25; arguments[0].oninput()", slider)
    assert all_of(browser, ".over img")[1].value_of_css_property("opacity") == "0.25"


def test_a_clip(browser: Any, folders: dict[str, str], tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8) for i in range(2)]
    write_clip(tmp_path / "a.mkv", frames, 10, np.sin(np.arange(1600) / 40), 8000)
    choose(browser, "multimodal-autoencoder")
    give(browser, clip=str(tmp_path / "a.mkv"), top_k="3")
    run(browser, "multimodal-autoencoder")
    video, rate, sound = read_clip(tmp_path / "a.mkv", (2, 4, 6, 3), 12)
    assert sound is not None and rate == 10
    with torch.no_grad():
        model = AutoModel.from_pretrained(folders["multimodal-autoencoder"])
        expected = model(torch.from_numpy(video)[None], torch.from_numpy(sound)[None]).logits.softmax(dim=-1)
    assert [p for _, p in bars(browser)] == pytest.approx(sorted(expected[0].tolist(), reverse=True), abs=1e-4)
    before = [image.get_property("src") for image in all_of(browser, "figure img")]
    (slider,) = all_of(browser, "main input[type=range]")
    browser.execute_script("arguments[0].value = 1; arguments[0].oninput()", slider)
    after = [image.get_property("src") for image in all_of(browser, "figure img")]
    assert len(set(before + after)) == 4 and len(all_of(browser, "audio")) == 2


def test_music(browser: Any, folders: dict[str, str]) -> None:
    choose(browser, "symbolic-audio")
    give(browser, midi=str(MIDI), prompt="40", num_tokens="50", temperature="0")
    run(browser, "symbolic-audio")
    generate = pipeline("symbolic-audio-generation", model=folders["symbolic-audio"])
    notes = generate(str(MIDI), max_prompt_length=40, max_new_tokens=50)["generated_audio_midi"].instruments[0].notes
    assert (
        len(all_of(browser, "svg:first-of-type rect")) == len(notes) + 1
    )  # and the line where the continuation begins
    assert all_of(browser, "h2")[0].text.startswith(f"{len(notes)} notes, ")
    (audio,) = all_of(browser, "audio")
    assert wait(browser, lambda b: audio.get_property("duration")) > 0.1
