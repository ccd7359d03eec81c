"""The copy task of Perceiver AR: `examples/training/copy/train.py`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig
from tests.examples.scripts import load

copy_task = load("training/copy/train.py")
SMALL = "--seq_len=26 --num_latents=5 --num_channels=12 --num_heads=3 --num_layers=1 --batch_size=7".split()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class PerfectCopy:
    """Predicts what the copied position was followed by, and remembers how long the sequences were."""

    def __init__(self, seq_len: int):
        self.seq_len = seq_len
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, prefix_len: int) -> Tensor:
        self.calls.append((x.shape[1], prefix_len))
        latents = torch.arange(prefix_len, x.shape[1])
        copied = x[:, latents + 1 - self.seq_len // 2]
        return nn.functional.one_hot(copied, copy_task.VOCAB_SIZE).float() * 30.0


def test_second_half_repeats_the_first() -> None:
    labels, x = copy_task.sequences(3, 22, generator())
    assert labels.shape == x.shape == (3, 22)
    assert (x[:, 0] == copy_task.BOS).all() and x[:, 1:].max() < copy_task.BOS
    assert torch.equal(labels[:, :-1], x[:, 1:])
    assert torch.equal(labels[:, 11:], x[:, 1:12]), "targets of the second half are the bytes of the first"


def test_windows_lie_anywhere_in_the_second_half() -> None:
    draw = generator()
    ends = {copy_task.random_end(22, 4, draw) for _ in range(500)}
    assert ends == set(range(15, 23))  # positions 11 to 14 first, 18 to 21 last


@pytest.mark.parametrize("num_latents", [3, 4, 11], ids=["with a short block", "without", "one block"])
def test_evaluation_scores_each_position_of_the_second_half_once(num_latents: int) -> None:
    labels, x = copy_task.sequences(5, 22 if num_latents != 4 else 24, generator())
    model = PerfectCopy(x.shape[1])
    score = copy_task.evaluate(model, labels, x, num_latents)
    assert score.accuracy == 1.0 and score.loss < 1e-6
    assert score.num_positions == 5 * x.shape[1] // 2
    assert all(end - prefix_len == num_latents for end, prefix_len in model.calls)
    assert model.calls[-1][0] == x.shape[1]


def test_evaluation_counts_each_mistake_once() -> None:
    labels, x = copy_task.sequences(5, 22, generator())
    labels = labels.clone()
    labels[2, [11, 13, 14, 21]] = copy_task.BOS  # never predicted
    score = copy_task.evaluate(PerfectCopy(22), labels, x, 3)
    assert score.accuracy == 1 - 4 / 55
    assert score.loss == pytest.approx(4 * 30 / 55, abs=1e-4)


def test_evaluation_of_a_model_that_knows_nothing() -> None:
    labels, x = copy_task.sequences(5, 22, generator())
    score = copy_task.evaluate(lambda x, m: torch.zeros(len(x), x.shape[1] - m, copy_task.VOCAB_SIZE), labels, x, 3)
    assert score.loss == pytest.approx(torch.tensor(257.0).log().item(), abs=1e-5)
    assert score.accuracy < 0.1


def test_script_reduces_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The bytes of the second half are those of the first: that alone makes some more probable than others.
    file = tmp_path / "model.safetensors"
    score = copy_task.main([*SMALL, "--max_steps=60", "--eval_every=30", "--warmup_steps=5", f"--save={file}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("26 positions, 5 latents, seed 0")
    first, last = (float(line.split("loss ")[1].split()[0]) for line in lines[1:])
    assert last < first and score.loss < first
    assert all("tokens/s" in line and " MB" in line for line in lines[1:])
    assert file.stat().st_size > 0


def test_a_curriculum_keeps_what_is_copied_and_others_at_random() -> None:
    kept = copy_task.kept_positions(26, 21, 5, 4, generator())
    assert {4, 5, 6, 7, 8} <= set(kept.tolist()) <= set(range(16))  # position 16 predicts what position 4 holds
    assert 5 < len(kept) <= 9 and kept.tolist() == sorted(kept.tolist())
    copied = copy_task.kept_positions(26, 26, 5, 0, generator())
    labels, x = copy_task.sequences(3, 26, generator())
    assert torch.equal(x[:, copied], labels[:, -5:]), "what these positions hold is what the latents predict"


def test_a_curriculum_of_all_positions_is_the_models_loss() -> None:
    torch.manual_seed(0)
    model = CausalSequenceModel(
        CausalSequenceModelConfig(
            vocab_size=copy_task.VOCAB_SIZE, max_seq_len=26, max_latents=5, num_channels=12, num_heads=3
        )
    ).eval()
    labels, x = copy_task.sequences(3, 26, generator())
    loss = copy_task.loss_of(model, labels, x, torch.arange(21))
    torch.testing.assert_close(loss, model.loss(labels, x))
    fewer = copy_task.loss_of(model, labels, x, torch.arange(1, 21))
    assert abs(fewer - loss).item() > 1e-6


def test_script_takes_up_the_whole_prefix_when_it_can_copy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(copy_task, "LEARNT", 100.0)  # always
    copy_task.main([*SMALL, "--max_steps=30", "--eval_every=15", "--curriculum=6", "--bfloat16"])
    first, last = capsys.readouterr().out.splitlines()[1:]
    assert first.endswith("12 others") and last.endswith(" s")  # after 10 steps 12, after 20 steps 24, after 30 all 26


def test_script_ends_when_its_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    copy_task.main([*SMALL, "--max_steps=9", "--max_seconds=0"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("step      1 ")


def test_script_saves_nothing_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_task.main([*SMALL, "--max_steps=2"])
    assert list(tmp_path.iterdir()) == []


def test_activation_checkpointing_changes_nothing() -> None:
    plain = copy_task.main([*SMALL, "--max_steps=4"])
    checkpointing = copy_task.main([*SMALL, "--max_steps=4", "--activation_checkpointing"])
    assert checkpointing.loss == pytest.approx(plain.loss, rel=1e-5)


@pytest.mark.parametrize("size", [["--seq_len=21"], ["--seq_len=22", "--num_latents=12"], ["--num_latents=0"]])
def test_script_refuses_sizes_that_make_no_copy_task(size: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        copy_task.main(size)
    assert "--seq_len must be even and --num_latents at most half of it" in capsys.readouterr().err


@pytest.mark.slow
def test_learns_to_copy() -> None:
    """512 positions, 64 latents: the prefix and the second half are both longer than the latents."""
    assert copy_task.main(["--target_accuracy=0.995"]).accuracy > 0.99
