"""The pipeline `symbolic-audio-generation`: recorded results, prompts of every kind, and what it returns."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from pretty_midi import PrettyMIDI
from transformers import AutoModelForCausalLM, pipeline

from perceiver.data.audio import decode_midi, encode_midi
from perceiver.model.audio import symbolic
from perceiver.model.audio.symbolic import ReturnType
from perceiver.processing.midi import PAD, VELOCITY
from perceiver.processing.sound import SOUND_FONT
from tests.model.helpers import GOLDEN, golden_cases

HUB = GOLDEN / "sam" / "hub"
PLAIN = GOLDEN / "midi" / "plain.mid"
PROMPT = PrettyMIDI(str(PLAIN))
IDS = encode_midi(PROMPT)
MAX_SEQ_LEN = 24
GREEDY = {"do_sample": False, "max_new_tokens": 9}


@pytest.fixture(scope="module")
def generator() -> Any:
    """A model that plays: with random weights, but only notes that begin and end and time shifts."""
    torch.manual_seed(0)
    config = symbolic.SymbolicAudioModelConfig(
        max_seq_len=MAX_SEQ_LEN,
        max_latents=8,
        num_channels=16,
        num_heads=2,
        num_self_attention_layers=1,
        init_scale=0.1,
    )
    model = symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(config))
    with torch.no_grad():
        bias = model.backend_model.output_adapter.bias
        bias.fill_(-1e4)
        bias[[60, 188, 280]] = 0.0  # C4 on, C4 off, 250 ms
    return pipeline("symbolic-audio-generation", model=model)


def tokens(generator: Any, prompt: Any, **kwargs: Any) -> Any:
    return generator(prompt, return_type=ReturnType.TENSORS, **(GREEDY | kwargs))


def notes(midi: PrettyMIDI) -> list[tuple[int, int, float, float]]:
    return [(n.velocity, n.pitch, round(n.start, 6), round(n.end, 6)) for i in midi.instruments for n in i.notes]


# --- recorded ---


def test_recorded_continuation() -> None:
    """Also that the prompt keeps its first tokens."""
    (case,) = golden_cases("sam", "pipeline")
    kwargs = {name: value for name, value in case.kwargs.items() if name != "task"} | {"do_sample": False}
    generator = pipeline(case.kwargs["task"], model=str(HUB))
    for use_cache in (True, False):
        result = generator(PROMPT, return_type=ReturnType.TENSORS, use_cache=use_cache, **kwargs)
        assert result == {"generated_token_ids": case.data[f"full_use_cache_{use_cache}"]}
    result = generator(PROMPT, **kwargs)
    assert result.keys() == {"generated_audio_midi"}
    expected = [tuple(note) for note in case.data["audio_notes"][0]]
    assert notes(result["generated_audio_midi"]) == expected
    new = generator(PROMPT, return_full_audio=False, **kwargs)["generated_audio_midi"]
    assert notes(new) == notes(decode_midi(case.data["new_only"])) == []


# --- prompts ---


def test_prompts_are_objects_and_paths_and_come_in_lists(generator: Any) -> None:
    ids = generator.model.generate(torch.tensor([IDS[:20]]), num_latents=5, **GREEDY)[0].tolist()
    assert ids[:20] == IDS[:20] and len(ids) == 29
    kwargs = {"max_prompt_length": 20, "num_latents": 5}
    for prompt in (PROMPT, PLAIN, str(PLAIN)):
        assert tokens(generator, prompt, **kwargs) == {"generated_token_ids": ids}
    prompts = [PROMPT, PLAIN]
    assert tokens(generator, prompts, **kwargs) == list(tokens(generator, iter_of(prompts), **kwargs))
    assert tokens(generator, prompts, **kwargs) == [{"generated_token_ids": ids}] * 2


def iter_of(prompts: list[Any]) -> Any:
    yield from prompts


@pytest.mark.parametrize("length", [1, 2, 8, 23, MAX_SEQ_LEN, len(IDS)])
def test_prompts_of_any_length(generator: Any, length: int) -> None:
    """Also such that the model does not see all of it: the result has all of it all the same."""
    ids = tokens(generator, PROMPT, max_prompt_length=length)["generated_token_ids"]
    assert ids[:length] == IDS[:length] and len(ids) == length + 9
    seen = IDS[:length][-MAX_SEQ_LEN:]
    assert ids[length:] == generator.model.generate(torch.tensor([seen]), **GREEDY)[0, len(seen) :].tolist()


def test_prompts_of_a_batch_are_continued_as_if_they_were_alone(generator: Any) -> None:
    files = ["plain", "sustain", "zero_length", "long_gaps", "two_instruments"]
    prompts = [GOLDEN / "midi" / f"{name}.mid" for name in files]
    kwargs = {"num_latents": 8, "max_new_tokens": 30}
    alone = [tokens(generator, prompt, **kwargs) for prompt in prompts]
    assert len({len(result["generated_token_ids"]) for result in alone}) == len(files)
    for batch_size in (2, 5):
        assert tokens(generator, prompts, batch_size=batch_size, **kwargs) == alone


def test_nothing_as_prompt(generator: Any) -> None:
    """The piece begins with a velocity, the middle one, and a batch may have such a prompt."""
    ids = tokens(generator, None)["generated_token_ids"]
    assert ids[0] == encode_midi(decode_midi([372, 60, 280, 188]))[0] == 372 and len(ids) == 10
    assert tokens(generator, [None, PROMPT], num_latents=8, batch_size=2)[0]["generated_token_ids"] == ids


def percussion() -> PrettyMIDI:
    midi = decode_midi([372, 60, 280, 188])
    midi.instruments[0].is_drum = True
    return midi


@pytest.mark.parametrize("midi", [PrettyMIDI(), decode_midi([]), percussion()], ids=["empty", "no notes", "drums"])
def test_prompt_without_notes(generator: Any, midi: PrettyMIDI) -> None:
    with pytest.raises(ValueError, match=r"a prompt has no notes\. None as prompt begins a piece from nothing"):
        generator(midi)


def test_prompt_that_cannot_be_read(generator: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mid"):
        generator("nowhere.mid")
    (tmp_path / "text.mid").write_text("no music")
    with pytest.raises(OSError, match=r"\.mid is no MIDI file, or a damaged one: MThd not found"):
        generator(tmp_path / "text.mid")
    with pytest.raises(ValueError, match="a prompt is a list, it must be a PrettyMIDI"):
        generator([[60, 188]])


# --- results ---


def test_new_audio_starts_at_once_and_is_as_loud_as_the_prompt(generator: Any) -> None:
    def sampled(**kwargs: Any) -> Any:
        torch.manual_seed(0)
        return generator(PROMPT, max_new_tokens=40, do_sample=True, **kwargs)

    ids = sampled(return_type=ReturnType.TENSORS)["generated_token_ids"]
    assert notes(sampled()["generated_audio_midi"]) == notes(decode_midi(ids))
    velocity = [token for token in IDS if token >= VELOCITY][-1]
    new = notes(sampled(return_full_audio=False, return_type=ReturnType.AUDIO)["generated_audio_midi"])
    assert new == notes(decode_midi([velocity, *ids[len(IDS) :]])) and len(new) > 2
    assert {loudness for loudness, *_ in new} == {4 * (velocity - VELOCITY)}


def test_token_ids_with_and_without_the_prompt(generator: Any) -> None:
    whole = tokens(generator, PROMPT, return_full_audio=True)["generated_token_ids"]
    assert whole == tokens(generator, PROMPT)["generated_token_ids"] and whole[: len(IDS)] == IDS
    assert tokens(generator, PROMPT, return_full_audio=False) == {"generated_token_ids": whole[len(IDS) :]}
    assert [kind.value for kind in (ReturnType.TENSORS, ReturnType.AUDIO)] == [0, 1]  # as in perceiver-io 0.11


def test_several_results_for_a_prompt(generator: Any) -> None:
    kwargs = {"do_sample": True, "num_return_sequences": 3, "num_latents": 8, "return_type": ReturnType.TENSORS}
    results = generator([PROMPT, None], batch_size=2, max_new_tokens=9, **kwargs)
    assert [len(of_prompt) for of_prompt in results] == [3, 3]
    for of_prompt, prompt in zip(results, (IDS, [372]), strict=True):
        ids = [result["generated_token_ids"] for result in of_prompt]
        assert all(row[: len(prompt)] == prompt and len(row) == len(prompt) + 9 for row in ids)
        assert len({tuple(row) for row in ids}) > 1


def test_padding_of_results_that_end_early_is_left_out(generator: Any) -> None:
    """With an end of generation that is chosen by the caller, others of the batch may go on."""
    kwargs = {"num_latents": 8, "eos_token_id": 188, "do_sample": True, "num_return_sequences": 8}
    torch.manual_seed(0)
    rows = [result["generated_token_ids"] for result in tokens(generator, PROMPT, **kwargs)]
    assert len({len(row) for row in rows}) > 1 and not any(PAD in row for row in rows)


def test_defaults_of_generation(generator: Any) -> None:
    one, other = (generator(None, return_type=ReturnType.TENSORS)["generated_token_ids"] for _ in range(2))
    assert len(one) == 257 and one == other  # greedy


@pytest.mark.parametrize("search", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}], ids=["beams", "contrastive"])
def test_a_search_that_is_asked_for_is_what_runs(generator: Any, search: dict[str, Any]) -> None:
    expected = generator.model.generate(torch.tensor([IDS[:20]]), num_latents=5, **GREEDY, **search)[0].tolist()
    kwargs = {"max_new_tokens": 9, "num_latents": 5, "max_prompt_length": 20, **search}
    for seed in range(2):
        torch.manual_seed(seed)
        result = generator(PROMPT, return_type=ReturnType.TENSORS, **kwargs)
        assert result == {"generated_token_ids": expected}


def test_arguments_of_the_pipeline_and_of_a_call(generator: Any) -> None:
    kwargs = {"max_prompt_length": 4, "return_type": ReturnType.TENSORS, "num_latents": 3}
    made = pipeline("symbolic-audio-generation", model=generator.model, **kwargs, **GREEDY)
    expected = tokens(generator, PROMPT, max_prompt_length=4, num_latents=3)
    assert made(PROMPT) == expected
    assert made(PROMPT, max_prompt_length=5, max_new_tokens=2)["generated_token_ids"][:-2] == IDS[:5]
    assert "generated_audio_midi" in made(PROMPT, return_type=ReturnType.AUDIO)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"max_prompt_length": 0}, "max_prompt_length=0 must be at least 1"),
        ({"return_type": ReturnType.TENSORS, "sf2_path": "nowhere.sf2"}, r"sf2_path='nowhere\.sf2' is no file"),
        ({"return_type": "tensors"}, "'tensors' is not a valid ReturnType"),
        ({"num_latents": 9}, r"num_latents=9 must be in \[8, 8\]"),
        ({"num_latent": 9}, "num_latent"),
    ],
)
def test_arguments_that_make_no_sense(generator: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator(PROMPT, **arguments)


def test_model_with_pipeline_survives_saving(generator: Any, tmp_path: Path) -> None:
    generator.model.save_pretrained(tmp_path)
    loaded = pipeline("symbolic-audio-generation", model=str(tmp_path))
    assert tokens(loaded, PROMPT) == tokens(generator, PROMPT)
    assert type(loaded.model) is type(AutoModelForCausalLM.from_pretrained(tmp_path))


# --- sound ---


def test_rendering(generator: Any) -> None:
    result = generator(PROMPT, render=True, **GREEDY)
    assert result.keys() == {"generated_audio_midi", "generated_audio_wav"}
    with wave.open(io.BytesIO(result["generated_audio_wav"])) as sound:
        seconds = sound.getnframes() / sound.getframerate()
        assert any(sound.readframes(sound.getnframes()))
    assert result["generated_audio_midi"].get_end_time() < seconds < 30
    silence = generator(PROMPT, render=True, return_full_audio=False, **GREEDY | {"max_new_tokens": 1})
    assert silence["generated_audio_wav"] is None and notes(silence["generated_audio_midi"]) == []


def test_token_ids_are_not_rendered(generator: Any) -> None:
    with pytest.raises(ValueError, match=r"render=True needs audio, return_type is ReturnType\.TENSORS"):
        generator(PROMPT, render=True, return_type=ReturnType.TENSORS)


def test_unknown_sound_font_is_an_error_before_generation(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator.model, "generate", None)  # can't be called
    with pytest.raises(ValueError, match=r"sf2_path='nowhere\.sf2' is no file: it must be a sound font"):
        generator(PROMPT, render=True, sf2_path="nowhere.sf2")


def test_missing_fluidsynth_is_an_error_before_generation(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator.model, "generate", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"TimGM6mb\.sf2' needs the program fluidsynth"):
        generator(PROMPT, render=True, sf2_path=SOUND_FONT)


def test_the_piece_says_where_the_prompt_ends(generator: Any) -> None:
    """A time shift at the end of the prompt is still part of it."""
    prompt = decode_midi(IDS[:12])
    (event,) = generator(PROMPT, max_prompt_length=12, **GREEDY)["generated_audio_midi"].text_events
    steps = sum(token - 255 for token in IDS[:12] if 256 <= token < 356)
    assert event.text == "continuation" and event.time == pytest.approx(steps / 100) and prompt.text_events == []
    assert generator(PROMPT, return_full_audio=False, **GREEDY)["generated_audio_midi"].text_events == []
