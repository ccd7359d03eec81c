"""Learning-rate schedules: recorded curves of the published ones, our deviation, restoring and bad arguments."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from perceiver.scripts import lrs
from perceiver.scripts.lrs import ConstantWithWarmupLR, CosineWithWarmupLR, WarmupStableDecayLR

# From compat/pieces: what the published schedules gave before each of 30 steps.
CURVES = json.loads((Path(__file__).parent / "lr_curves.json").read_text())


def sgd(*base_lrs: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base_lrs])


def rates(scheduler: LRScheduler, steps: int) -> list[float]:
    """The first parameter group's learning rate before each of `steps` steps."""
    result = []
    for _ in range(steps):
        result.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return result


def length(curve: dict[str, Any]) -> int:
    """Number of recorded values before the published cosine rises again; all for a constant."""
    if curve["class"] == "ConstantWithWarmupLR":
        return len(curve["lr_before_step"])
    steps = curve.get("training_steps_set_after_construction", curve["kwargs"].get("training_steps"))
    return steps + 1 if steps else curve["kwargs"]["warmup_steps"] + 1


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: f"{c['class']}-{c['kwargs']}")
def test_recorded_curves(curve: dict[str, Any]) -> None:
    scheduler = getattr(lrs, curve["class"])(sgd(curve["base_lr"]), **curve["kwargs"])
    if "training_steps_set_after_construction" in curve:
        scheduler.training_steps = curve["training_steps_set_after_construction"]
    expected = curve["lr_before_step"][: length(curve)]
    # the step after the last value may be one for which no length is known
    actual = [*rates(scheduler, len(expected) - 1), scheduler.optimizer.param_groups[0]["lr"]]
    assert actual == pytest.approx(expected, abs=1e-12)


def test_cosine_stays_at_its_end() -> None:
    assert rates(CosineWithWarmupLR(sgd(0.5), 12, 3, min_fraction=0.25), 40)[12:] == pytest.approx([0.125] * 28)
    assert rates(CosineWithWarmupLR(sgd(0.5), 12, 3, num_cycles=1.0), 40)[12:] == pytest.approx([0.5] * 28)


def test_stable_rate_decays_at_the_end() -> None:
    """Warm-up over 4 steps, 10 more, of which the last 4 decay from 0.5 to a tenth of it."""
    schedule = WarmupStableDecayLR(sgd(0.5), training_steps=14, warmup_steps=4, decay=0.4, min_fraction=0.1)
    warmup, decay = [0.0, 0.125, 0.25, 0.375], [0.3875, 0.275, 0.1625]
    assert rates(schedule, 20) == pytest.approx([*warmup, *[0.5] * 7, *decay, *[0.05] * 6])
    assert rates(WarmupStableDecayLR(sgd(2.0), training_steps=4, decay=1.0), 5) == pytest.approx([2, 1.5, 1, 0.5, 0])


def test_every_parameter_group_is_scaled() -> None:
    optimizer = sgd(0.5, 2.0)
    rates(ConstantWithWarmupLR(optimizer, warmup_steps=4), 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.375, 1.5])


@pytest.mark.parametrize("at", [2, 7, 15])
def test_restored_schedule_continues_the_curve(at: int) -> None:
    kwargs = {"training_steps": 12, "warmup_steps": 5, "min_fraction": 0.1}
    expected = rates(CosineWithWarmupLR(sgd(0.5), **kwargs), 20)
    first = CosineWithWarmupLR(sgd(0.5), **kwargs)
    assert rates(first, at) == expected[:at]

    second = CosineWithWarmupLR(sgd(0.5))  # the state has the arguments, too
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert rates(second, 20 - at) == expected[at:]


def test_resumed_with_more_steps_follows_the_new_length() -> None:
    first = CosineWithWarmupLR(sgd(0.5), training_steps=4)
    rates(first, 4)
    second = CosineWithWarmupLR(sgd(0.5), training_steps=8)
    second.load_state_dict(first.state_dict())
    second.optimizer.step()
    second.step()  # step 5 of 8
    assert second.get_last_lr() == pytest.approx(rates(CosineWithWarmupLR(sgd(0.5), training_steps=8), 6)[5:])


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ConstantWithWarmupLR", {"warmup_steps": -1}, "warmup_steps=-1 must not be negative"),
        ("CosineWithWarmupLR", {"warmup_steps": -2}, "warmup_steps=-2 must not be negative"),
        ("CosineWithWarmupLR", {"training_steps": -3}, "training_steps=-3 must not be negative"),
        ("CosineWithWarmupLR", {"training_steps": 5, "warmup_steps": 5}, "training_steps=5 .* warmup_steps=5"),
        ("WarmupStableDecayLR", {"decay": 0.0}, r"decay=0.0 must be in \(0, 1\]"),
        ("WarmupStableDecayLR", {"training_steps": 2, "warmup_steps": 2}, "training_steps=2 .* warmup_steps=2"),
        ("CosineWithWarmupLR", {"num_cycles": 0.0}, r"num_cycles=0.0 must be positive"),
        ("CosineWithWarmupLR", {"min_fraction": 1.5}, r"min_fraction=1.5 must be in \[0, 1\]"),
    ],
)
def test_bad_arguments(name: str, kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(lrs, name)(sgd(0.5), **kwargs)


def test_unknown_length_is_an_error_after_the_warmup() -> None:
    scheduler = CosineWithWarmupLR(sgd(0.5), warmup_steps=2)
    with pytest.raises(ValueError, match=r"step 3 is after the warm-up, but training_steps=0"):
        rates(scheduler, 3)
