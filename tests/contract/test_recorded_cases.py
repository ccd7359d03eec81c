"""Contracts 2 and 3, case by case: files of perceiver-io 0.8 to 0.11 through the public API give what was recorded.

The folders of tests/golden came from an independent implementation (tests/golden/copy_from_compat.py). Each of their
cases is a test here, or its kind names the test that holds it: `HELD_BY`. A case of a kind that is in neither fails.
Floats: atol = rtol = 1e-4. Token ids: equal.

The recordings have three defects, which are not met on purpose; what holds in their place is tested:

- Pads among the latents of Perceiver AR change real tokens. Here each example gives what it gives alone.
- The MIDI encoder lost notes, pedals and velocities. Here each note of the file is encoded.
- Forward passes with more latents than the model has. Here they are refused.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image
import pytest
import torch
from pretty_midi import PrettyMIDI
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, pipeline

from perceiver.model.audio.symbolic import ReturnType
from perceiver.model.core.checkpoint import COMPUTED_BUFFERS
from perceiver.processing.midi import decode_midi, encode_midi
from perceiver.processing.optical_flow import OpticalFlowProcessor
from perceiver.tasks import TASKS, Task
from tests.model.helpers import GOLDEN, Case, assert_same_parameters, golden_cases, golden_parameters

ROOT = GOLDEN.parent.parent
FOLDERS = sorted(file.parent.name for file in GOLDEN.glob("*/cases.json"))
MODELS = [name for name in FOLDERS if (GOLDEN / name / "hub").exists()]
CKPTS = sorted(file for name in MODELS for file in (GOLDEN / name).glob("*.ckpt"))
CASES = [
    pytest.param(name, case["kind"], case["name"], id=f"{name}-{case['name']}")
    for name in FOLDERS
    for case in json.loads((GOLDEN / name / "cases.json").read_text())
]

# Not of a whole model, or in need of its inside.
HELD_BY = {
    "backend_forward": "model/vision/image_classifier/test_backend.py::test_recorded_outputs",
    "convert": "model/text/mlm/test_huggingface.py::test_converted_model_gives_the_recorded_outputs",
    "cross_attention_layer": "model/core/test_layers.py::test_recorded_prefix_cross_attention",
    "fourier_position_encoding": "model/core/test_position.py::test_recorded_encodings",
    "frequency_position_encoding": "model/core/test_position.py::test_recorded_frequencies",
    "mask_filler": "model/text/mlm/test_mask_filler.py::test_recorded_texts",
    "multi_head_attention": "model/core/test_attention.py::test_recorded_attention",
    "optical_flow_processor": "processing/test_optical_flow.py::test_recorded_features_and_flow",
    "patch_grids": "processing/test_optical_flow.py::test_recorded_grids",
    "positions": "model/core/test_position.py::test_recorded_positions",
    "render_optical_flow": "processing/test_optical_flow.py::test_recorded_colors",
    "rotary": "model/core/test_position.py::test_recorded_rotations",
    "self_attention_block": "model/core/test_layers.py::test_recorded_self_attention_block",
    "train_forward": "model/core/test_perceiver_ar.py::test_recorded_prefix_dropout",
}

every_model = pytest.mark.parametrize("name", MODELS)
every_ckpt = pytest.mark.parametrize("file", CKPTS, ids=lambda file: f"{file.parent.name}-{file.stem}")


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), atol=1e-4, rtol=1e-4)


def published_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / name / "hub" / "config.json").read_text())
    return config


def task_of(name: str) -> Task:
    model_type = published_config(name)["model_type"]
    (task,) = (task for task in TASKS.values() if task.model_type == model_type)
    return task


def package_of(name: str) -> ModuleType:
    return importlib.import_module(task_of(name).package)


def hub_class(name: str) -> Any:
    return getattr(package_of(name), task_of(name).huggingface)


def lit_class(name: str) -> Any:
    return getattr(package_of(name), f"Lit{task_of(name).model}")


@functools.cache
def hub_model(name: str) -> Any:
    """Shared by the tests, which don't change it."""
    return hub_class(name).from_pretrained(GOLDEN / name / "hub").eval()


def parameters(name: str) -> dict[str, Tensor]:
    """Those of the published file under their names in the backend model, without what is computed here."""
    published = golden_parameters(name)
    return {key: value for key, value in published.items() if not key.endswith(COMPUTED_BUFFERS)}


# --- files ---


@every_model
def test_folder(name: str, tmp_path: Path) -> None:
    model = hub_model(name)
    assert_same_parameters(model.backend_model.state_dict(), parameters(name))
    config = AutoConfig.from_pretrained(GOLDEN / name / "hub")
    assert config.backend_config == model.backend_model.config
    assert type(model.backend_model)(config.backend_config).state_dict().keys() == parameters(name).keys()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert_same_parameters(hub_class(name).from_pretrained(tmp_path).backend_model.state_dict(), parameters(name))
    saved = json.loads((tmp_path / "config.json").read_text())["model_config"]
    published = published_config(name)["model_config"]
    assert {key: saved[key] for key in published} == published


@every_ckpt
@pytest.mark.filterwarnings("ignore:tokenizer .* has 262 ids")  # the tokenizer came with models of fewer tokens, too
def test_checkpoint(file: Path, tmp_path: Path) -> None:
    name, hub = file.parent.name, str(file.parent / "hub")
    lit_model = lit_class(name).load_from_checkpoint(str(file), map_location="cpu")
    assert_same_parameters(lit_model.backend_model.state_dict(), parameters(name))
    model = hub_class(name).from_checkpoint(str(file))
    assert_same_parameters(model.backend_model.state_dict(), parameters(name))
    processors: dict[str | None, dict[str, Any]] = {
        "tokenizer": {"tokenizer_name": hub},
        "image_processor": {"image_processor": AutoImageProcessor.from_pretrained(hub)}
        if task_of(name).processor == "image_processor"
        else {},
    }
    arguments = processors.get(task_of(name).processor, {})
    package_of(name).convert_checkpoint(save_dir=str(tmp_path / "out"), ckpt_url=str(file), **arguments)
    converted = hub_class(name).from_pretrained(tmp_path / "out")
    assert_same_parameters(converted.backend_model.state_dict(), parameters(name))


# --- Perceiver IO ---


def forward(name: str, case: Case) -> None:
    if "prefix_len" in case.kwargs:
        causal_forward(name, case)
        return
    model, inputs = hub_model(name), case.inputs
    backend = model.backend_model
    if "input_ids" in inputs:
        x, mask = inputs["input_ids"], inputs.get("attention_mask")
        pad_mask = None if mask is None else mask == 0
        logits, latents = backend(x, pad_mask=pad_mask), backend.encoder(x, pad_mask=pad_mask)
        close(model(**inputs).logits, case.outputs["logits"])
        if mask is not None:  # neither positions nor softmax may be of bfloat16's precision
            low = copy.deepcopy(model).to(torch.bfloat16)(**inputs).logits.float()
            difference = (low - case.outputs["logits"]).abs().mean()
            assert difference < 0.05 * case.outputs["logits"].abs().mean()
    elif "inputs" in inputs:
        logits, latents = backend(inputs["inputs"]), backend.encoder(inputs["inputs"])
        close(model(pixel_values=inputs["inputs"]).logits, case.outputs["logits"])
    else:
        shape = backend.config.encoder.image_shape
        processor = OpticalFlowProcessor(patch_size=shape, patch_min_overlap=min(20, min(shape) - 1))
        features = processor.preprocess((inputs["image_1"].numpy(), inputs["image_2"].numpy()))
        scale = backend.config.decoder.rescale_factor
        close(scale * model(features[:1]).logits, scale * case.outputs["logits"])
        return
    close(logits, case.outputs["logits"])
    close(latents, case.outputs["encoder_latents"])


def image_processor(name: str, case: Case) -> None:
    processor = AutoImageProcessor.from_pretrained(GOLDEN / name / "hub")
    images = [PIL.Image.fromarray(case.inputs[key].numpy()) for key in sorted(case.inputs)]
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    close(pixel_values, case.outputs["pixel_values"])
    close(hub_model(name)(pixel_values=pixel_values).logits, case.outputs["logits"])


# --- Perceiver AR ---


def causal_logits(name: str, x: Tensor, prefix_len: int, pad_mask: Tensor | None = None, **kwargs: Any) -> Any:
    attention_mask = None if pad_mask is None else (~pad_mask).long()
    return hub_model(name)(input_ids=x, prefix_len=prefix_len, attention_mask=attention_mask, **kwargs)


def pads_among_latents(pad_mask: Tensor | None, prefix_len: int) -> bool:
    return pad_mask is not None and bool(pad_mask[:, prefix_len:].any())


def causal_forward(name: str, case: Case) -> None:
    x, pad_mask, prefix_len = case.inputs["input_ids"], case.inputs.get("pad_mask"), case.kwargs["prefix_len"]
    if x.shape[1] - prefix_len > published_config(name)["model_config"]["max_latents"]:
        with pytest.raises(ValueError, match="max_latents="):
            causal_logits(name, x, prefix_len, pad_mask)
        return
    logits = causal_logits(name, x, prefix_len, pad_mask).logits
    if not pads_among_latents(pad_mask, prefix_len):
        close(logits, case.outputs["logits"])
    for b, num_pads in enumerate([] if pad_mask is None else pad_mask.sum(dim=1).tolist()):
        alone = causal_logits(name, x[b : b + 1, num_pads:], max(prefix_len - num_pads, 0)).logits[0]
        close(logits[b, -len(alone) :], alone)


def cached_incremental(name: str, case: Case) -> None:
    x, pad_mask, prefix_len = case.inputs["input_ids"], case.inputs.get("pad_mask"), case.kwargs["prefix_len"]
    ends = [case.kwargs["prefill_len"], *range(case.kwargs["prefill_len"] + 1, x.shape[1] + 1)]
    results, cache, start = [], None, 0
    for end in ends:
        mask = None if pad_mask is None else pad_mask[:, :end]
        output = causal_logits(name, x[:, start:end], prefix_len, mask, past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, end
        results.append(output.logits)
    logits = torch.cat(results, dim=1)
    if not pads_among_latents(pad_mask, prefix_len):
        close(logits, case.outputs["logits"])
        return
    assert pad_mask is not None
    whole, real = causal_logits(name, x, prefix_len, pad_mask).logits, ~pad_mask[:, prefix_len:]
    close(logits[real], whole[real])


def generate(name: str, case: Case) -> None:
    """Greedy, beam and contrastive search, cached and uncached, while latents grow, then the prefix, then it slides."""
    x, mask = case.inputs["input_ids"], case.inputs.get("attention_mask")
    for use_cache, output in ((True, "use_cache_true"), (False, "persisted_prefix_uncached")):
        if output not in case.outputs:
            continue
        continued = functools.partial(hub_model(name).generate, **case.kwargs, use_cache=use_cache, do_sample=False)
        ids = continued(**case.inputs)
        if mask is None or mask[:, -case.kwargs["num_latents"] :].all():
            assert torch.equal(ids, case.outputs[output])
            continue
        for b, real in enumerate(mask.bool()):
            alone = continued(x[b : b + 1, real])[0]
            assert torch.equal(ids[b, x.shape[1] :], alone[int(real.sum()) :])


# --- losses ---


def lit_step(name: str, case: Case) -> None:
    """Of the Lightning model, and of the Hugging Face model of Perceiver IO, which takes the same labels."""
    lit_model = lit_class(name).load_from_checkpoint(str(GOLDEN / name / "lit.ckpt"), map_location="cpu").eval()
    inputs, expected = case.inputs, case.outputs["loss"]
    if "image" in inputs:
        batch: Any = {"image": inputs["image"], "label": inputs["label"]}
        output = hub_model(name)(pixel_values=inputs["image"], labels=inputs["label"])
    else:
        labels, x, pad_mask = inputs["labels"], inputs["input_ids"], inputs["pad_mask"]
        batch = labels, x, pad_mask
        max_latents = published_config(name)["model_config"].get("max_latents")
        if max_latents is not None:
            if pads_among_latents(pad_mask, x.shape[1] - max_latents):
                expected = lit_model.step((labels, x.masked_fill(pad_mask, 7), pad_mask))
            close(lit_model.step(batch), expected)
            return
        output = hub_model(name)(input_ids=x, attention_mask=(~pad_mask).long(), labels=labels)
    close(output.loss, expected)
    result = lit_model.step(batch)
    if "accuracy" in case.outputs:
        result, accuracy = result
        close(accuracy, case.outputs["accuracy"])
    close(result, expected)


# --- pipelines ---


def pipelines(name: str, case: Case) -> None:
    kwargs, data = dict(case.kwargs), case.data
    run = pipeline(kwargs.pop("task"), model=str(GOLDEN / name / "hub"))
    if name.startswith("clm"):
        for use_cache, key in ((True, "generated_token_ids"), (False, "generated_token_ids_uncached")):
            options = kwargs | {"use_cache": use_cache, "do_sample": False, "add_special_tokens": False}
            results = run(data["prompts"], return_tensors=True, **options)
            assert [result[0]["generated_token_ids"] for result in results] == data[key]
    elif name == "sam":
        prompt = PrettyMIDI(str(GOLDEN / "midi" / Path(data["prompt_file"]).name))
        for use_cache in (True, False):
            result = run(prompt, return_type=ReturnType.TENSORS, use_cache=use_cache, do_sample=False, **kwargs)
            assert result["generated_token_ids"] == data[f"full_use_cache_{use_cache}"]
    elif name == "optical_flow":
        close(run((case.inputs["image_1"].numpy(), case.inputs["image_2"].numpy())), case.outputs["flow"])
    elif name.startswith("mlm"):
        for candidates, expected in zip(run(data["text"], **kwargs), data["result"], strict=True):
            assert [candidate["token"] for candidate in candidates] == [entry["token"] for entry in expected]
    elif name == "txt_clf":
        found = run(data["texts"])
        assert [result["label"] for result in found] == [entry["label"] for entry in data["result"]]
        close([result["score"] for result in found], [entry["score"] for entry in data["result"]])
    else:
        (recorded,) = golden_cases(name, "image_processor")
        images = [PIL.Image.fromarray(recorded.inputs[key].numpy()) for key in sorted(recorded.inputs)]
        for found, expected in zip(run(images, **kwargs), data["result"], strict=True):
            assert [str(result["label"]) for result in found] == [str(entry["label"]) for entry in expected]
            close([result["score"] for result in found], [entry["score"] for entry in expected])


# --- MIDI ---

NOTE_ONS, TIMES, VELOCITIES = range(128), range(256, 356), range(356, 388)
PEDAL_IGNORED = ("midi_sustain_no_note_after_pedal", "midi_two_instruments")


def struck_notes(token_ids: list[int]) -> list[tuple[int, int, int | None]]:
    """Pitch, time in hundredths of a second and bucket of the velocity, which None says is missing."""
    time, velocity, notes = 0, None, []
    for token in token_ids:
        if token in TIMES:
            time += token - TIMES.start + 1
        elif token in VELOCITIES:
            velocity = token - VELOCITIES.start
        else:
            if token in NOTE_ONS:
                notes.append((token, time, velocity))
            velocity = None
    return sorted(notes, key=lambda note: note[:2])


def midi(name: str, case: Case) -> None:
    midi_decode(name, case)
    piece = PrettyMIDI(str(GOLDEN / name / Path(case.data["file"]).name))
    token_ids, recorded = [int(token) for token in encode_midi(piece)], case.data["token_ids"]
    played = [note for instrument in piece.instruments for note in instrument.notes]
    complete = len(struck_notes(recorded)) == len(played) and all(v is not None for *_, v in struck_notes(recorded))
    if complete and case.name not in PEDAL_IGNORED:
        assert token_ids == recorded
        return
    expected = sorted((note.pitch, round(100 * note.start), note.velocity // 4) for note in played)
    found = struck_notes(token_ids)
    assert [(pitch, velocity) for pitch, _, velocity in found] == [(pitch, velocity) for pitch, _, velocity in expected]
    assert all(abs(a[1] - b[1]) <= 3 for a, b in zip(found, expected, strict=True))


def midi_decode(name: str, case: Case) -> None:
    decoded = decode_midi(case.data["token_ids"])
    notes = [
        [[note.velocity, note.pitch, round(note.start, 6), round(note.end, 6)] for note in instrument.notes]
        for instrument in decoded.instruments
    ]
    assert notes == case.data["decoded_notes"]


CHECKS: dict[str, Callable[[str, Case], None]] = {
    "forward": forward,
    "image_processor": image_processor,
    "cached_incremental": cached_incremental,
    "generate": generate,
    "lit_step": lit_step,
    "pipeline": pipelines,
    "midi": midi,
    "midi_decode": midi_decode,
}


@pytest.mark.parametrize("name, kind, case_name", [case for case in CASES if case.values[1] not in HELD_BY])
@torch.no_grad()
def test_case(name: str, kind: str, case_name: str) -> None:
    assert kind in CHECKS, f"{name}: nothing checks cases of the kind {kind!r}: add a check, or the test that holds it"
    (case,) = (case for case in golden_cases(name, kind) if case.name == case_name)
    CHECKS[kind](name, case)


@pytest.mark.parametrize("kind", HELD_BY)
def test_cases_that_other_tests_hold(kind: str) -> None:
    """The test is there and reads cases of this kind."""
    assert any(case.values[1] == kind for case in CASES), f"there are no cases of the kind {kind!r} any more"
    file, name = HELD_BY[kind].split("::")
    functions = ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")))
    (test,) = (node for node in functions if isinstance(node, ast.FunctionDef) and node.name == name)
    read = {
        call.args[1].value
        for call in ast.walk(test)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "golden_cases"
        if isinstance(call.args[1], ast.Constant)
    }
    assert kind in read
