"""The learning benchmark of long contexts: its texts, its decoder with a short context, and what it records when."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learning import corpora, lengths, long, run
from benchmarks.learning.models import LEARNERS, Decoder, ShortDecoder
from benchmarks.learning.tasks import NextTokens

TEXTS = [bytes([i]) * 50 for i in range(20)]


def small() -> NextTokens:
    return long.python_text(TEXTS, seq_len=32, num_latents=8)


def test_every_tenth_text_is_for_the_test_alone() -> None:
    task = small()
    assert task.text is not None and set(task.text.tolist()) == {*range(20), 10} - {9, 19}
    assert set(task.test()[0].unique().tolist()) == {9, 10, 19}  # 10: the line feed between two texts
    assert task.batch(torch.Generator())[0].shape == (1, 32) and task.test()[0].shape == (16, 32)


def test_texts_are_help_topics_and_modules() -> None:
    texts = corpora.python_texts()
    assert len(texts) > 200 and texts[0].startswith(b'The "assert" statement') and b"import" in texts[-1]
    assert texts == corpora.python_texts()


def test_the_short_decoder_has_the_loss_of_its_windows_and_the_last_context() -> None:
    task = small()
    torch.manual_seed(0)
    model = ShortDecoder(task, 16, is_cut=True)
    x, labels = task.batch(torch.Generator().manual_seed(0))
    plain = Decoder(long.replace(task, seq_len=16))
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        model.loss(x, labels), (plain.loss(x[:, :16], labels[:, :16]) + plain.loss(x[:, 16:], labels[:, 16:])) / 2
    )
    model.is_cut = False
    torch.testing.assert_close(model.loss(x, labels), plain.loss(x[:, 16:], labels[:, 16:]))
    assert model.logits(x).shape == (1, 8, 256)
    torch.testing.assert_close(model.logits(x), plain.logits(x[:, 16:]))


@pytest.mark.parametrize("flag", ["--seeds=0", "--minutes=-1", "--lr=nan"])
def test_what_must_be_positive(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        long.main([flag])
    assert "--minutes, --seeds and --lr must be positive" in capsys.readouterr().err


def test_what_was_learnt_is_recorded_after_each_time_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(run.time, "process_time", lambda: next(ticks))  # a step takes a second
    monkeypatch.setattr(long.corpora, "python_texts", lambda: [b"abcd" * 20] * 20)
    monkeypatch.setattr(long, "python_text", partial(long.python_text, seq_len=32, num_latents=8))
    for name in [name for name in long.MODELS if "1024" in name]:
        monkeypatch.setitem(LEARNERS, name, partial(LEARNERS[name], seq_len=16))
    threads, file = torch.get_num_threads(), tmp_path / "long.jsonl"
    long.main(["--minutes", "0.1", "0.05", "--model", *long.MODELS, "ngram", f"--results={file}"])
    runs = run.read(file)
    assert sorted((r["model"], r["minutes"]) for r in runs) == sorted(
        [("ngram", 0.0), *((name, minutes) for name in long.MODELS for minutes in (0.05, 0.1))]
    )
    points = {(r["model"], r["minutes"]): r["curve"][-1] for r in runs}
    assert points["decoder", 0.05][:2] == [3, 3.0] and points["perceiver-ar", 0.1][:2] == [6, 6.0]
    assert points["decoder", 0.1][2] < points["decoder", 0.05][2] < 8
    before = file.read_text()
    long.main(["--minutes", "0.05", "0.1", f"--results={file}"])
    assert file.read_text() == before
    torch.set_num_threads(threads)


def test_what_steps_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 9, 99, 99, 199, 200, 202, 202, 205, 205, 215])  # a step to warm up, then 2, 3 and 10 s
    monkeypatch.setattr(lengths.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(long, "python_text", partial(long.python_text, num_latents=8))
    *_, row = long.step_rows(TEXTS, [24])
    assert row == "| 24 | 2.00 s, 4 | 3.00 s, 8 | 10.00 s, 2 |"


def test_the_table_has_a_row_of_each_model() -> None:
    def result(model: str, seed: int, minutes: float, *point: float) -> dict[str, Any]:
        key = {"model": model, "seed": seed, "minutes": minutes, "parameters": 12345}
        return key | {"tokens_per_step": long.tokens_per_step(model, small()), "curve": [point]}

    results = [
        result("decoder", 0, 1.0, 10, 60.0, 5.0),
        result("decoder", 1, 1.0, 12, 60.0, 6.0),
        result("perceiver-ar", 0, 1.0, 90, 60.0, 4.0),
        result("perceiver-ar", 0, 2.0, 195, 120.0, 3.5),
        result("ngram", 0, 0.0, 0, 9.0, 1.5),
    ]
    assert list(long.rows(results)) == [
        "| model | parameters | 1 min | 2 min | steps | predicted tokens per second |",
        "|---|---|---|---|---|---|",
        "| perceiver-ar | 12,345 | 4.00 | 3.50 | 195 | 13 |",
        "| decoder | 12,345 | 5.50 ± 0.71 |  | 11 | 6 |",
        "| ngram | 12,345 | 1.50 | 1.50 | 0 | 0 |",
    ]


def test_the_page_has_the_table_of_the_runs() -> None:
    table = "\n".join(long.rows(run.read(long.RESULTS)))
    assert f"\n{table}\n" in (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
