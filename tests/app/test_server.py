"""The server of the local page: outputs equal the pipelines', errors are outputs, and who may ask."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModel, pipeline

from perceiver.app.clips import read_clip
from perceiver.app.music import looked_at as notes_looked_at
from perceiver.app.playground import PLAYGROUNDS, Field, open_playground, with_progress
from perceiver.app.server import PAGE, AppServer, main
from perceiver.app.vision import with_arrows
from perceiver.processing.midi import NOTE_OFF, TIME_SHIFT, VELOCITY, decode_midi
from perceiver.processing.video import read_video_frame_pairs, write_video
from perceiver.scripts import main as command
from perceiver.tasks import TASKS
from tests.clips import write_clip

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


def pixels(url: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).astype(int)


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
    prompt, *stream, note, looked_at = run(server, "clm", **values)
    assert [part[0] for part in prompt["parts"]] == ["once ", "upon"]
    text_generation = pipeline("text-generation", model=folders["clm"])
    (expected,) = text_generation(
        "once upon", max_new_tokens=20, do_sample=False, num_latents=4, return_full_text=False
    )
    text = "".join(output["text"] for output in stream)
    assert text == expected["generated_text"][: len(text)] and len(stream) > 1
    assert expected["generated_text"][len(text) :].strip("\ufffd") == ""  # bytes of a character that is not complete
    assert re.fullmatch(r"20 tokens, [\d.]+ tokens/s", note["text"])
    assert len(looked_at["parts"]) == len("once upon") + 19 and max(part[1] for part in looked_at["parts"]) == 1.0
    assert "".join(part[0] for part in looked_at["parts"]).startswith("once upon")


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
    values = {"first": encoded(frames[0]), "second": encoded(frames[1]), "num_frames": 2}
    _, slider, note, flow = run(server, "optical-flow", **values)
    assert slider["titles"] == ["first frame", "second frame"]
    assert flow["titles"] == ["flow in colours", "arrows"] and "pixels on average" in note["text"]
    pair = tuple(np.asarray(PIL.Image.open(io.BytesIO(frame))) for frame in frames)
    expected = pipeline("optical-flow", model=folders["optical-flow"])(pair, render=True)
    (colours,), (arrows,) = flow["rows"]
    np.testing.assert_allclose(pixels(colours), expected.astype(int), atol=1)
    assert pixels(arrows).shape == (7 * 53, 9 * 53, 3)


def test_flow_of_a_video(server: AppServer, folders: dict[str, str], tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (8, 10, 3), dtype=np.uint8) for i in range(4)]
    write_video(tmp_path / "a.mp4", frames, fps=5)
    content = encoded((tmp_path / "a.mp4").read_bytes())
    *progress, _, flow = run(server, "optical-flow", video=content, num_frames=3)
    assert [output["text"] for output in progress] == ["computing flow 1 of 2", "computing flow 2 of 2"]
    pairs = list(islice(read_video_frame_pairs(tmp_path / "a.mp4"), 2))
    expected = pipeline("optical-flow", model=folders["optical-flow"])(pairs, render=True)
    for shown, image in zip(flow["rows"][0], expected, strict=True):
        np.testing.assert_allclose(pixels(shown), image.astype(int), atol=1)
    assert flow["rate"] == 5 and len(flow["rows"][1]) == 2


@pytest.mark.parametrize("transposed", [False, True])
def test_arrows_point_along_the_flow(transposed: bool) -> None:
    flow = np.zeros((40, 40, 2), np.float32)
    flow[21, 21, int(transposed)] = 2  # right, or down
    image = np.asarray(with_arrows(np.zeros((40, 40, 3), np.uint8), flow)).any(axis=-1)
    image = image.T if transposed else image
    assert image.shape == (480, 480)  # 12 x 12 for a pixel; 21 * 12 = 252
    assert image[252, 252:275].all() and not image[252, 235:249].any()
    assert image[240:264, 264:275].sum() > 30 > image[240:264, 232:249].sum()  # the head


def test_a_clip_is_reconstructed_as_by_the_model(server: AppServer, folders: dict[str, str], tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8) for i in range(3)]
    write_clip(tmp_path / "a.mkv", frames, 10, np.linspace(-0.8, 0.8, 2000, dtype=np.float32), 8000)
    content = encoded((tmp_path / "a.mkv").read_bytes())
    *progress, video, before, after, bars = run(server, "multimodal-autoencoder", clip=content, top_k=2)
    assert [output["text"] for output in progress] == ["encoding", "decoding frame 1 of 2", "decoding frame 2 of 2"]
    model = AutoModel.from_pretrained(folders["multimodal-autoencoder"])
    given, rate, sound = read_clip(tmp_path / "a.mkv", (2, 4, 6, 3), 12)
    assert sound is not None
    with torch.no_grad():
        output = model(torch.from_numpy(given)[None], torch.from_numpy(sound)[None])
    for row, expected in zip(video["rows"], (given, output.video[0].numpy()), strict=True):
        for shown, image in zip(row, expected, strict=True):
            np.testing.assert_allclose(pixels(shown), 255 * image.clip(0, 1), atol=1)
    assert [before["title"], after["title"]] == ["Sound of the clip", "Sound of the reconstruction"]
    lowest = [low for low, _ in after["curve"]]
    np.testing.assert_allclose(lowest, output.audio[0].numpy(), atol=1e-4)
    probabilities = output.logits[0].softmax(dim=-1).topk(2)
    assert [row[0] for row in bars["rows"]] == [f"LABEL_{i}" for i in probabilities.indices.tolist()]
    assert [row[1] for row in bars["rows"]] == pytest.approx(probabilities.values.tolist(), abs=1e-5)
    assert rate == video["rate"] == 10


def test_a_silent_clip(server: AppServer, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.zeros((8, 12, 3), np.uint8)] * 2)
    content = encoded((tmp_path / "a.mp4").read_bytes())
    outputs = run(server, "multimodal-autoencoder", clip=content, top_k=2)
    assert [o["title"] for o in outputs if o["kind"] == "audio"] == ["Sound of the reconstruction"]
    assert any("The clip has no sound" in o["text"] for o in outputs if o["kind"] == "note")


def test_a_piece_is_continued_as_by_the_pipeline(server: AppServer, folders: dict[str, str]) -> None:
    values = {"prompt": 40, "num_tokens": 60, "temperature": 0}
    outputs = run(server, "symbolic-audio", midi=encoded(MIDI.read_bytes()), **values)
    assert outputs[0] == {"kind": "progress", "text": "0 of 60 tokens"}
    roll = next(output for output in outputs if output["kind"] == "roll")
    generate = pipeline("symbolic-audio-generation", model=folders["symbolic-audio"])
    expected = generate(str(MIDI), max_prompt_length=40, max_new_tokens=60)["generated_audio_midi"]
    notes = [(n.start, n.end, n.pitch) for n in expected.instruments[0].notes]
    assert [tuple(note[:3]) for note in roll["notes"]] == notes and len(notes) > 3
    audio, looked_at = outputs[-2:]
    assert audio["kind"] == "audio" and audio["url"].startswith("data:audio/wav;base64,UklGR")
    assert looked_at["title"].startswith("What the last event was predicted from: notes have ")
    assert decode_midi([]).get_end_time() < roll["start"] < roll["seconds"]


def test_notes_have_the_weights_of_their_events() -> None:
    # before the window: a note that ends in it; inside: 60 for a second, 64 that still sounds
    ids = [50, VELOCITY + 3, TIME_SHIFT + 9, 60, TIME_SHIFT + 99, 60 + NOTE_OFF, 64, 50 + NOTE_OFF, TIME_SHIFT + 49]
    weights = torch.tensor([0.05, 0.05, 0.2, 0.1, 0.1, 0.1, 0.1, 0.3])
    roll = notes_looked_at(np.array(ids), 1, weights)
    assert roll["seconds"] == pytest.approx(1.6)
    assert np.array(roll["notes"]) == pytest.approx(np.array([[0.1, 1.1, 60, 1.0], [1.1, 1.6, 64, 1 / 3]]))
    assert roll["title"].endswith("notes have 40% of the weight")


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
        (
            "optical-flow",
            {"first": encoded(png((4, 9))), "second": encoded(png((4, 9))), "num_frames": 2},
            "at least|smaller",
        ),
        ("optical-flow", {"first": encoded(png((7, 9))), "num_frames": 2}, "choose two frames, or a video"),
        ("optical-flow", {"video": encoded(b"RIFF"), "num_frames": 2}, "is no video"),
        ("multimodal-autoencoder", {"clip": encoded(b"RIFF"), "top_k": 2}, "is no video"),
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
    steps.close()  # returns when the thread has ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    "error, raised, message",
    [(ValueError("odd"), ValueError, "odd"), (AssertionError("odd"), RuntimeError, "the app's output says why")],
)
def test_whatever_stops_a_generation_is_an_error_where_it_is_read(
    error: Exception, raised: type[Exception], message: str
) -> None:
    def fails(**kwargs: Any) -> None:
        raise error

    with pytest.raises(raised, match=message):
        next(with_progress(fails))


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
    with pytest.raises(SystemExit) as stop:
        main(["folder", "--max-megabytes=0"])
    assert stop.value.code == 2 and "--max-megabytes=0 must be at least 1" in capsys.readouterr().err
