"""`perceiver clm generate`, `perceiver symbolic-audio continue|evaluate`, `perceiver preproc` of both domains."""

import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from pretty_midi import PrettyMIDI
from transformers import pipeline

from perceiver.data.audio import piano_piece
from perceiver.model.audio.symbolic import PerceiverSymbolicAudioModel
from perceiver.model.core.evaluation import evaluate_tokens
from perceiver.model.text.clm import PerceiverCausalLanguageModel
from perceiver.processing.midi import encode_midi
from perceiver.processing.text import load_tokenizer
from perceiver.scripts.main import main
from tests.model.helpers import GOLDEN

CLM, SAM = GOLDEN / "clm_1" / "hub", GOLDEN / "sam" / "hub"
DEVICE = "--device=cpu"


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code, capsys.readouterr().err


# --- text ---


def generated(**kwargs: object) -> str:
    tokenizer = load_tokenizer("bytes")
    prompt = tokenizer("A man", add_special_tokens=False, return_tensors="pt").input_ids
    model = PerceiverCausalLanguageModel.from_pretrained(CLM)
    ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **kwargs)
    return str(tokenizer.decode(ids[0, 5:], skip_special_tokens=True))


def test_generate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["clm", "generate", f"--model={CLM}", "--tokenizer=bytes", "--max_new_tokens=11", DEVICE]
    expected = generated(max_new_tokens=11, num_latents=2, do_sample=False)
    assert main([*flags, "--prompt=A man", "--num_latents=2", "--temperature=0"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.endswith(f"{CLM} on cpu\n")) == (f"A man{expected}\n", True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("A man"))
    main([*flags, "--num_latents=2", "--temperature=0"])
    assert capsys.readouterr().out == out
    drawn = []
    for seed in (1, 1, 2):
        main([*flags, "--prompt=A man", f"--seed={seed}"])
        drawn.append(capsys.readouterr().out)
    torch.manual_seed(1)
    assert drawn[0] == drawn[1] == f"A man{generated(max_new_tokens=11, do_sample=True, top_k=0)}\n"
    assert drawn[2] != drawn[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt="], "the prompt is empty"),
        (["--prompt=a", "--temperature=-1"], "temperature=-1.0 must be at least 0"),
        (["--prompt=a", "--top_p=2"], "top_p=2.0 must be in (0, 1]"),
        (["--prompt=a", "--max_new_tokens=0"], "max_new_tokens=0 must be at least 1"),
        (["--prompt=a", "--model=none"], "none"),
        (["--prompt=a", f"--model={GOLDEN / 'mlm_tied' / 'hub'}"], "is no causal language model"),
        (["--prompt=a", "--device=abacus"], "device abacus can't be used"),
    ],
)
def test_generate_errors(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = failure(capsys, "clm", "generate", f"--model={CLM}", "--tokenizer=bytes", DEVICE, *flags)
    assert str(code).startswith("perceiver clm generate: error: ") and said in str(code)


# --- music ---


@pytest.fixture
def piece(tmp_path: Path) -> Path:
    file = tmp_path / "in.mid"
    piano_piece(3).midi.write(str(file))
    return file


def test_continue(piece: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "out.mid"
    flags = [
        f"--model={SAM}",
        "--max_prompt_length=90",
        "--max_new_tokens=40",
        "--temperature=0",
        "--render=true",
        DEVICE,
    ]
    assert main(["symbolic-audio", "continue", str(piece), str(result), *flags]) == 0
    written = PrettyMIDI(str(result))
    model = PerceiverSymbolicAudioModel.from_pretrained(SAM)
    options = {"max_prompt_length": 90, "max_new_tokens": 40, "do_sample": False}
    expected = pipeline("symbolic-audio-generation", model=model, device="cpu")(str(piece), **options)
    assert encode_midi(result) == encode_midi(expected["generated_audio_midi"])
    assert encode_midi(result)[:2] == encode_midi(piece)[:2]
    assert [event.text for event in written.text_events] == ["continuation"]
    out = capsys.readouterr().out
    assert out.startswith(f"wrote {result}") and ("out.wav" in out) == (tmp_path / "out.wav").exists()
    for args, said in (
        ([str(piece), "/none/out.mid"], "there is no folder for /none/out.mid"),
        (["none.mid", str(result)], "there is no file none.mid"),
    ):
        code, _ = failure(capsys, "symbolic-audio", "continue", *args, *flags)
        assert code == f"perceiver symbolic-audio continue: error: {said}"


def test_evaluate_music(piece: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--model={SAM}", f"--data={tmp_path}", f"--output={tmp_path / 'r.json'}", DEVICE]
    assert main(["symbolic-audio", "evaluate", *flags]) == 0
    model = PerceiverSymbolicAudioModel.from_pretrained(SAM).backend_model
    expected = evaluate_tokens(model, [torch.tensor(encode_midi(piece))])
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["num_pieces"], found["num_tokens"]) == (1, expected.num_tokens)
    assert found["bits_per_token"] == pytest.approx(expected.nats / math.log(2) / expected.num_tokens, rel=1e-5)
    out, err = capsys.readouterr()
    assert f"{SAM} on cpu, {expected.num_tokens:,} tokens to score\n" in err
    assert f"tokens {expected.num_tokens:,}/{expected.num_tokens:,}" in err and "perplexity_per_token" in out
    code, _ = failure(capsys, "symbolic-audio", "evaluate", f"--model={SAM}", f"--data={tmp_path / 'none'}")
    assert code == f"perceiver symbolic-audio evaluate: error: there is no MIDI file {tmp_path / 'none'}"


# --- preproc ---


def other(seed: int) -> bytes:
    piano_piece(seed).midi.write(file := io.BytesIO())
    return file.getvalue()


def test_preproc_of_both_domains(
    piece: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "valid"):
        (tmp_path / "music" / split).mkdir(parents=True)
        (tmp_path / "music" / split / "a.mid").write_bytes(piece.read_bytes() if split == "train" else other(4))
    assert main(["preproc", "local_midi", "--source=music", "--max_seq_len=20"]) == 0
    assert " pieces" in capsys.readouterr().out
    code, err = failure(capsys, "preproc", "local_mid")
    assert (code, err) == (2, "perceiver preproc: there is no data local_mid; did you mean local_midi?\n")
    with pytest.raises(SystemExit) as stop:
        main(["preproc", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "maestro" in shown and "wikitext" in shown
