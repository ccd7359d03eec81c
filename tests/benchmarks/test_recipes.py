"""The benchmarks of recipes: a switch changes what it says and nothing else, tables compare what is equal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.learning import caches, latents, recipes_report, run, switches, tasks
from benchmarks.learning.classifiers import PerceiverIOLearner
from benchmarks.learning.models import PerceiverARLearner
from benchmarks.learning.switches import SWITCHES
from perceiver.model.core.layers import MLP
from perceiver.model.core.perceiver_io import init_parameters

RECALL = tasks.recall(num_pairs=5, num_symbols=7)


def changed(switch: str) -> PerceiverARLearner:
    torch.manual_seed(0)
    model = PerceiverARLearner(RECALL)
    SWITCHES[switch].change(model)
    return model.eval()


@pytest.mark.parametrize("switch", ["rmsnorm", "qk-norm", "swiglu", "grouped-keys"])
def test_a_changed_model_is_causal_and_has_gradients_everywhere(switch: str) -> None:
    model = changed(switch)
    x, labels = RECALL.test()
    other = x[:3].clone()
    other[:, 15:] = (other[:, 15:] + 1) % RECALL.vocab_size
    logits, others = model.logits(x[:3]), model.logits(other)
    torch.testing.assert_close(logits[:, :5], others[:, :5])
    assert (logits[:, 5] - others[:, 5]).abs().max() > 1e-3
    model.loss(x, labels).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_rmsnorm_leaves_no_other_norm() -> None:
    model = changed("rmsnorm")
    assert not any(isinstance(part, nn.LayerNorm) for part in model.modules())
    assert sum(isinstance(part, nn.RMSNorm) for part in model.modules()) == 10


def test_with_qk_norm_the_scale_of_queries_does_not_matter() -> None:
    model, (x, _) = changed("qk-norm"), RECALL.test()
    before = model.logits(x)
    for name, p in model.named_parameters():
        if "q_proj.0" in name:
            p.data *= 3
    torch.testing.assert_close(model.logits(x), before, rtol=1e-3, atol=1e-4)


def test_swiglu_computes_what_shazeer_writes_with_as_many_parameters() -> None:
    torch.manual_seed(0)
    plain = MLP(12, 4)
    mlp = switches.gated(plain)
    init_parameters(mlp, 0.3)
    count = [sum(p.numel() for p in part.parameters()) for part in (mlp, plain)]
    assert abs(count[0] - count[1]) < 0.03 * count[1]
    x = torch.randn(5, 12)
    values, gates = mlp[1](mlp[0](x)).chunk(2, dim=-1)
    torch.testing.assert_close(mlp(x), mlp[3](values * gates * gates.sigmoid()))


def test_grouped_keys_are_those_of_a_model_whose_heads_have_the_same() -> None:
    model, (x, _) = changed("grouped-keys"), RECALL.test()
    same = PerceiverARLearner(RECALL).eval()
    state = model.state_dict()
    for name in [name for name in state if "cross_attention" in name and ("k_proj" in name or "v_proj" in name)]:
        state[name] = state[name].repeat(4, 1)
    same.load_state_dict(state)
    torch.testing.assert_close(model.logits(x), same.logits(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="reads a prefix"):
        switches.grouped_keys(nn.Linear(2, 2))


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 is the first with Muon")


@needs_muon
def test_muon_takes_the_matrices_of_layers_and_adamw_all_else() -> None:
    model = changed("default")
    taken = [[id(p) for group in o.param_groups for p in group["params"]] for o in switches.muon(model, 0.01)]
    assert sorted(taken[0] + taken[1]) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("attention" in names[i] and "norm" not in names[i] for i in taken[0])
    assert {names[i].split(".")[-2] for i in taken[1]} >= {"txt_embedding", "pos_embedding", "q_norm"}
    assert len(taken[0]) == 4 * 6  # four projections and two of the MLP in each layer


def test_schedules() -> None:
    assert [switches.wsd(1000, p) for p in (0.0, 0.8, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0])
    assert [switches.cosine(1000, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
    assert switches.wsd(25, 0.0) == switches.cosine(25, 0.0) == run.constant(25, 0.5) == 0.5


@needs_muon
def test_switches_run_in_turns_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(switches.TASKS, "recall", lambda: RECALL)
    file = tmp_path / "switches.jsonl"
    threads = torch.get_num_threads()
    flags = ["--task", "recall", "--seeds=1", "--minutes=1e-6", f"--results={file}"]
    switches.main([*flags, "--switch", "default", "muon"])
    switches.main(flags)
    torch.set_num_threads(threads)
    runs = run.read(file)
    assert [r["switch"] for r in runs] == ["default", "muon", *(s for s in SWITCHES if s not in ("default", "muon"))]
    assert all(0 < r["curve"][-1][2] < 9 and r["curve"][-1][0] == 1 for r in runs)  # bits, after a step
    assert not switches.can_do("grouped-keys", "mnist1d")


@pytest.mark.parametrize("main", [switches.main, latents.main, lambda argv: caches.main(["recall", *argv])])
def test_a_run_without_time_is_an_error(main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--minutes=0"])
    assert "--minutes=0.0 must be positive" in capsys.readouterr().err


def test_a_table_compares_runs_of_the_same_seed() -> None:
    def fake(switch: str, seed: int, curve: list[tuple[int, float, float]]) -> dict[str, Any]:
        key = {"task": "pydoc", "model": "perceiver-ar", "switch": switch, "seed": seed, "minutes": 0.5, "lr": 0.002}
        return key | {"curve": curve, "machine": "a machine"}

    text = recipes_report.switches_table(
        [
            fake("default", 0, [(10, 1.0, 4.0), (15, 2.0, 2.0)]),
            fake("default", 1, [(10, 1.0, 5.0), (15, 2.0, 4.0)]),
            fake("muon", 0, [(10, 1.0, 3.0), (13, 2.0, 1.8)]),
            fake("muon", 1, [(10, 1.0, 5.0), (13, 2.0, 3.2)]),
            fake("wsd", 0, [(10, 1.0, 3.0), (14, 2.0, 1.5)]),
        ]
    )
    assert "bits after equal time | change | steps | bits after 10 steps" in text
    assert "| default | 2 | 3.00 ± 1.41 |  | 15 | 4.50 ± 0.71 |  |" in text
    assert "| muon | 2 | 2.50 ± 0.99 | -15.0 % ± 7.1 | 13 | 4.00 ± 1.41 | -12.5 % ± 17.7 |" in text
    assert "| wsd | 1 | 1.50 | -25.0 % | 14 |  |  |" in text


def test_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latents.TASKS, "mnist1d", lambda: tasks.mnist1d(num_train=20, num_test=10))
    file = tmp_path / "latents.jsonl"
    threads = torch.get_num_threads()
    for _ in range(2):  # the second time, all is there
        latents.main(["--task", "mnist1d", "--seeds=1", "--minutes=1e-6", f"--results={file}"])
    torch.set_num_threads(threads)
    runs = run.read(file)
    assert [r["trained with"] for r in runs] == ["32", "16", "8", "4", "nested"]
    assert all(list(r["accuracy"]) == list(r["ms"]) == ["32", "16", "8", "4"] for r in runs)
    runs = [
        r | {"ms": dict.fromkeys(r["ms"], 2.0), "accuracy": dict.fromkeys(r["ms"], 7.0 + len(r["trained with"]))}
        for r in runs
    ]
    table, picture = recipes_report.latents_table(runs), recipes_report.latents_curves(runs, tmp_path / "images")
    assert "| 8 | 2.0 ms | 8.00 | 13.00 | 9.00 |" in table and f"(images/{picture.name})" in table
    assert "a model trained for each number" in picture.read_text(encoding="utf-8")


def test_nested_training_uses_all_of_the_numbers() -> None:
    model = PerceiverIOLearner(tasks.mnist1d(num_train=20, num_test=10))
    used: list[int] = []
    provider = model.model.encoder.latent_provider
    provider.register_forward_hook(lambda module, inputs, output: used.append(output.shape[1]))
    latents.nested(model, seed=0)
    with torch.no_grad():
        for _ in range(12):
            model.loss(model.task.x[:2], model.task.y[:2])
    assert set(used) == {32, 16, 8, 4}


def test_the_page_has_the_tables_of_the_runs() -> None:
    page = recipes_report.PAGE.read_text(encoding="utf-8")
    runs = [run.read(path) for path in (switches.RESULTS, latents.RESULTS)]
    assert recipes_report.page_with(page, *runs) == page, "run `python -m benchmarks.learning.recipes_report`"
