"""Learning-rate schedules with linear warm-up, stepped once per optimizer step.

    ConstantWithWarmupLR   0 -> 1 over `warmup_steps`, then 1
    CosineWithWarmupLR     0 -> 1 over `warmup_steps`, then a cosine down to `min_fraction` at `training_steps`
    WarmupStableDecayLR    0 -> 1 over `warmup_steps`, then 1, and a line down to `min_fraction` at `training_steps`

Values are fractions of the optimizer's own learning rate. They depend on the step number alone, so a schedule that is
restored from its `state_dict` continues exactly where it was. Deviation from the published schedules: after
`training_steps` the cosine stays at `min_fraction`; the published one rose again.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class ConstantWithWarmupLR(LambdaLR):
    """Linear from 0 over `warmup_steps` optimizer steps, then constant.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        warmup_steps: Number of steps to the full learning rate, which step number `warmup_steps` has.
        last_epoch: Number of the last step; -1 starts anew.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0, last_epoch: int = -1) -> None:
        _check_not_negative(warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, lambda step: self.fraction(step), last_epoch)

    def fraction(self, step: int) -> float:
        """Share of the full learning rate that a step has."""
        return min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({"lr_lambdas": [], **state_dict})  # which states of our first versions lack


class DecayingLR(ConstantWithWarmupLR, ABC):
    """Base of the schedules that go down to `min_fraction` at the end of the training, and stay there.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        training_steps: The step at which the schedule ends, warm-up included. 0 means not known yet: set the attribute
            before training goes beyond the warm-up. The training scripts take it from the trainer.
        warmup_steps: Number of steps to the full learning rate, which step number `warmup_steps` has.
        min_fraction: Fraction of the learning rate at the end.
        last_epoch: Number of the last step; -1 starts anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        training_steps: int = 0,
        warmup_steps: int = 0,
        min_fraction: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        _check_not_negative(training_steps=training_steps)
        if 0 < training_steps <= warmup_steps:
            raise ValueError(f"training_steps={training_steps} must be larger than warmup_steps={warmup_steps}")
        if not 0 <= min_fraction <= 1:
            raise ValueError(f"min_fraction={min_fraction} must be in [0, 1]")
        self.training_steps = training_steps
        self.min_fraction = min_fraction
        super().__init__(optimizer, warmup_steps, last_epoch)

    @abstractmethod
    def height(self, progress: float) -> float:
        """Share of the way from `min_fraction` up to 1, by the share of the steps after the warm-up."""

    def fraction(self, step: int) -> float:
        if step <= self.warmup_steps:
            return super().fraction(step)
        if self.training_steps <= self.warmup_steps:
            raise ValueError(
                f"step {step} is after the warm-up, but training_steps={self.training_steps} is not larger than "
                f"warmup_steps={self.warmup_steps}: set training_steps to the length of the training"
            )
        progress = (step - self.warmup_steps) / (self.training_steps - self.warmup_steps)
        return self.min_fraction + (1 - self.min_fraction) * self.height(min(progress, 1.0))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, except a `training_steps` that is already set: a run may be resumed with more steps."""
        training_steps = self.training_steps
        super().load_state_dict(state_dict)
        self.training_steps = training_steps or self.training_steps


class CosineWithWarmupLR(DecayingLR):
    """Linear from 0 over `warmup_steps` optimizer steps, then a cosine that reaches its end at `training_steps`.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        training_steps: The step at which the cosine ends, warm-up included. 0 means not known yet: set the attribute
            before training goes beyond the warm-up. The training scripts take it from the trainer.
        warmup_steps: Number of steps to the full learning rate, which step number `warmup_steps` has.
        num_cycles: Number of cosine waves. 0.5 ends at `min_fraction`, 1.0 is back at the full learning rate.
        min_fraction: Fraction of the learning rate at the bottom of the wave.
        last_epoch: Number of the last step; -1 starts anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        training_steps: int = 0,
        warmup_steps: int = 0,
        num_cycles: float = 0.5,
        min_fraction: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if num_cycles <= 0:
            raise ValueError(f"num_cycles={num_cycles} must be positive")
        self.num_cycles = num_cycles
        super().__init__(optimizer, training_steps, warmup_steps, min_fraction, last_epoch)

    def height(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(2 * math.pi * self.num_cycles * progress))


class WarmupStableDecayLR(DecayingLR):
    """Linear from 0 over `warmup_steps` optimizer steps, constant, and linear to its end at `training_steps`.

    As in MiniCPM (arXiv 2404.06395, section 4.2), with a line for its exponential. A training that is to go on longer
    starts again from a checkpoint before the decay, with more `training_steps`.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        training_steps: The step at which the decay ends, warm-up included. 0 means not known yet: set the attribute
            before training goes beyond the warm-up. The training scripts take it from the trainer.
        warmup_steps: Number of steps to the full learning rate, which step number `warmup_steps` has.
        decay: Share of the steps after the warm-up in which the learning rate goes down, the last ones.
        min_fraction: Fraction of the learning rate at the end.
        last_epoch: Number of the last step; -1 starts anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        training_steps: int = 0,
        warmup_steps: int = 0,
        decay: float = 0.2,
        min_fraction: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay} must be in (0, 1]")
        self.decay = decay
        super().__init__(optimizer, training_steps, warmup_steps, min_fraction, last_epoch)

    def height(self, progress: float) -> float:
        return min(1.0, (1.0 - progress) / self.decay)


def _check_not_negative(**steps: int) -> None:
    for name, value in steps.items():
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative")
