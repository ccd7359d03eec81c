"""The examples of symbolic audio: `examples/training/sam`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from perceiver.data.audio import encode_midi, piano_piece
from perceiver.model.audio import symbolic
from tests.examples.scripts import load

synthetic = load("training/sam/synthetic.py")
Onset = synthetic.Onset


# --- the recipes, whose flags are compared in test_published_recipes.py ---


@pytest.fixture
def maestro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pieces as MAESTRO has them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "maestro"
    folder.mkdir()
    rows = ["split,midi_filename"]
    for seed, split in enumerate(("train", "validation", "test")):
        piano_piece(seed).midi.write(str(folder / f"{seed}.midi"))
        rows.append(f"{split},{seed}.midi")
    (folder / "maestro-v3.0.0.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_maestro_in_python(maestro: Path) -> None:
    sizes = "--max_seq_len=32 --max_latents=8 --num_channels=16 --num_layers=1 --batch_size=4 --accumulate=1".split()
    load("training/sam/train.py").main([f"--data={maestro}", "--devices=1", "--max_steps=8", *sizes])
    model = AutoModelForCausalLM.from_pretrained("logs/sam_maestro/model")
    config = model.backend_model.config
    assert (config.max_seq_len, config.num_self_attention_layers, config.abs_pos_emb) == (32, 1, False)
    assert model.generate(torch.tensor([[372, 60]]), max_new_tokens=3).shape == (1, 5)


# --- generated pieces ---


def test_model_has_the_size_that_it_says() -> None:
    with torch.device("meta"):
        model = symbolic.SymbolicAudioModel(synthetic.model_config())
    assert sum(p.numel() for p in model.parameters()) == 1_036_032


def test_markov_chain_by_hand() -> None:
    chain = synthetic.MarkovChain([[1, 2, 3, 1, 2, 4], [2, 5]], order=2)
    assert chain.following[1, 2] == {3: 1, 4: 1} and chain.following[2,] == {3: 1, 4: 1, 5: 1}
    assert chain.following[()] == {1: 2, 2: 3, 3: 1, 4: 1, 5: 1}
    assert chain.continued([9, 3], 2) == [9, 3, 1, 2]  # after 9 3 as after 3, then after 3 1
    assert {chain.continued([1, 2], 1)[-1] for _ in range(50)} == {3, 4}
    assert {chain.continued([7], 1)[-1] for _ in range(200)} == {1, 2, 3, 4, 5}  # 7 occurs nowhere


def test_onsets_by_hand() -> None:
    assert synthetic.onsets([372, 60, 265, 64, 355, 355, 188, 67, 192]) == [
        Onset(60, 0.0),
        Onset(64, 0.1),
        Onset(67, 2.1),
    ]


def test_scores_by_hand() -> None:
    """A in the bass on the second bar, 10 ms late; half a second later D in the bass, and F: it is not in D Major."""
    piece = next(p for p in map(piano_piece, range(1000)) if p.key == "D Major" and 1 < p.bar_seconds < 2)
    tonic = synthetic.LOWEST_TONIC + 2
    prompt = [372, 60]
    continued = [*prompt, 355, 255 + round(100 * piece.bar_seconds) - 99, tonic + 7, 305, tonic, tonic + 15]
    score = synthetic.score([piece], [prompt], [continued])
    assert score == synthetic.Score(key=2 / 3, metre=1 / 2, num_notes=3, num_bass_notes=2)
    assert synthetic.score([piece], [prompt], [prompt]) == synthetic.Score(0.0, 0.0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_pieces_themselves_have_full_scores(seed: int) -> None:
    piece = piano_piece(seed)
    prompt, ids = encode_midi(synthetic.first_half(piece)), encode_midi(piece.midi)
    assert ids[: len(prompt)] == prompt and len(ids) / 4 < len(prompt) < len(ids) * 3 / 4
    score = synthetic.score([piece], [prompt], [ids])
    assert (score.key, score.metre) == (1.0, 1.0) and score.num_notes > score.num_bass_notes > 3


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)
    monkeypatch.setattr(synthetic, "NUM_NEW", 8)
    scores = synthetic.main([f"--output_dir={tmp_path}", "--max_steps=2", "--num_pieces=4", "--num_held_out=2"])
    assert scores["the pieces themselves"][:2] == (1.0, 1.0)
    output = capsys.readouterr().out
    assert "Perceiver AR before training" in output and "Markov chain of order 3" in output
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), symbolic.PerceiverSymbolicAudioModel)
    assert (tmp_path / "continuations.png").stat().st_size > 0


@pytest.mark.slow
def test_continuations_stay_in_key_and_metre(tmp_path: Path) -> None:
    """After half of the training; docs/symbolic-audio.md has the figures for all of it."""
    scores = synthetic.main([f"--output_dir={tmp_path}", "--max_steps=1500"])
    model, chain, untrained, _ = scores.values()
    for baseline in (chain, untrained):
        assert model.key > baseline.key + 0.25 and model.metre > baseline.metre + 0.2
    assert min(score.num_bass_notes for score in scores.values()) > 200
