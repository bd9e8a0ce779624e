"""How many batches an objective was trained on: the state of objectives whose first steps differ from the later ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coalign.training.objective import ScoredBatch


@dataclass
class BatchCount:
    """See `coalign.training.objective.ObjectiveState`.

    Attributes:
        seen: training batches (forward passes of this process), the present one included.
    """

    seen: int = 0

    def update(self, batch: ScoredBatch, constants: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, float]:
        return {"seen": self.seen}

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        self.seen = int(values["seen"])
