"""The demo of the causal language model: `examples/demo/clm.py`."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from perceiver.data.text import pydoc
from perceiver.model.text import clm
from tests.examples.scripts import load

demo = load("demo/clm.py")

TOPICS = {
    name: f'"{name}" statements\n\n' + f"The {name} statement is a simple statement.\n" * 9 for name in "abcdefgh"
}


def test_ngram_probabilities_sum_to_one() -> None:
    ngram = demo.NGram("".join(TOPICS.values()).encode(), order=4)
    for context in (b"", b"a", b"The", b"zzz", b" is"):
        assert sum(ngram.probability(byte, context) for byte in range(256)) == pytest.approx(1.0)


def test_ngram_by_hand() -> None:
    # "abab": b follows a twice, a follows b once; both follow one kind of byte. Small counts of counts
    # count as 1: discounts are 1 - 2/3, 2 - 3/3 and 3 - 4/3, the least of them 0.05.
    ngram = demo.NGram(b"abab", order=2)
    assert ngram.counts[1] == {b"a": {98: 2}, b"b": {97: 1}}
    assert ngram.counts[0] == {b"": {97: 1, 98: 1}}
    assert ngram.discounts[1] == pytest.approx((0.0, 1 / 3, 1.0, 5 / 3))
    n1, n2 = 2, 1  # of the counts without context
    discount = 1 - 2 * (n1 / (n1 + 2 * n2)) * n2 / n1
    without_context = (1 - discount + 2 * discount / 256) / 2
    assert ngram.probability(ord("b"), b"") == pytest.approx(without_context)
    assert ngram.probability(ord("b"), b"a") == pytest.approx((2 - 1 + 1 * without_context) / 2)
    assert ngram.probability(ord("a"), b"a") == pytest.approx(without_context / 2)
    bits = -math.log2(ngram.probability(ord("b"), b"a")) - math.log2(ngram.probability(ord("a"), b"b"))
    assert ngram.bits(b"aba", first=1) == pytest.approx(bits)


def test_model_has_the_size_that_the_page_says() -> None:
    model = clm.CausalLanguageModel(demo.model_config(vocab_size=262))
    assert sum(p.numel() for p in model.parameters()) == 1_020_038


def test_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pydoc, "topics", TOPICS)
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)
    small = replace(demo.model_config(vocab_size=262), num_channels=16, num_self_attention_layers=1)
    monkeypatch.setattr(demo, "model_config", lambda vocab_size: small)
    demo.main([f"--output_dir={tmp_path}", "--max_steps=2"])
    output = capsys.readouterr().out
    assert output.split("-" * 80)[1].strip().startswith('"h" statements')
    (held_out,) = pydoc.split_topics()["test"]
    assert f"{len(held_out) - 1} held-out bytes, bits per byte:" in output
    assert "Perceiver AR  " in output and "5-gram model  " in output
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), clm.PerceiverCausalLanguageModel)
    assert (tmp_path / "loss.png").stat().st_size > 0
