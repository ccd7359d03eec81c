"""The learning benchmark: its tasks are what they say, its models see no more than they may, its tables add up."""

import json
import re
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learning import caches, lengths, report, run, tasks
from benchmarks.learning.classifiers import BiXTLearner, Encoder, PerceiverIOLearner, PointNet
from benchmarks.learning.counters import Boosting, NGram
from benchmarks.learning.models import LEARNERS, Decoder, PerceiverARLearner, models_of

SMALL: dict[str, Callable[[], tasks.Task]] = {
    "copy": lambda: tasks.copy(48),
    "recall": lambda: tasks.recall(num_pairs=5, num_symbols=7),
    "passkey": lambda: tasks.passkey(seq_len=80),
    "pydoc": lambda: tasks.pydoc(seq_len=48, num_latents=12),
    "digits": tasks.digits,
    "mnist1d": lambda: tasks.mnist1d(num_train=50, num_test=10),
    "points": lambda: tasks.points(num_train=30, num_test=20, num_points=40),
    "listops": lambda: tasks.listops(num_train=30, num_test=20, max_len=48),
}
each_task = pytest.mark.parametrize("name", SMALL)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@each_task
def test_batches_are_drawn_from_the_seed_and_the_test_is_always_the_same(name: str) -> None:
    task = SMALL[name]()
    for one, other in zip(task.batch(generator()), task.batch(generator()), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(task.test(), SMALL[name]().test(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(task.batch(generator())[0], task.batch(generator().manual_seed(1))[0])


@pytest.mark.parametrize("name", ["copy", "recall", "passkey", "pydoc"])
def test_a_label_is_the_next_token(name: str) -> None:
    task = SMALL[name]()
    assert isinstance(task, tasks.NextTokens)
    x, labels = task.batch(generator())
    asked = labels[:, :-1] != -100
    assert asked.any() and torch.equal(x[:, 1:][asked], labels[:, :-1][asked])
    assert (task.test()[1][:, : -task.num_scored] == -100).all()
    assert task.num_scored % task.num_latents == 0


def test_recall_asks_for_the_value_of_each_key_once() -> None:
    x, labels = tasks.recall(num_pairs=5, num_symbols=7).batch(generator())
    pairs = {(int(key), int(value)) for key, value in x[3, :10].view(5, 2)}
    assert pairs == {(int(x[3, i]), int(labels[3, i])) for i in range(10, 20, 2)}
    assert len({key for key, _ in pairs}) == 5 and (labels[:, 11::2] == -100).all()


def test_recall_among_other_tokens() -> None:
    task = tasks.recall(num_pairs=5, num_symbols=7, num_others=13)
    x, labels = task.batch(generator())
    assert x.shape == (16, 5 * 2 + 13 + 5 * 2) == (16, task.seq_len) and int(x.max()) < task.vocab_size == 21
    places = set()
    for tokens, wanted in zip(x.tolist(), labels.tolist(), strict=True):
        keys = [i for i in range(23) if tokens[i] < 7]
        value_of = {tokens[i]: tokens[i + 1] for i in keys}
        assert len(value_of) == 5 and sum(7 <= token < 14 for token in tokens[:23]) == 5
        assert [value_of[key] for key in tokens[23::2]] == tokens[24::2] == wanted[23::2]
        assert set(wanted[:23] + wanted[24::2]) == {-100}
        places.update(keys)
    assert places == set(range(22))


def test_passkey_asks_for_the_five_digits_after_the_mark() -> None:
    x, labels = tasks.passkey(seq_len=80).batch(generator())
    for tokens, wanted in zip(x, labels, strict=True):
        (mark,) = (tokens == 10).nonzero()[:, 0].tolist()
        assert mark + 5 < 48 and torch.equal(tokens[mark + 1 : mark + 6], wanted[-5:])


def test_listops_values_are_those_of_the_expressions() -> None:
    names = {11: "max", 12: "min", 13: "median", 14: "total"}

    def value(tokens: list[int]) -> int:
        """The expression as Python's."""
        source = "".join(
            f"{names[t]}([" if t in names else "])," if t == tasks.CLOSE else f"{t - 1}," for t in tokens if t
        )
        scope = {
            "median": lambda v: int((sorted(v)[(len(v) - 1) // 2] + sorted(v)[len(v) // 2]) / 2),
            "total": lambda v: sum(v) % 10,
        }
        return int(eval(source.rstrip(","), scope))

    task = SMALL["listops"]()
    assert isinstance(task, tasks.Classification)
    assert [value(tokens) for tokens in task.x.tolist()] == task.y.tolist()
    assert (task.x > 0).sum(dim=1).min() >= 12 and len(set(task.y.tolist())) > 3


sequence_models = [name for name in models_of(tasks.recall()) if name in LEARNERS]


@pytest.mark.parametrize("model", sequence_models)
def test_no_model_sees_what_it_predicts(model: str) -> None:
    task = tasks.copy(32)
    torch.manual_seed(0)
    learner = LEARNERS[model](task)
    x, _ = task.test()
    changed = x[:3].clone()
    changed[:, 21:] = 1 + changed[:, 21:] % 256
    logits, others = learner.logits(x[:3]), learner.logits(changed)
    torch.testing.assert_close(logits[:, :5], others[:, :5])  # of positions 16 to 20
    assert (logits[:, 5] - others[:, 5]).abs().max() > 1e-3
    assert logits.shape == (3, task.num_scored, task.vocab_size)


@pytest.mark.parametrize("name, num_labels", [("copy", 2 * 16), ("pydoc", 2 * 512)])
def test_the_loss_of_blocks_is_that_of_all_labels(name: str, num_labels: int) -> None:
    task = tasks.copy(32) if name == "copy" else tasks.pydoc()
    torch.manual_seed(0)
    learner, (x, labels) = LEARNERS["perceiver-ar-blocks"](task), task.draw(2, torch.Generator().manual_seed(0), False)
    targets = labels[labels != -100]
    assert len(targets) == num_labels
    learner.num_scored = num_labels // 2
    logits = learner.logits(x).flatten(0, 1)
    torch.testing.assert_close(learner.loss(x, labels), torch.nn.functional.cross_entropy(logits, targets))
    assert "perceiver-ar-blocks" in models_of(task) and "perceiver-ar-blocks" not in models_of(tasks.recall())


@pytest.mark.parametrize("model", ["perceiver-ar", "perceiver-ar-2-reads"])
def test_reads_of_the_prefix(model: str) -> None:
    """Without its first read, only a model with a second one sees the prefix."""
    task = tasks.copy(32)
    torch.manual_seed(0)
    learner = LEARNERS[model](task)
    torch.nn.init.zeros_(learner.model.cross_attention.attention.attention.o_proj.weight)
    x, _ = task.test()
    changed = x.clone()
    changed[:, 1:16] = 1 + x[:, 1:16] % 256
    difference = (learner.logits(changed) - learner.logits(x)).abs()[:, : task.num_latents].max()
    assert difference < 1e-4 if model == "perceiver-ar" else difference > 1e-2


def test_models_of_a_table_have_about_the_same_number_of_parameters() -> None:
    for name, attention in [("recall", sequence_models)] + [
        (name, ["perceiver-io", "bixt", "bixt-16", "encoder", "cnn"]) for name in ("digits", "mnist1d")
    ]:
        task = SMALL[name]()
        counts = [sum(p.numel() for p in LEARNERS[model](task).parameters()) for model in attention]
        assert max(counts) < 1.25 * min(counts), (name, counts)


@pytest.mark.parametrize("model_class", [PerceiverIOLearner, BiXTLearner, Encoder, PointNet])
def test_the_order_of_points_does_not_matter(model_class: Callable[..., Any]) -> None:
    task = SMALL["points"]()
    torch.manual_seed(0)
    model, (x, _) = model_class(task), task.test()
    torch.testing.assert_close(model.logits(x.flip(1)), model.logits(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_class", [PerceiverIOLearner, BiXTLearner, Encoder])
def test_padding_does_not_matter(model_class: Callable[..., Any]) -> None:
    task = SMALL["listops"]()
    torch.manual_seed(0)
    model, (x, _) = model_class(task), task.test()
    length = int((x[1] > 0).sum())
    torch.testing.assert_close(model.logits(x)[1], model.logits(x[1:2, :length])[0], rtol=1e-3, atol=1e-4)


def test_ngram_looks_up_what_it_has_seen() -> None:
    task = tasks.recall(num_pairs=5, num_symbols=7)
    model = NGram(task)
    model.fit()
    x, labels = task.test()
    logits = model.logits(x)
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(x.shape[0], task.num_scored))
    assert run.score(task, logits, labels) > 95


def test_ngram_weighs_contexts_as_witten_and_bell() -> None:
    task = tasks.NextTokens(4, 3, 1, 1, "bits", lambda n, g, t: (torch.zeros(n, 3), torch.zeros(n, 3)))
    p = NGram(task, order=1).logits(torch.tensor([[0, 1, 0]])).exp()
    # Counts: 0 twice, 1 once; after 0: 1 once. Of 2 kinds in 3: (count + 2 / 4) / 5; of 1 kind in 1: (count + p) / 2
    unigram = torch.tensor([2.5, 1.5, 0.5, 0.5]) / 5
    torch.testing.assert_close(p[0, 0], (torch.tensor([0.0, 1.0, 0.0, 0.0]) + unigram) / 2)


def test_scores() -> None:
    task = tasks.recall(num_pairs=1, num_symbols=2)
    labels = torch.tensor([[-100, -100, 3, -100], [-100, -100, 2, -100]])
    logits = torch.zeros(2, 2, 4)
    logits[:, 0, 3] = 1.0
    assert run.score(task, logits, labels) == 50.0
    bits = run.score(tasks.replace(task, metric="bits"), torch.zeros(2, 2, 4), labels)
    assert bits == pytest.approx(2.0)


@each_task
def test_every_model_learns_a_little_and_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.TASKS, name, SMALL[name])
    monkeypatch.setattr(Boosting, "ROUNDS", 2)
    file = tmp_path / "runs.jsonl"
    arguments = [name, "--seeds=1", "--minutes=1e-6", f"--results={file}"]
    threads = torch.get_num_threads()
    run.main(arguments)
    runs = run.read(file)
    assert [r["model"] for r in runs] == models_of(SMALL[name]())
    assert all(len(r["curve"]) == 1 and r["curve"][0][0] in (0, 1) for r in runs)  # a step, or none
    before = file.read_text()
    with file.open("a") as unfinished:
        unfinished.write('{"task": ')
    assert run.read(file) == runs, "a line that was cut off is no run"
    run.main(arguments)
    assert file.read_text() == before, "runs that are there are not repeated, what was cut off is gone"
    torch.set_num_threads(threads)


def test_training_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself, on a clock that counts steps."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(run.time, "process_time", lambda: next(ticks))
    result = run.learn(tasks.digits(), "cnn", seed=0, seconds=60, lr=2e-3)
    steps, seconds, scores = zip(*result["curve"], strict=True)
    assert steps == (10, 18, 32, 56, 60) and seconds == steps
    assert scores[-1] > 80 and scores[-1] > scores[0]


def test_runs_in_turns_use_equal_time_and_are_what_each_is_alone() -> None:
    order: list[int] = []

    def steps(number: int, seconds: float) -> Generator[float, None, dict[str, Any]]:
        torch.manual_seed(number)
        drawn = []
        for i in range(4):
            order.append(number)
            drawn.append(torch.rand(()).item())
            yield (i + 1) * seconds
        return {"drawn": drawn}

    together = run.in_turns([steps(0, 1.0), steps(1, 2.5)])
    assert order == [0, 1, 0, 0, 1, 0, 1, 1]
    assert together == [run.in_turns([steps(0, 1.0)])[0], run.in_turns([steps(1, 2.5)])[0]]


def test_a_model_that_cannot_do_a_task_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cnn can't do recall: perceiver-ar, .*ngram can"):
        run.main(["recall", "--model", "cnn", f"--results={tmp_path / 'runs.jsonl'}"])


@pytest.mark.parametrize("flag", ["--seeds=0", "--minutes=-1", "--lr=nan"])
def test_a_run_without_seeds_time_or_rate_is_an_error(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["recall", flag])
    name, value = flag.split("=")
    assert f"{name}={value} must be positive" in capsys.readouterr().err.replace(".0 ", " ")


def fake(model: str, seed: int, curve: list[tuple[int, float, float]], minutes: float = 2.0) -> dict[str, Any]:
    key = {"task": "recall", "model": model, "seed": seed, "minutes": minutes, "lr": 0.002 if minutes else 0.0}
    return key | {"metric": "accuracy", "parameters": 12345, "curve": curve, "machine": "a machine"}


def test_tables_have_equal_time_and_equal_steps(tmp_path: Path) -> None:
    runs = [
        fake("ours", 0, [(10, 1.0, 20.0), (18, 2.0, 30.0), (25, 3.0, 50.0)]),
        fake("ours", 1, [(10, 1.0, 22.0), (18, 2.0, 32.0), (26, 3.0, 60.0)]),
        fake("plain", 0, [(10, 2.0, 40.0), (13, 3.0, 44.0)]),
        fake("plain", 0, [(10, 9.0, 70.0)], minutes=9.0),
        fake("lookup", 0, [(0, 4.0, 99.0)], minutes=0.0),
    ]
    text = report.tables(runs)
    assert "### recall, 2 minutes, learning rate 0.002" in text and "### recall, 9 minutes, " in text
    assert "accuracy in %, after equal time | steps | after 10 steps |" in text
    assert "| ours | 12,345 | 2 | 55.00 ± 7.07 | 26 | 21.00 ± 1.41 |" in text
    assert "| plain | 12,345 | 1 | 44.00 | 13 | 40.00 |" in text
    assert text.count("| lookup | 12,345 | 1 | 99.00 | 4 s in all |  |") == 2
    assert [path.name for path in report.curves(runs, tmp_path)] == [
        f"evidence-recall-{minutes}-0.002.svg" for minutes in (2, 9)
    ]
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_the_summary_marks_the_best_of_each_task() -> None:
    def last(task: str, model: str, *scores: float, **others: Any) -> list[dict[str, Any]]:
        return [fake(model, seed, [(9, 2.0, score)]) | {"task": task} | others for seed, score in enumerate(scores)]

    runs = [
        *last("recall", "decoder", 50.0, 60.0),
        *last("recall", "perceiver-ar", 54.999),
        *last("pydoc", "ngram", 1.5, metric="bits", minutes=0.0),
        *last("pydoc", "decoder", 2.5, metric="bits"),
        *last("digits", "cnn", 70.0),
    ]
    assert report.summary(runs).splitlines() == [
        "| task | minutes | seeds | perceiver-ar | decoder | ngram |",
        "|---|---|---|---|---|---|",
        "| recall | 2 | 1 to 2 | **55.00** | **55.00 ± 7.07** |  |",
        "| pydoc, bits | 2 | 1 |  | 2.50 | **1.50** |",
        "",
        "| task | minutes | seeds | cnn |",
        "|---|---|---|---|",
        "| digits | 2 | 1 | **70.00** |",
    ]


def test_pictures_of_runs_that_are_gone_go(tmp_path: Path) -> None:
    page, file, images = tmp_path / "page.md", tmp_path / "runs.jsonl", tmp_path / "images"
    page.write_text("<!-- summary -->\n<!-- end of summary -->\n<!-- tables -->\n<!-- end of tables -->\n")
    for task in ("recall", "passkey"):
        file.write_text(json.dumps(fake("decoder", 0, [(9, 2.0, 30.0)]) | {"task": task}) + "\n")
        report.main([f"--results={file}", f"--page={page}", f"--images={images}"])
    assert [path.name for path in images.iterdir()] == ["evidence-passkey-2-0.002.svg"]
    text = page.read_text()
    assert "| passkey |" in text and "### passkey" in text and "### recall" not in text
    assert "Without runs so far: `copy`, " in text and "`recall`, " in text and "`passkey`" not in text


def test_lengths_have_a_row_each_with_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 9, 99, 100, 102, 102, 105] * 2)  # a step to warm up, then 2 s of ours and 3 s of the other
    monkeypatch.setattr(lengths.time, "process_time", lambda: next(clock))
    *_, row = lengths.rows([70], positions=150, repeats=1)
    assert row == "| 70 x 2 | 2000 ms | 3000 ms | 1.50 | 2000 ms | 3000 ms | 1.50 |"


def test_the_page_without_its_comments_is_an_error() -> None:
    with pytest.raises(ValueError, match="<!-- tables -->"):
        report.with_tables("# Evidence\n<!-- summary -->\n<!-- end of summary -->\n", [])


def test_the_page_has_the_tables_of_the_runs() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    runs = run.read(run.RESULTS)
    assert report.with_tables(page, runs) == page, "run `python -m benchmarks.learning.report`"
    assert all(json.loads(json.dumps(r)) == r and r["curve"] for r in runs)


def test_what_is_recalled_from_a_cache_and_its_size() -> None:
    task = replace(SMALL["recall"](), num_latents=5, num_layers=3)
    torch.manual_seed(0)
    learner, (x, _) = PerceiverARLearner(task, token_shift=True), task.test()
    logits, size = caches.cached_logits(learner, x[:3])
    assert logits.shape == (3, task.num_scored, task.vocab_size)
    torch.testing.assert_close(logits[:, :5], learner.logits(x[:3])[:, :5], rtol=1e-4, atol=1e-4)
    # keys and values of 20 positions, those of 5 latents in two layers, and 5 tokens
    assert size == 20 * 2 * 64 + 2 * 5 * 2 * 64 + 5
    assert caches.decoder_size(Decoder(task), 20) == 3 * 20 * 2 * 64
    row = caches.row(task, "perceiver-ar-token-shift", 0, 0.01, 2e-3)
    assert re.fullmatch(
        r"perceiver-ar-token-shift seed 0: .* with its cache, .* 3,845 elements, 0.501 of the 7,680 .*", row
    )


@pytest.mark.parametrize("name, seq_len", [("recall-64", 256), ("recall-512", 512)])
def test_a_longer_recall_needs_a_fifth_of_a_decoder_s_cache(name: str, seq_len: int) -> None:
    task = tasks.TASKS[name]()
    assert isinstance(task, tasks.NextTokens) and task.seq_len == seq_len
    learner = PerceiverARLearner(task, token_shift=True)
    _, size = caches.cached_logits(learner, task.test()[0][:1])
    assert size <= caches.decoder_size(Decoder(task), task.seq_len) / 5
