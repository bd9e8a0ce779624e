"""What a consistency training optimises at a step: noise levels of the curriculum, the pair of outputs, their distance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from coalign.vision.consistency.losses import (
    Distance,
    Network,
    Preconditioning,
    consistency_losses,
    pseudo_huber,
)
from coalign.vision.consistency.schedules import (
    Curriculum,
    Noise,
    NoiseLevels,
    number_of_levels,
    teacher_decay,
)

if TYPE_CHECKING:
    from torch import Tensor

TeacherSchedule = Literal["levels", "constant"]


@dataclass(frozen=True, kw_only=True)
class ConsistencyObjective:
    """Consistency training; the defaults are those of improved consistency training (iCT, Table 1).

    Attributes:
        first, last: s0 and s1 of the curriculum.
        distance: between the two outputs, [B, ...] twice to [B].
        teacher: mu0, the decay of the teacher's moving average; 0 takes the student itself, without gradient.
        teacher_schedule: `levels`: the decay grows with the number of levels (`schedules.teacher_decay`); `constant`.
    """

    model: Preconditioning = field(default_factory=Preconditioning)
    noise: Noise = field(default_factory=Noise)
    curriculum: Curriculum = "doubling"
    first: int = 10
    last: int = 1280
    distance: Distance = pseudo_huber
    teacher: float = 0.0
    teacher_schedule: TeacherSchedule = "levels"

    def levels(self, step: int, steps: int) -> NoiseLevels:
        """The grid at step `step` of `steps`, from 0."""
        return self.noise.levels(number_of_levels(self.curriculum, step, steps, self.first, self.last))

    def decay(self, step: int, steps: int) -> float:
        """Decay of the teacher after step `step`."""
        if self.teacher_schedule == "constant":
            return self.teacher
        return teacher_decay(len(self.levels(step, steps).sigmas), self.first, self.teacher)

    def losses(
        self,
        student: Network,
        teacher: Network,
        data: Tensor,
        noise: Tensor,
        uniform: Tensor,
        *,
        step: int,
        steps: int,
    ) -> Tensor:
        """[B] weighted losses (`losses.consistency_losses`); a training takes their mean.

        Args:
            data, noise: [B, ...].
            uniform: [B] numbers in [0, 1), which choose the noise level of each sample.
        """
        levels = self.levels(step, steps)
        chosen = levels.place(uniform.cpu().double().numpy())
        lower, upper, weights = (
            torch.as_tensor(one[chosen], dtype=data.dtype).to(data.device)
            for one in (levels.sigmas[:-1], levels.sigmas[1:], levels.weights)
        )
        return consistency_losses(
            self.model, student, teacher, data, noise, lower, upper, weights, self.distance
        )
