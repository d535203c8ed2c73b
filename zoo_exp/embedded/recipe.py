"""How the embedded model is trained: stages, sizes, rates."""

import math
from dataclasses import dataclass, fields

from zoo_exp.errors import InvalidValueError

EPOCH = 100  # steps between two checkpoints


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Steps count optimiser steps; images are per step, over all processes."""

    seed: int = 0
    dense_steps: int = 1300
    frozen_steps: int = 1800
    joint_steps: int = 7400
    dense_images: int = 24
    images: int = 16
    text_length: int = 192
    questions: int = 30
    muon_lr: float = 5e-3
    adamw_lr: float = 2e-3
    tower_pace: float = 0.12  # the tower's rates in the joint stage, relative to the others'
    warmup: int = 100
    decay_share: float = 0.55  # last part of the joint stage over which the rates fall to zero
    dense_weight: float = 0.3
    align_weight: float = 0.5
    max_shift: int = 32

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise InvalidValueError(f"{field.name} is {value}: give a number that is not negative")
        if (self.dense_steps and not self.dense_images) or (
            self.steps > self.dense_steps and not self.images
        ):
            raise InvalidValueError(
                "a stage with steps needs images: give images and dense_images of 1 or more"
            )
        if self.steps % EPOCH:
            raise InvalidValueError(f"the stages have {self.steps} steps in all: give a multiple of {EPOCH}")

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.dense_steps + self.frozen_steps + self.joint_steps

    def stage(self, step: int) -> str:
        """Which stage a step belongs to."""
        if step < self.dense_steps:
            return "dense"
        return "frozen" if step < self.dense_steps + self.frozen_steps else "joint"

    def pace(self, step: int) -> float:
        """Learning rate relative to the base: warm-up at each of the first two stages, decay at the end."""
        start = self.dense_steps if self.stage(step) != "dense" else 0
        rise = min(1.0, (step - start + 1) / max(1, self.warmup))
        decay_steps = max(1, round(self.joint_steps * self.decay_share))
        return rise * min(1.0, (self.steps - step) / decay_steps)
