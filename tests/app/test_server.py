"""The server of the local page: outputs equal the pipelines', errors are outputs, and who may ask."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

from perceiver.app.playground import PLAYGROUNDS, Field, open_playground, with_progress
from perceiver.app.server import PAGE, AppServer, main
from perceiver.processing.midi import decode_midi
from perceiver.scripts import main as command
from perceiver.tasks import TASKS

INDEX = {task: index for index, task in enumerate(PLAYGROUNDS)}
MIDI = Path(__file__).parent.parent / "golden" / "midi" / "plain.mid"


def request(
    server: AppServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.headers), content


def run(server: AppServer, task: str, **values: Any) -> list[dict[str, Any]]:
    body = json.dumps(values).encode()
    status, _, content = request(server, "POST", f"/run/{INDEX[task]}", body, Content_Type="application/json")
    assert status == 200
    *outputs, end = [json.loads(line) for line in content.splitlines()]
    assert end == {"kind": "end"}
    return outputs


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def png(shape: tuple[int, int], seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_models_are_described(server: AppServer, folders: dict[str, str]) -> None:
    _, _, content = request(server, "GET", "/models")
    models = json.loads(content)
    assert [model["title"] for model in models] == [TASKS[task].title for task in PLAYGROUNDS]
    assert [model["folder"] for model in models] == list(folders.values())
    assert [field["name"] for field in models[INDEX["clm"]]["fields"]] == [
        "text",
        "num_tokens",
        "num_latents",
        "temperature",
        "top_k",
    ]


def test_masks_are_filled_as_by_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    *bars, looked_at = run(server, "mlm", text="a <mask>b<mask>.", top_k=3)
    expected = pipeline("fill-mask", model=folders["mlm"])("a [MASK]b[MASK].", top_k=3)
    for output, fillings in zip(bars, expected, strict=True):
        assert [row[0] for row in output["rows"]] == [filling["token_str"] for filling in fillings]
        assert [row[1] for row in output["rows"]] == pytest.approx([filling["score"] for filling in fillings])
    assert "".join(part[0] for part in looked_at["parts"]) == "[CLS]a [MASK]b[MASK].[SEP]"
    assert max(part[1] for part in looked_at["parts"]) == pytest.approx(1.0)


def test_classes_are_those_of_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    bars, _ = run(server, "text-classifier", text="lovely")
    expected = pipeline("text-classification", model=folders["text-classifier"])("lovely", top_k=None)
    assert [row[0] for row in bars["rows"]] == [result["label"] for result in expected]
    assert [row[1] for row in bars["rows"]] == pytest.approx([result["score"] for result in expected])


def test_entities_are_those_of_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    text = "Ada in London"
    entities, _ = run(server, "token-classifier", text=text)
    expected = pipeline("token-classification", model=folders["token-classifier"])(text, aggregation_strategy="simple")
    assert expected and entities["title"] == f"{len(expected)} entities"
    shown = [part[0] for part in entities["parts"] if part[1]]
    assert shown == [f"{text[e['start'] : e['end']]} [{e['entity_group']}]" for e in expected]
    assert re.sub(r" \[LABEL_\d\]", "", "".join(part[0] for part in entities["parts"])) == text


def test_a_continuation_is_that_of_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    values = {"text": "once upon", "num_tokens": 20, "num_latents": 4, "temperature": 0, "top_k": 1}
    prompt, *stream, note = run(server, "clm", **values)
    assert [part[0] for part in prompt["parts"]] == ["once ", "upon"]
    text_generation = pipeline("text-generation", model=folders["clm"])
    (expected,) = text_generation(
        "once upon", max_new_tokens=20, do_sample=False, num_latents=4, return_full_text=False
    )
    text = "".join(output["text"] for output in stream)
    assert text == expected["generated_text"][: len(text)] and len(stream) > 1
    assert expected["generated_text"][len(text) :].strip("\ufffd") == ""  # bytes of a character that is not complete
    assert re.fullmatch(r"20 tokens, [\d.]+ tokens/s", note["text"])


def test_images_are_classified_as_by_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    bars, looked_at = run(server, "image-classifier", image=encoded(png((8, 8))), top_k=3)
    image = PIL.Image.open(io.BytesIO(png((8, 8))))
    expected = pipeline("image-classification", model=folders["image-classifier"])(image, top_k=3)
    assert [row[0] for row in bars["rows"]] == [result["label"] for result in expected]
    assert [row[1] for row in bars["rows"]] == pytest.approx([result["score"] for result in expected])
    before, after = (PIL.Image.open(io.BytesIO(base64.b64decode(u.split(",")[1]))) for u in looked_at["urls"])
    assert before.size == after.size and np.any(np.asarray(before) != np.asarray(after))


def test_flow_is_that_of_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    frames = [png((7, 9), seed) for seed in (0, 1)]
    _, slider, flow = run(server, "optical-flow", first=encoded(frames[0]), second=encoded(frames[1]))
    assert slider["titles"] == ["first frame", "second frame"]
    pair = tuple(np.asarray(PIL.Image.open(io.BytesIO(frame))) for frame in frames)
    expected = pipeline("optical-flow", model=folders["optical-flow"])(pair, render=True)
    shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(flow["url"].split(",")[1]))))
    np.testing.assert_allclose(shown.astype(int), expected.astype(int), atol=1)


def test_a_piece_is_continued_as_by_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    values = {"prompt": 40, "num_tokens": 60, "temperature": 0}
    outputs = run(server, "symbolic-audio", midi=encoded(MIDI.read_bytes()), **values)
    assert outputs[0] == {"kind": "progress", "text": "0 of 60 tokens"}
    (roll,) = [output for output in outputs if output["kind"] == "roll"]
    generate = pipeline("symbolic-audio-generation", model=folders["symbolic-audio"])
    expected = generate(str(MIDI), max_prompt_length=40, max_new_tokens=60)["generated_audio_midi"]
    notes = [(n.start, n.end, n.pitch) for n in expected.instruments[0].notes]
    assert [tuple(note[:3]) for note in roll["notes"]] == notes and len(notes) > 3
    assert outputs[-1]["kind"] == "audio" and outputs[-1]["url"].startswith("data:audio/wav;base64,UklGR")
    assert decode_midi([]).get_end_time() < roll["start"] < roll["seconds"]


@pytest.mark.parametrize(
    "task, values, message",
    [
        ("mlm", {"text": "no mask", "top_k": 3}, "there is no <mask>"),
        ("mlm", {"text": "<mask>", "top_k": 0}, r"Fillings: 0 must be a number in \[1, 20\]"),
        ("mlm", {"text": "<mask>"}, "Fillings: None must be a number"),
        ("mlm", {"text": "", "top_k": 3}, "Text with masks: give a text"),
        ("text-classifier", {"text": "x" * 20_001}, "Text: 20001 characters are more than 20000"),
        ("image-classifier", {"image": "", "top_k": 3}, "Image: choose a file"),
        ("image-classifier", {"image": "?", "top_k": 3}, "Image: the upload is damaged"),
        ("image-classifier", {"image": encoded(b"GIF89a"), "top_k": 3}, "Image: the file is no image"),
        ("image-classifier", {"image": encoded(png((8, 8))[:90]), "top_k": 3}, "Image: the file is no image"),
        ("optical-flow", {"first": encoded(png((4, 9))), "second": encoded(png((4, 9)))}, "at least|smaller"),
        ("symbolic-audio", {"midi": encoded(b"MThd"), "prompt": 9, "num_tokens": 9, "temperature": 0}, "MIDI"),
    ],
)
def test_errors_are_outputs(server: AppServer, task: str, values: dict[str, Any], message: str) -> None:
    *_, last = run(server, task, **values)
    assert last["kind"] == "error"
    assert re.search(message, last["text"]), last["text"]


def test_requests_that_are_refused(server: AppServer) -> None:
    json_type = {"Content_Type": "application/json"}
    cases = [
        (request(server, "GET", "/other"), 404),
        (request(server, "POST", "/run/99", b"{}", **json_type), 404),
        (request(server, "POST", "/run/x", b"{}", **json_type), 404),
        (request(server, "POST", "/run/0", b"{}", Content_Type="text/plain"), 415),  # what a form of any page can send
        (request(server, "POST", "/run/0", b"", Content_Length=str(2**20 + 1), **json_type), 413),
        (request(server, "GET", "/", Host="evil.example:80"), 403),
        (request(server, "POST", "/run/0", b"{}", Host="evil.example:80", **json_type), 403),
    ]
    assert [status for (status, *_), _ in cases] == [expected for _, expected in cases]
    *_, last = run(server, "mlm")
    assert last["kind"] == "error"
    _, _, content = request(server, "POST", "/run/0", b"[1", **json_type)
    assert [json.loads(line)["kind"] for line in content.splitlines()] == ["error", "end"]


def test_the_page_loads_nothing_from_elsewhere(server: AppServer) -> None:
    status, headers, content = request(server, "GET", "/")
    assert status == 200 and content == PAGE.read_bytes()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    addresses = set(re.findall(r"https?://[^\"'\s)]+", content.decode()))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_who_stops_to_read_stops_the_generation(folders: dict[str, str]) -> None:
    playground = open_playground(folders["clm"])
    steps = with_progress(
        lambda **kwargs: playground.model.generate(torch.tensor([[70]]), max_new_tokens=100_000, **kwargs)
    )
    assert next(steps) == [70] and len(next(steps)) == 1
    steps.close()  # type: ignore[attr-defined]  # returns when the thread has ended


def test_field_values() -> None:
    assert Field("n", "N", value=1, low=1, high=5).read({"n": 2.0}) == 2
    assert Field("n", "N", value=1, low=0, high=5, step=0.5).read({"n": 2}) == 2.0
    with pytest.raises(ValueError, match="N: nan must be a number"):
        Field("n", "N").read({"n": float("nan")})


def test_command_line_errors(tmp_path: Path, folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for arguments, message in [
        ([str(tmp_path / "none")], "none"),
        ([str(tmp_path)], "is a model of the type 'bert'. There are pages for: masked language model"),
        ([folders["mlm"], "--host", "nowhere"], "'nowhere' does not appear to be an IPv4 or IPv6 address"),
        ([folders["mlm"], "--port", "70000"], "port must be 0-65535"),
    ]:
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["app", "--help"])
    assert "--max-megabytes" in capsys.readouterr().out
